"""Upstream's op list on a line of devices: a decode layer, and what comes before and after the layers.

Written as data from the vendor's public code (tenstorrent/tt-metal, models/tt_transformers/tt: attention.py, mlp.py,
decoder.py, distributed_norm.py, lm_head.py, ccl.py, model.py, as they were in mid-2025), because the vendor's published
speeds are of that code. Our own op lists differ, and come from our own log.
"""

import math
from dataclasses import dataclass

from models.common.chip import whole_tiles
from models.common.prediction.call import TILE, Call, Operand

# Rows of a decode step's activations, for any batch.
ROWS = 32
# Columns of one matmul of the LM head on each of its cores at most (model_config.py).
LM_HEAD_COLUMNS = 668
# Weights of the decoder layers from which upstream treats a model as large.
LARGE = 60e9


def weights_of(arch) -> float:
    """Weights of the decoder layers."""
    heads = arch.head_dim * (2 * arch.n_heads + 2 * arch.n_kv_heads)
    return arch.n_layers * arch.dim * (heads + 3 * arch.hidden_dim)


@dataclass(frozen=True)
class Formats:
    """Weights' and caches' formats of one layer, and the fidelities of its matmuls; names as in `Operand` and `Call`."""

    wqkv: str = "BFLOAT8_B"
    wo: str = "BFLOAT8_B"
    ff1_3: str = "BFLOAT4_B"
    ff2: str = "BFLOAT8_B"
    kv_cache: str = "BFLOAT8_B"
    activation: str = "BFLOAT16"

    @staticmethod
    def fidelity(dtype: str) -> str:
        """What the modes give a linear with weights of this format."""
        return {"BFLOAT4_B": "LoFi", "BFLOAT8_B": "HiFi2", "BFLOAT16": "HiFi4"}[dtype]


@dataclass(frozen=True)
class Line:
    """A model on a line of `devices`; `users` in the decode batch."""

    dim: int
    hidden: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab: int
    n_layers: int
    bias: bool
    devices: int
    users: int

    @classmethod
    def of(cls, arch, devices: int, users: int) -> "Line":
        hidden = math.ceil(arch.hidden_dim / devices / TILE) * TILE
        return cls(
            arch.dim, hidden, math.ceil(arch.n_heads / devices), max(1, math.ceil(arch.n_kv_heads / devices)), whole_tiles(arch.head_dim),
            math.ceil(arch.vocab_size / devices / TILE) * TILE, arch.n_layers, arch.qkv_bias, devices, users,
        )  # fmt: skip

    @property
    def qkv(self) -> int:
        return (self.n_heads + 2 * self.n_kv_heads) * self.head_dim

    @property
    def heads_width(self) -> int:
        return self.n_heads * self.head_dim

    @property
    def fuses_gather(self) -> bool:
        """Whether wo gathers the heads and makes only its own columns: a ring of 8 whose tiles divide again by 8."""
        return self.devices == 8 and self.dim // TILE // self.devices % self.devices == 0


# Tensors


def sharded(width: int, cores: int = 32, dtype: str = "BFLOAT16") -> Operand:
    """Decode activations in L1, by columns over `cores`."""
    return Operand(
        (1, 1, ROWS, width), dtype, place="L1", sharding="WIDTH_SHARDED", shards=min(cores, max(1, width // TILE))
    )


def by_user(line: Line, heads: int) -> Operand:
    """Heads of a decode step in L1, a user on each core."""
    return by_user_of(line.users, heads, line.head_dim)


def by_user_of(users: int, heads: int, head_dim: int) -> Operand:
    return Operand(
        (1, users, whole_tiles(heads), head_dim), "BFLOAT16", place="L1", sharding="HEIGHT_SHARDED", shards=users,
        logical=(1, users, heads, head_dim),
    )  # fmt: skip


def interleaved(rows: int, width: int, place: str = "L1", dtype: str = "BFLOAT16") -> Operand:
    return Operand((1, 1, rows, width), dtype, place=place)


def weight(k: int, n: int, dtype: str, banks: int | None = 12) -> Operand:
    return Operand((1, 1, k, n), dtype, sharding="WIDTH_SHARDED" if banks else "INTERLEAVED", shards=banks)


# Decode


def decode_linear(x: Operand, n: int, dtype: str) -> Call:
    k = x.shape[-1]
    settings = {"program": "dram_sharded"}
    return Call(
        "MatmulDeviceOperation", (x, weight(k, n, dtype)), (sharded(n),), Formats.fidelity(dtype), settings=settings
    )


def collective(op: str, line: Line, given: Operand, made: Operand) -> list[Call]:
    """Nothing on one device."""
    return [] if line.devices == 1 else [Call(op, (given,), (made,), settings={"devices": line.devices, "axis": 1})]


def decode_norm(line: Line) -> list[Call]:
    x, part = sharded(line.dim), sharded(line.dim // line.devices)
    moved = [Call("ReshardDeviceOperation", (x,), (x,))] if line.devices == 1 else []
    return [
        *collective("AllGatherDeviceOperation", line, part, x),
        *moved,
        Call("LayerNormDeviceOperation", (x,), (x,)),
    ]


def summed(line: Line, x: Operand) -> list[Call]:
    """Partial sums [32, dim] of each device become each device's columns of the sum."""
    if line.devices == 1:
        return [Call("ReshardDeviceOperation", (x,), (x,))]
    flat, part = interleaved(ROWS, line.dim), sharded(line.dim // line.devices)
    return [
        Call("ShardedToInterleavedDeviceOperation", (x,), (flat,)),
        *collective("ReduceScatterDeviceOperation", line, flat, part),
        Call("InterleavedToShardedDeviceOperation", (part,), (part,)),
    ]


def decode_layer(line: Line, formats: Formats, context: float) -> list[Call]:
    """One layer of a decode step in which each user attends to `context` tokens."""
    part, heads = sharded(line.dim // line.devices), sharded(line.heads_width, line.n_heads)
    q, kv = by_user(line, line.n_heads), by_user(line, line.n_kv_heads)
    cache = Operand((1024, line.n_kv_heads, TILE, line.head_dim), formats.kv_cache)
    qkv, hidden = sharded(line.qkv), sharded(line.hidden, dtype=formats.activation)
    attended = Operand((1, line.users, q.shape[2], line.head_dim), "BFLOAT16")
    add = Call("BinaryNgDeviceOperation", (part, part), (part,))
    bias = [Call("BinaryNgDeviceOperation", (qkv, interleaved(ROWS, line.qkv, "DRAM")), (qkv,))] if line.bias else []
    update = Call("PagedUpdateCacheDeviceOperation", (cache, kv), (cache,))
    return [
        *decode_norm(line),
        decode_linear(sharded(line.dim), line.qkv, formats.wqkv),
        *bias,
        Call("ShardedToInterleavedDeviceOperation", (qkv,), (interleaved(ROWS, line.qkv),)),
        Call("NLPCreateQKVHeadsDecodeDeviceOperation", (interleaved(ROWS, line.qkv),), (q, kv, kv)),
        Call("RotaryEmbeddingLlamaDeviceOperation", (q,), (q,)),
        Call("RotaryEmbeddingLlamaDeviceOperation", (kv,), (kv,)),
        update,
        update,
        Call("SdpaDecodeDeviceOperation", (q, cache, cache), (attended,), "HiFi2", settings={"context": context}),
        Call("InterleavedToShardedDeviceOperation", (attended,), (q,)),
        Call("NLPConcatHeadsDecodeDeviceOperation", (q,), (heads,)),
        *output_projection(line, formats, heads),
        add,
        *decode_norm(line),
        decode_linear(sharded(line.dim), line.hidden, formats.ff1_3),
        decode_linear(sharded(line.dim), line.hidden, formats.ff1_3),
        Call("BinaryNgDeviceOperation", (hidden, hidden), (hidden,), settings={"activation": "SILU"}),
        decode_linear(sharded(line.hidden), line.dim, formats.ff2),
        *summed(line, sharded(line.dim)),
        add,
    ]


def output_projection(line: Line, formats: Formats, heads: Operand) -> list[Call]:
    if not line.fuses_gather:
        return [decode_linear(heads, line.dim, formats.wo), *summed(line, sharded(line.dim))]
    width, part = line.heads_width * line.devices, sharded(line.dim // line.devices)
    return [
        Call("ReshardDeviceOperation", (heads,), (heads,)),
        *collective("AllGatherDeviceOperation", line, heads, sharded(width)),
        Call(
            "MatmulDeviceOperation", (sharded(width), weight(width, line.dim // line.devices, formats.wo, banks=None)), (part,),
            Formats.fidelity(formats.wo), cores=min(32, line.dim // line.devices // TILE), settings={"program": "mcast_1d"},
        ),
        Call("ReshardDeviceOperation", (part,), (part,)),
    ]  # fmt: skip


def rows_of(table: Operand, rows: int, out: Operand) -> Call:
    indices = Operand((1, rows), "UINT32", "ROW_MAJOR")
    return Call("EmbeddingsDeviceOperation", (indices, table), (out,))


def decode_head(line: Line) -> list[Call]:
    """Token embeddings, and the users' rows of cos and sin."""
    width = line.dim // line.devices
    angles, one = interleaved(ROWS, line.head_dim, "DRAM"), by_user(line, 1)
    turned = Operand((1, line.users, TILE, line.head_dim), "BFLOAT16", logical=(1, line.users, 1, line.head_dim))
    angle_ops = [
        rows_of(Operand((1, 1, 1024, line.head_dim), "BFLOAT16", "ROW_MAJOR"), line.users, angles),
        Call("TransposeDeviceOperation", (angles,), (turned,), settings={"dims": "HC"}),
        Call("InterleavedToShardedDeviceOperation", (turned,), (one,)),
    ]
    table = Operand((1, 1, 1024, width), "BFLOAT16", "ROW_MAJOR")
    return [
        rows_of(table, ROWS, interleaved(ROWS, width, "DRAM")),
        Call("InterleavedToShardedDeviceOperation", (interleaved(ROWS, width, "DRAM"),), (sharded(width),)),
        *angle_ops,
        *angle_ops,
    ]


def lm_head(line: Line) -> list[Call]:
    """Norm and logits [32, vocabulary of a device]."""
    # As model_config.py looks for a grid: most columns first, then most rows.
    grids = (x * y for x in range(8, 0, -1) for y in range(8, 0, -1))
    widest = LM_HEAD_COLUMNS * next(cores for cores in grids if line.dim // TILE % cores == 0)
    splits = [min(widest, line.vocab - start) for start in range(0, line.vocab, widest)]
    ops = [*decode_norm(line)]
    for columns in splits:
        ops += [
            decode_linear(sharded(line.dim), columns, "BFLOAT8_B"),
            Call("ShardedToInterleavedDeviceOperation", (sharded(columns),), (interleaved(ROWS, columns),)),
        ]
    parts = tuple(interleaved(ROWS, columns) for columns in splits)
    return ops + [Call("ConcatDeviceOperation", parts, (interleaved(ROWS, line.vocab),))]


def decode_tail(line: Line, argmax: bool) -> list[Call]:
    """LM head, logits gathered and made row-major; with `argmax`, the next token is found on the device."""
    whole = interleaved(ROWS, line.vocab * line.devices, "DRAM")
    plain = Operand(whole.shape, "BFLOAT16", "ROW_MAJOR")
    return [
        *lm_head(line),
        *collective("AllGatherDeviceOperation", line, interleaved(ROWS, line.vocab, "DRAM"), whole),
        Call("UntilizeDeviceOperation", (whole,), (plain,)),
        *(
            [Call("ArgMaxDeviceOperation", (plain,), (Operand((1, 1, 1, ROWS), "UINT32", "ROW_MAJOR"),))]
            if argmax
            else []
        ),
    ]
