"""What an op call asks of a chip: products, passes, reads, bytes, hops. A rule for each device operation.

`RULES` has the rule of every operation that a prediction knows. An operation without one is an error, never free.
Figures are those of the busiest core, because a kernel ends when its last core does; bytes of DRAM are the whole chip's.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from .call import TILE, Call, Operand
from .card import Card

PRODUCT_FLOPS = 2 * TILE**3
# Cores of a user's head in a decode's attention at most: the vendor's default, max_cores_per_head_batch.
MAX_CORES_A_HEAD = 16
# A tile has 64 lines of 32 bytes (16 numbers of bf16): ops that move rows within tiles address each of them.
LINES_A_ROW = 2


@dataclass(frozen=True)
class Work:
    """What one call asks of one device.

    Attributes:
        kind: the row of the table by kind that it belongs to.
        flops: multiplications and additions of all cores together, those of whole matrices only.
        products: products of two tiles on the busiest core, `passes` each (1 for LoFi to 4 for HiFi4). `streamed`: one
            operand stays in L1 and the other streams through, so that unpacking hides behind multiplying.
        vector: passes of a tile through the vector unit on the busiest core.
        dram_pages, dram_page_bytes: pages that the busiest core reads or writes one after the other, and their size.
        l1_pages, l1_page_bytes: the same of other cores' L1.
        lines: lines of 32 bytes that the busiest core moves, many at a time.
        dram_bytes: all bytes that the chip reads and writes in DRAM.
        banked: whether each bank is read by the core beside it; else the pages of a tensor lie over all banks in turn.
        readers: cores that read DRAM for the others; None: every core reads its own.
        wire_bytes: what crosses the busiest link of a collective. `hops`: neighbours that its first byte passes.
        ring: whether the wire is a ring's, used in both directions.
        paced: a name of `Rates` and how many times it adds to the compute of the busiest core.
        fixed: names of `Rates` whose times are added as they are, with how many times.
    """

    kind: str
    flops: float = 0
    products: float = 0
    passes: int = 4
    streamed: bool = False
    vector: float = 0
    dram_pages: float = 0
    dram_page_bytes: float = 0
    l1_pages: float = 0
    l1_page_bytes: float = 0
    lines: float = 0
    dram_bytes: float = 0
    banked: bool = False
    readers: int | None = None
    wire_bytes: float = 0
    hops: int = 0
    ring: bool = False
    paced: tuple[str, float] | None = None
    fixed: tuple[tuple[str, float], ...] = ()


def work_of(call: Call, card: Card) -> Work:
    """The work of a call on one device of `card`. Raises ValueError for an operation that has no rule."""
    if call.op not in RULES:
        raise ValueError(f"no cost is known for {call.name or call.op} ({call.op}); add its rule to prediction/work.py")
    return RULES[call.op](call, card)


# Matmuls


def _matmul(call: Call, card: Card) -> Work:
    """settings["program"] says how it is divided: dram_sharded, prefetched, mcast_2d, mcast_1d, height_sharded, reuse or
    minimal. See `MATMULS`."""
    a, b = call.inputs[:2]
    k, n = -(-b.shape[-2] // TILE), -(-b.shape[-1] // TILE)
    m = -(-a.rows // TILE)
    return replace(MATMULS[call.settings["program"]](call, card, m, k, n), flops=PRODUCT_FLOPS * m * k * n)


def _passes(call: Call) -> int:
    return {"LoFi": 1, "HiFi2": 2, "HiFi3": 3, "HiFi4": 4}[call.fidelity]


def _dram(*operands: Operand | None) -> int:
    """Bytes of those operands that lie in DRAM."""
    return sum(operand.bytes for operand in operands if operand is not None and operand.in_dram)


def _dram_sharded(call, card, m, k, n):
    """Each core beside a bank computes the columns that its bank holds, while it reads them."""
    banks = call.inputs[1].shards or card.speed.chip.dram_banks
    return Work(
        "matmul, DRAM-sharded", products=m * k * math.ceil(n / banks), passes=_passes(call), streamed=True,
        dram_bytes=_dram(*call.inputs), banked=True, fixed=(("matmul_start", 1),),
    )  # fmt: skip


def _prefetched(call, card, m, k, n):
    """The weight is in L1 before the op starts (the Galaxy's prefetcher), spread over a ring of cores."""
    return Work(
        "matmul, prefetched", products=m * k * math.ceil(n / call.cores), passes=_passes(call), streamed=True,
        fixed=(("matmul_start", 1),),
    )  # fmt: skip


def _mcast_2d(call, card, m, k, n):
    """Rows of tiles over the grid's rows, columns over its columns. One core of each row and column reads for the others.

    A batch that is not fused into the rows runs one after the other, and reads the weight again each time.
    """
    x, y = call.settings["grid"]
    batch = call.settings.get("batch", 1)
    m_core, n_core = math.ceil(m / batch / y), math.ceil(n / x)
    a, b, *_ = call.inputs
    return Work(
        "matmul, 2D", products=batch * m_core * k * n_core, passes=_passes(call),
        dram_bytes=_dram(a, *call.outputs) + batch * _dram(b), readers=x, fixed=(("matmul_start", 1),),
    )  # fmt: skip


def _mcast_1d(call, card, m, k, n):
    """Every core reads its own columns of the weight; the activations are multicast."""
    cores = call.cores or min(n, card.speed.cores)
    n_core = math.ceil(n / cores)
    return Work(
        "matmul, 1D", products=m * k * n_core, passes=_passes(call), dram_bytes=_dram(*call.inputs, *call.outputs),
        dram_pages=k * n_core, dram_page_bytes=call.inputs[1].page_bytes, fixed=(("matmul_start", 1),),
    )  # fmt: skip


def _height_sharded(call, card, m, k, n):
    """Every core has its own rows; one core reads the weight tile by tile and multicasts it, without overlap."""
    return Work(
        "matmul, height-sharded", products=math.ceil(m / call.cores) * k * n, passes=_passes(call), dram_bytes=_dram(*call.inputs),
        fixed=(("matmul_start", 1), ("multicast_tile", k * n)),
    )  # fmt: skip


def _reuse(call, card, m, k, n):
    """Small matrices, one after the other: each core waits for every tile it reads."""
    batch = math.prod(call.inputs[0].shape[:-2])
    outputs = math.ceil(m * n / call.cores)
    tiles = (m // batch * k + k * n) * batch / call.cores
    return Work(
        "matmul, batched", products=outputs * k, passes=_passes(call), dram_bytes=_dram(*call.inputs, *call.outputs),
        dram_pages=tiles, dram_page_bytes=call.inputs[0].page_bytes, fixed=(("matmul_start", 1),),
    )  # fmt: skip


def _minimal(call, card, m, k, n):
    """As `_mcast_2d`, but its readers wait for every tile: one column of readers for the weight."""
    x, y = call.settings["grid"]
    n_core = math.ceil(n / x)
    return Work(
        "matmul, minimal", products=math.ceil(m / y) * k * n_core, passes=_passes(call), dram_bytes=_dram(*call.inputs, *call.outputs),
        dram_pages=k * n_core / 2, dram_page_bytes=call.inputs[1].page_bytes, fixed=(("matmul_start", 1),),
    )  # fmt: skip


MATMULS: dict[str, Callable] = {
    "dram_sharded": _dram_sharded, "prefetched": _prefetched, "mcast_2d": _mcast_2d, "mcast_1d": _mcast_1d,
    "height_sharded": _height_sharded, "reuse": _reuse, "minimal": _minimal,
}  # fmt: skip


# Ops on tiles


# Passes of a tile through the vector unit; 1 for an op that only copies, adds or multiplies.
VECTOR_PASSES = {"SILU": 3, "EXP": 4, "GELU": 16}


def _tilewise(kind: str, passes: float = 1):
    """Each core takes its share of the tiles: reads, computes, writes one after the other where pages are interleaved."""

    def rule(call: Call, card: Card) -> Work:
        tensors = [tensor for tensor in call.inputs if tensor is not None and tensor.tiles > 1 or tensor is call.inputs[0]]
        largest = max(call.outputs + tuple(tensors), key=lambda tensor: tensor.tiles)
        cores = call.cores or _cores(largest, card)
        share = math.ceil(largest.tiles / cores)
        # The inputs' pages are asked for together, so that they cost one latency. Writes are waited for at the end only.
        places = [{"DRAM" if t.in_dram else "L1" for t in group if t.in_dram or t.shards is None} for group in (tensors, call.outputs)]
        dram, l1 = ((share * (place in places[0]) or share * (place in places[1])) + (place in places[1]) for place in ("DRAM", "L1"))
        vector = VECTOR_PASSES.get(call.settings.get("activation"), 0) + passes
        fixed = (("op_start", 1),) + ((("scalar_tile", 1),) if call.settings.get("scalar") else ())
        paced = ("erf_tile", share) if call.settings.get("activation") == "ERF" else None
        return Work(
            kind, vector=share * vector, paced=paced, dram_pages=dram, dram_page_bytes=largest.page_bytes, l1_pages=l1,
            l1_page_bytes=largest.page_bytes,
            dram_bytes=_dram(*tensors, *call.outputs), fixed=fixed,
        )  # fmt: skip

    return rule


def _only(operands: Callable[[Call], tuple], rule):
    """`rule` for an op that reads no more of its inputs than these operands have, such as a slice."""

    def of_part(call: Call, card: Card) -> Work:
        part = operands(call)
        return rule(replace(call, inputs=part, outputs=part), card)

    return of_part


def _cores(tensor: Operand, card: Card) -> int:
    """Cores that work on a tensor: those that hold its shards, else as many as it has tiles for."""
    return tensor.shards if tensor.shards and not tensor.in_dram else min(tensor.tiles, card.speed.cores)


def _norm(call: Call, card: Card) -> Work:
    """Sharded: each core reduces its columns, and sums go around the cores. Interleaved: a core takes whole rows of tiles,
    and reads them and the weight tile by tile."""
    x = call.inputs[0]
    width, rows = -(-x.shape[-1] // TILE), -(-x.rows // TILE)
    if x.shards:
        return Work("norm", vector=3 * math.ceil(width / x.shards), fixed=(("op_start", 1), ("sharded_norm", 1)))
    cores = call.cores or min(rows, card.speed.cores)
    weights = [weight for weight in call.inputs[1:] if weight is not None]
    share = math.ceil(rows / cores) * width
    pages = share + len(weights) * width
    return Work(
        "norm", vector=3 * share, dram_pages=pages if x.in_dram else 0, dram_page_bytes=x.page_bytes,
        l1_pages=0 if x.in_dram else pages, l1_page_bytes=x.page_bytes,
        dram_bytes=_dram(x, *call.outputs), fixed=(("op_start", 1),),
    )  # fmt: skip


def _softmax(call: Call, card: Card) -> Work:
    x = call.inputs[0]
    share = math.ceil(x.tiles / (call.cores or _cores(x, card)))
    return Work(
        "softmax", vector=24 * share, dram_pages=3 * share, dram_page_bytes=x.page_bytes, dram_bytes=_dram(x, *call.outputs),
        fixed=(("op_start", 1),),
    )  # fmt: skip


def _embedding(call: Call, card: Card) -> Work:
    """Each core reads its rows of the table one after the other and writes them. 32 rows go to one core if the result
    is tiled."""
    indices, table = call.inputs[:2]
    output = call.outputs[0]
    rows = math.prod((indices.logical or indices.shape))
    cores = call.cores or min(math.ceil(rows / TILE), card.speed.cores)
    share = math.ceil(rows / cores)
    row_bytes = table.shape[-1] * 2
    return Work(
        "embedding", dram_pages=share * (1 if output.tiled else 2), dram_page_bytes=row_bytes,
        vector=0 if not output.tiled else share / TILE * table.shape[-1] / TILE,
        dram_bytes=rows * row_bytes + _dram(output), fixed=(("op_start", 1),),
    )  # fmt: skip


def _tilize(call: Call, card: Card) -> Work:
    """Each core reads its part of every row, one after the other."""
    x, output = call.inputs[0], call.outputs[0]
    cores = call.cores or _cores(output, card)
    share = math.ceil(output.tiles / cores)
    rows = min(TILE, (x.logical or x.shape)[-2])
    return Work(
        "layout", dram_pages=rows * math.ceil(share / max(1, output.shape[-1] // TILE)) + share, dram_page_bytes=64 * share,
        vector=share, dram_bytes=_dram(x, output), fixed=(("op_start", 1),),
    )  # fmt: skip


def _untilize(call: Call, card: Card) -> Work:
    """A row of tiles goes to one core, at the rate that the vendor measured."""
    x = call.inputs[0]
    rows = -(-x.rows // TILE)
    share = math.ceil(rows / min(rows, card.speed.cores)) * (x.shape[-1] // TILE)
    return Work("layout", dram_bytes=_dram(x, *call.outputs), fixed=(("op_start", 1), ("untilize_tile", share)))


def _rows_moved(kind: str, waits: bool):
    """Rows within tiles change place: every line of 32 bytes is moved by itself. `waits`: one after the other."""

    def rule(call: Call, card: Card) -> Work:
        output = call.outputs[0]
        shape = output.logical or output.shape
        cores = call.cores or _cores(output, card)
        share = math.ceil(output.tiles / cores)
        lines = share * LINES_A_ROW * min(TILE, shape[-2])
        place = dict(dram_pages=lines, dram_page_bytes=32) if waits else dict(lines=lines, dram_pages=2 * share, dram_page_bytes=output.page_bytes)
        return Work(kind, dram_bytes=_dram(*call.inputs, *call.outputs), fixed=(("op_start", 1),), **place)

    return rule


def _transpose(call: Call, card: Card) -> Work:
    rule = _tilewise("transpose") if call.settings["dims"] == "WH" else _rows_moved("transpose", waits=False)
    return rule(call, card)


# Attention


def _rotary(call: Call, card: Card) -> Work:
    """A product with the 32x32 matrix, two multiplications and a sum for each tile."""
    x = call.inputs[0]
    cores = x.shards or min(-(-x.shape[-2] // TILE) * (1 if x.shape[0] == 1 else x.shape[0]), card.speed.cores)
    share = math.ceil(x.tiles / cores)
    return Work(
        "rotary", products=share, vector=2 * share, dram_pages=2 * share if x.in_dram else 0, dram_page_bytes=x.page_bytes,
        dram_bytes=_dram(*call.inputs[:1], *call.outputs), fixed=(("op_start", 1),),
    )  # fmt: skip


def _update_cache(call: Call, card: Card) -> Work:
    """A user's core reads the tiles that hold its position, changes a row and writes them back."""
    update = call.inputs[1]
    tiles = math.ceil(update.tiles / (update.shards or 1)) * (update.logical or update.shape)[-2]
    return Work(
        "KV cache", vector=2 * tiles, dram_pages=2, dram_page_bytes=tiles * call.inputs[0].page_bytes,
        dram_bytes=2 * tiles * call.inputs[0].page_bytes * (update.shards or 1), fixed=(("op_start", 1),),
    )  # fmt: skip


def _sdpa_decode(call: Call, card: Card) -> Work:
    """The keys of a head are split over at most 16 cores; each core works through its share, then one joins the parts.

    settings["context"]: tokens that each user attends to, on average.
    """
    q, keys = call.inputs[:2]
    users, kv_heads, head_tiles = q.shape[1], keys.shape[1], -(-keys.shape[-1] // TILE)
    context = call.settings["context"]
    heads_in_turn = math.ceil(users * kv_heads / card.speed.cores)
    cores_a_head = max(1, min(MAX_CORES_A_HEAD, card.speed.cores // (users * kv_heads)))
    key_tiles = math.ceil(context / TILE / cores_a_head) * heads_in_turn
    cached = users * kv_heads * context * head_tiles * (keys.page_bytes / TILE) * 2
    return Work(
        "attention, decode", flops=PRODUCT_FLOPS * users * kv_heads * math.ceil(context / TILE) * 2 * head_tiles,
        products=2 * head_tiles * key_tiles, passes=_passes(call), dram_bytes=cached,
        paced=("key_tile", key_tiles), fixed=(("op_start", 1), ("decode_attention", 1)),
    )  # fmt: skip


def _sdpa(call: Call, card: Card) -> Work:
    """Tiles of scores are split over all cores; each costs two products per tile of the head, and a softmax.

    settings["start"]: the position of the first query. A causal prompt has half of the tiles of its own keys.
    """
    q, keys = call.inputs[:2]
    batch, heads, head_tiles = q.shape[0], q.shape[1], -(-q.shape[-1] // TILE)
    queries, before = q.shape[-2] / TILE, call.settings.get("start", 0) / TILE
    window = call.settings.get("window")
    keys_a_query = before + (queries + 1) / 2 if window is None else min(before + (queries + 1) / 2, window / TILE)
    blocks = batch * heads * math.ceil(q.shape[-2] / call.settings.get("chunk", 128))
    tiles = batch * heads * queries * keys_a_query
    cached = 2 * batch * keys.shape[1] * min(before + queries, 2 * keys_a_query) * head_tiles * keys.page_bytes
    share = tiles / min(blocks, card.speed.cores)
    return Work(
        "attention, prefill", flops=PRODUCT_FLOPS * tiles * 2 * head_tiles, products=2 * head_tiles * share, passes=_passes(call),
        dram_bytes=_dram(q, *call.outputs) + cached, paced=("score_tile", share), fixed=(("op_start", 1),),
    )  # fmt: skip


def _heads_decode(call: Call, card: Card) -> Work:
    """A user's core collects the lines of its row, for each head."""
    tensor = max(call.inputs[:1] + call.outputs, key=lambda t: t.shape[-1])
    lines = LINES_A_ROW * tensor.shape[-1] / TILE
    return Work("heads", lines=lines, fixed=(("op_start", 1),))


# Between chips


def _collective(kind: str, rounds: Callable[[float, int], float]):
    """settings: "devices" on the line, and "axis" of the mesh that it is on."""

    def rule(call: Call, card: Card) -> Work:
        devices, axis = call.settings["devices"], call.settings["axis"]
        whole = max(tensor.bytes for tensor in (*call.inputs[:1], *call.outputs))
        # Around a ring of all chips of the axis, half of the data goes each way.
        ring = call.settings.get("ring", card.ring[axis] and devices == card.shape[axis]) and devices > 2
        wire = rounds(whole, devices) / card.links[axis] / (2 if ring else 1)
        local = _dram(*call.inputs[:1], *call.outputs)
        return Work(kind, wire_bytes=wire, hops=devices - 1, ring=ring, dram_bytes=local, fixed=(("collective_start", 1),))

    return rule


def _part(whole, devices):
    """Each device sends or passes on all parts but one."""
    return whole * (devices - 1) / devices


# Sampling on the device


def _topk(call: Call, card: Card) -> Work:
    return Work("sampling", dram_bytes=_dram(*call.inputs), fixed=(("op_start", 1), ("topk_tile", call.inputs[0].tiles)))


def _argmax(call: Call, card: Card) -> Work:
    """Scalar code compares number by number; the cores share a row's pages."""
    x = call.inputs[0]
    numbers = x.rows * x.shape[-1] / card.speed.cores
    return Work("sampling", dram_bytes=_dram(x), fixed=(("op_start", 1), ("argmax_number", numbers)))


def _sampling(call: Call, card: Card) -> Work:
    return Work("sampling", fixed=(("sampling", 1),))


RULES: dict[str, Callable[[Call, Card], Work]] = {
    "MatmulDeviceOperation": _matmul,
    "MinimalMatmulOp": _matmul,
    "BinaryNgDeviceOperation": _tilewise("elementwise"),
    "UnaryDeviceOperation": _tilewise("elementwise", passes=0),
    "TypecastDeviceOperation": _tilewise("elementwise"),
    "CopyDeviceOperation": _tilewise("data movement"),
    "ShardedToInterleavedDeviceOperation": _tilewise("data movement"),
    "InterleavedToShardedDeviceOperation": _tilewise("data movement"),
    "ReshardDeviceOperation": _tilewise("data movement"),
    "SliceDeviceOperation": _only(lambda call: call.outputs, _tilewise("data movement")),
    "ConcatDeviceOperation": _tilewise("data movement"),
    "PadDeviceOperation": _tilewise("data movement"),
    "FillPadDeviceOperation": _tilewise("data movement"),
    "TransposeDeviceOperation": _transpose,
    "PermuteDeviceOperation": _rows_moved("transpose", waits=False),
    "ReshapeDeviceOperation": _rows_moved("data movement", waits=True),
    "LayerNormDeviceOperation": _norm,
    "LayerNormPreAllGatherDeviceOperation": _norm,
    "LayerNormPostAllGatherDeviceOperation": _norm,
    "SoftmaxDeviceOperation": _softmax,
    "EmbeddingsDeviceOperation": _embedding,
    "TilizeWithValPaddingDeviceOperation": _tilize,
    "UntilizeDeviceOperation": _untilize,
    "RotaryEmbeddingLlamaDeviceOperation": _rotary,
    "PagedUpdateCacheDeviceOperation": _update_cache,
    "PagedFillCacheDeviceOperation": _only(lambda call: call.inputs[1:2], _tilewise("KV cache")),
    "UpdateKVCacheOperation": _only(lambda call: call.inputs[1:2], _tilewise("KV cache")),
    "SdpaDecodeDeviceOperation": _sdpa_decode,
    "SDPAOperation": _sdpa,
    "NLPCreateQKVHeadsDecodeDeviceOperation": _heads_decode,
    "NLPConcatHeadsDecodeDeviceOperation": _heads_decode,
    "NlpCreateHeadsDeviceOperation": _tilewise("heads"),
    "NLPConcatHeadsDeviceOperation": _tilewise("heads"),
    "AllGatherDeviceOperation": _collective("collective", _part),
    "ReduceScatterDeviceOperation": _collective("collective", _part),
    "AllReduceDeviceOperation": _collective("collective", lambda whole, devices: 2 * _part(whole, devices)),
    "TopKDeviceOperation": _topk,
    "ArgMaxDeviceOperation": _argmax,
    "SamplingDeviceOperation": _sampling,
}
