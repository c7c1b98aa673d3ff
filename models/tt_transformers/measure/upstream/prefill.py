"""Upstream's prefill on a line of devices, written as data from its public code like `layers.py`."""

from models.common.prediction.call import TILE, Call, Operand
from models.tt_transformers.measure.upstream.layers import Formats, Line, ROWS, collective, interleaved, lm_head, weight

# Rows of one batch of a prefill's matmuls (prefill_len_cutoff, MAX_QKV_MM_SEQ_LEN).
MLP_ROWS, QKV_ROWS = 1024, 2048
GRID = (8, 8)


def prefill_linear(rows: int, k: int, n: int, dtype: str, batch_rows: int, sharded_weight: bool = True) -> Call:
    batch = max(1, rows // batch_rows)
    x, made = interleaved(rows, k, "DRAM"), interleaved(rows, n, "DRAM")
    settings = {"program": "mcast_2d", "grid": GRID, "batch": batch}
    return Call(
        "MatmulDeviceOperation",
        (x, weight(k, n, dtype, 12 if sharded_weight else None)),
        (made,),
        Formats.fidelity(dtype),
        settings=settings,
    )


def prefill_norm(line: Line, rows: int) -> list[Call]:
    part, x = interleaved(rows, line.dim // line.devices, "DRAM"), interleaved(rows, line.dim, "DRAM")
    return [
        *collective("AllGatherDeviceOperation", line, part, x),
        Call("LayerNormDeviceOperation", (x, interleaved(TILE, line.dim, "DRAM")), (x,)),
    ]


def prefill_layer(line: Line, formats: Formats, rows: int, start: int = 0) -> list[Call]:
    """One layer of a chunk of `rows` tokens of one user, from position `start` on."""
    part = interleaved(rows, line.dim // line.devices, "DRAM")
    q, kv = (Operand((1, heads, rows, line.head_dim), "BFLOAT16") for heads in (line.n_heads, line.n_kv_heads))
    cached = Operand(kv.shape, formats.kv_cache)
    keys = Operand((1, line.n_kv_heads, start + rows, line.head_dim), formats.kv_cache)
    hidden = interleaved(rows, line.hidden, "DRAM")
    gated = interleaved(rows, line.hidden, "DRAM", "BFLOAT8_B")
    qkv, heads = interleaved(rows, line.qkv, "DRAM"), interleaved(rows, line.heads_width, "DRAM")
    add = Call("BinaryNgDeviceOperation", (part, part), (part,))
    chunk = 256 if rows >= 2048 else 64
    reduce = collective("ReduceScatterDeviceOperation", line, interleaved(rows, line.dim, "DRAM"), part)
    bias = [Call("BinaryNgDeviceOperation", (qkv, interleaved(TILE, line.qkv, "DRAM")), (qkv,))] if line.bias else []
    if line.fuses_gather:
        width = line.heads_width * line.devices
        joined = collective("AllGatherDeviceOperation", line, heads, interleaved(rows, width, "DRAM"))
        output = [*joined, prefill_linear(rows, width, line.dim // line.devices, formats.wo, MLP_ROWS)]
    else:
        output = [prefill_linear(rows, line.heads_width, line.dim, formats.wo, MLP_ROWS), *reduce]
    return [
        *prefill_norm(line, rows),
        prefill_linear(rows, line.dim, line.qkv, formats.wqkv, QKV_ROWS),
        *bias,
        Call("NlpCreateHeadsDeviceOperation", (qkv,), (q, kv, kv)),
        Call("RotaryEmbeddingLlamaDeviceOperation", (q,), (q,)),
        Call("RotaryEmbeddingLlamaDeviceOperation", (kv,), (kv,)),
        Call("TypecastDeviceOperation", (kv,), (cached,)),
        Call("TypecastDeviceOperation", (kv,), (cached,)),
        Call("PagedFillCacheDeviceOperation", (keys, cached), (keys,)),
        Call("PagedFillCacheDeviceOperation", (keys, cached), (keys,)),
        Call("TypecastDeviceOperation", (q,), (Operand(q.shape, "BFLOAT8_B"),)),
        Call("SDPAOperation", (q, keys, keys), (q,), "HiFi4", settings={"start": start, "chunk": chunk}),
        Call("NLPConcatHeadsDeviceOperation", (q,), (heads,)),
        *output,
        add,
        *prefill_norm(line, rows),
        prefill_linear(rows, line.dim, line.hidden, formats.ff1_3, MLP_ROWS),
        prefill_linear(rows, line.dim, line.hidden, formats.ff1_3, MLP_ROWS),
        Call("BinaryNgDeviceOperation", (hidden, hidden), (gated,), settings={"activation": "SILU"}),
        prefill_linear(rows, line.hidden, line.dim, formats.ff2, MLP_ROWS),
        *reduce,
        add,
    ]


def prefill_tail(line: Line) -> list[Call]:
    """The last token's tile through norm and LM head; its logits go to the host."""
    whole = interleaved(ROWS, line.vocab, "DRAM")
    return [*lm_head(line), Call("UntilizeDeviceOperation", (whole,), (Operand(whole.shape, "BFLOAT16", "ROW_MAJOR"),))]
