"""Upstream's 70B on a Galaxy of 8x4 chips: its decode layer and tail, op by op as its CI measures them, and its prefill.

Written as data from the vendor's public code (tenstorrent/tt-metal, models/demos/llama3_70b_galaxy). The rows of the mesh
split heads and hidden columns, the columns split the residual stream. Weights are prefetched into L1, 32 users are always
in the batch, 8 on each column of the mesh, and sampling is on the device.
"""

from dataclasses import dataclass

from models.common.prediction.call import TILE, Call, Operand
from models.tt_transformers.measure.upstream.layers import (
    LARGE,
    ROWS,
    by_user_of,
    interleaved,
    rows_of,
    sharded,
    weight,
    weights_of,
)

# Cores of the ring that computes a matmul of prefetched weights, and cores that hold the residual stream and the logits.
RING, NORM_CORES = 24, 16
# Users that each column of the mesh attends for.
USERS = 8
COLUMNS, ROWS_AXIS = 1, 0


@dataclass(frozen=True)
class Grid:
    """One device's share of a model."""

    dim: int
    hidden: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab: int
    n_layers: int
    rows: int
    columns: int

    @classmethod
    def of(cls, arch, shape: tuple[int, int]) -> "Grid":
        """Raises ValueError for a small model, which upstream runs with other code there."""
        rows, columns = shape
        if weights_of(arch) < LARGE:
            raise ValueError(
                f"upstream's ops on a Galaxy are described for models of 70B, not for one of {weights_of(arch) / 1e9:.0f}B"
            )
        return cls(
            arch.dim // columns, arch.hidden_dim // rows, arch.n_heads // rows, max(1, arch.n_kv_heads // rows), arch.head_dim,
            -(-arch.vocab_size // rows // TILE) * TILE, arch.n_layers, rows, columns,
        )  # fmt: skip

    @property
    def qkv(self) -> int:
        return (self.n_heads + 2 * self.n_kv_heads) * self.head_dim

    @property
    def heads_width(self) -> int:
        return self.n_heads * self.head_dim


def _linear(k: int, n: int, dtype: str, fidelity: str) -> Call:
    return Call(
        "MatmulDeviceOperation", (sharded(k), weight(k, n, dtype)), (sharded(n),), fidelity, cores=RING,
        settings={"program": "prefetched"},
    )  # fmt: skip


def _between(op: str, grid: Grid, axis: int, width: int, dtype: str = "BFLOAT16", rows: int = ROWS) -> Call:
    """A collective along an axis, of `width` columns on all its devices together."""
    whole = interleaved(rows, width, "L1" if rows == ROWS else "DRAM", dtype)
    return Call(
        op, (whole,), (whole,), settings={"devices": grid.columns if axis == COLUMNS else grid.rows, "axis": axis}
    )


def _norm(grid: Grid) -> tuple[Call, ...]:
    x = sharded(grid.dim, NORM_CORES)
    return Call("LayerNormDeviceOperation", (x,), (x,)), _between(
        "AllGatherDeviceOperation", grid, COLUMNS, TILE * grid.columns
    )


def decode_layer(grid: Grid, context: float) -> list[tuple[str, tuple[Call, ...]]]:
    """(name, the calls that are fused in this kernel) of a layer, by the names of galaxy_decode_ops.csv."""
    q, kv = by_user_of(USERS, grid.n_heads, grid.head_dim), by_user_of(USERS, grid.n_kv_heads, grid.head_dim)
    cache = Operand((1024, grid.n_kv_heads, TILE, grid.head_dim), "BFLOAT8_B")
    part = grid.hidden // grid.columns
    gated = sharded(part, RING, "BFLOAT8_B")
    gather, scatter, reduce = ("AllGatherDeviceOperation", "ReduceScatterDeviceOperation", "AllReduceDeviceOperation")
    ff1, ff2 = _linear(grid.dim, grid.hidden, "BFLOAT4_B", "LoFi"), _linear(grid.hidden, grid.dim, "BFLOAT8_B", "HiFi2")
    return [
        ("RMSNorm+stats AllGather (attention norm)", _norm(grid)),
        ("QKV matmul", (_linear(grid.dim, grid.qkv, "BFLOAT8_B", "HiFi2"),)),
        ("ReduceScatter+CreateHeads", (_between(scatter, grid, COLUMNS, grid.qkv),)),
        ("RoPE fused QK", (Call("RotaryEmbeddingLlamaDeviceOperation", (q,), (q,)),)),
        ("PagedUpdateCache fused", (Call("PagedUpdateCacheDeviceOperation", (cache, kv), (cache,)),)),
        (
            "SDPA decode (paged)",
            (Call("SdpaDecodeDeviceOperation", (q, cache, cache), (q,), "HiFi2", settings={"context": context}),),
        ),
        ("AllGatherConcat", (_between(gather, grid, COLUMNS, grid.heads_width),)),
        ("DO (wo) matmul", (_linear(grid.heads_width, grid.dim, "BFLOAT8_B", "HiFi2"),)),
        ("AllReduce after DO", (_between(reduce, grid, ROWS_AXIS, grid.dim, "BFLOAT8_B"),)),
        ("RMSNorm+stats AllGather (ff norm)", _norm(grid)),
        ("FF1/FF3 matmul + RS of FF1", (ff1, ff1)),  # the sums cross the links behind the second product
        ("ReduceScatter of FF3", (_between(scatter, grid, COLUMNS, grid.hidden, "BFLOAT8_B"),)),
        ("Mul+SiLU", (Call("BinaryNgDeviceOperation", (gated, gated), (gated,), settings={"activation": "SILU"}),)),
        ("AllGather feeding binary mult", (_between(gather, grid, COLUMNS, grid.hidden, "BFLOAT8_B"),)),
        ("FF2 matmul", (ff2,)),
        ("AllReduce after FF2", (_between(reduce, grid, ROWS_AXIS, grid.dim, "BFLOAT8_B"),)),
    ]


def decode_tail(grid: Grid) -> list[tuple[str, tuple[Call, ...]]]:
    """What follows the layers: logits, and sampling on the device."""
    logits = interleaved(ROWS, grid.vocab, "DRAM", "BFLOAT8_B")
    whole, best = interleaved(ROWS, grid.vocab, "DRAM"), TILE * grid.rows
    x, head = sharded(grid.dim, NORM_CORES), weight(grid.dim, grid.vocab, "BFLOAT8_B")
    return [
        (
            "InterleavedToSharded",
            (Call("InterleavedToShardedDeviceOperation", (whole,), (sharded(grid.vocab, NORM_CORES),)),),
        ),
        ("RMSNorm+AllGather", _norm(grid)),
        (
            "LM head matmul",
            (Call("MatmulDeviceOperation", (x, head), (logits,), "HiFi2", settings={"program": "dram_sharded"}),),
        ),
        ("AllReduce of LM head", (_between("AllReduceDeviceOperation", grid, COLUMNS, grid.vocab, "BFLOAT8_B"),)),
        ("TopK", (Call("TopKDeviceOperation", (whole,), (interleaved(ROWS, TILE, "DRAM"),)),)),
        ("Sampling", (Call("SamplingDeviceOperation", (), ()),)),
        ("AllGather (values)", (_between("AllGatherDeviceOperation", grid, ROWS_AXIS, best),)),
        ("AllGather (indices)", (_between("AllGatherDeviceOperation", grid, ROWS_AXIS, best, "UINT32"),)),
        ("Typecast", (Call("TypecastDeviceOperation", (logits,), (whole,), cores=NORM_CORES),)),
        ("ShardedToInterleaved", (Call("ShardedToInterleavedDeviceOperation", (sharded(grid.vocab, 64),), (whole,)),)),
    ]


def decode(grid: Grid, users: int, context: float) -> list[tuple[Call, int]]:
    """A decode step: (call, how often it runs)."""
    calls = [(call, grid.n_layers) for _, parts in decode_layer(grid, context) for call in parts]
    table = Operand((1, 1, 1024, grid.dim), "BFLOAT16", "ROW_MAJOR")
    return [
        (rows_of(table, ROWS, interleaved(ROWS, grid.dim, "DRAM")), 1),
        *calls,
        *((call, 1) for _, parts in decode_tail(grid) for call in parts),
    ]


def prefill(grid: Grid, prompt: int) -> list[tuple[Call, int]]:
    """A prompt of one user, padded to 128 tokens, in one chunk."""
    rows = -(-prompt // 128) * 128
    q, kv = (Operand((1, heads, rows, grid.head_dim), "BFLOAT16") for heads in (grid.n_heads, grid.n_kv_heads))
    cached = Operand(kv.shape, "BFLOAT8_B")
    x, hidden = interleaved(rows, grid.dim, "DRAM"), interleaved(rows, grid.hidden // grid.columns, "DRAM")
    heads = interleaved(rows, grid.heads_width, "DRAM")

    def linear(k, n, dtype, fidelity):
        settings = {"program": "mcast_2d", "grid": (7, 8), "batch": max(1, rows // 2048)}
        given, made = interleaved(rows, k, "DRAM"), interleaved(rows, n, "DRAM", "BFLOAT8_B")
        return Call("MatmulDeviceOperation", (given, weight(k, n, dtype)), (made,), fidelity, settings=settings)

    def between(op, axis, width):
        return _between(op, grid, axis, width, "BFLOAT8_B", rows)

    norm = Call("LayerNormDeviceOperation", (x,), (x,))
    add = Call("BinaryNgDeviceOperation", (x, x), (x,))
    layer = [
        norm,
        linear(grid.dim, grid.qkv, "BFLOAT8_B", "HiFi2"),
        between("AllReduceDeviceOperation", COLUMNS, grid.qkv),
        Call("NlpCreateHeadsDeviceOperation", (interleaved(rows, grid.qkv, "DRAM"),), (q, kv, kv)),
        Call("RotaryEmbeddingLlamaDeviceOperation", (q,), (q,)),
        Call("RotaryEmbeddingLlamaDeviceOperation", (kv,), (kv,)),
        *(Call("TypecastDeviceOperation", (kv,), (cached,)) for _ in range(2)),
        *(Call("PagedFillCacheDeviceOperation", (cached, cached), (cached,)) for _ in range(2)),
        Call("SDPAOperation", (q, cached, cached), (q,), "HiFi4", settings={"chunk": 256 if rows >= 2048 else 64}),
        Call("NLPConcatHeadsDeviceOperation", (q,), (heads,)),
        linear(grid.heads_width, grid.dim, "BFLOAT8_B", "HiFi2"),
        between("AllReduceDeviceOperation", ROWS_AXIS, grid.dim),
        add,
        norm,
        *(linear(grid.dim, grid.hidden, "BFLOAT4_B", "LoFi") for _ in range(2)),
        *(between("ReduceScatterDeviceOperation", COLUMNS, grid.hidden) for _ in range(2)),
        Call("BinaryNgDeviceOperation", (hidden, hidden), (hidden,), settings={"activation": "SILU"}),
        between("AllGatherDeviceOperation", COLUMNS, grid.hidden),
        linear(grid.hidden, grid.dim, "BFLOAT8_B", "HiFi2"),
        between("AllReduceDeviceOperation", ROWS_AXIS, grid.dim),
        add,
    ]
    return [(call, grid.n_layers) for call in layer] + [(call, 1) for _, parts in decode_tail(grid) for call in parts]
