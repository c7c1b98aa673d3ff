"""The rule of each device operation: what its call asks of a chip.

An operation without a rule is an error, never free.
"""

from collections.abc import Callable

from ..call import Call
from ..card import Card
from ..work import Work
from .attention import heads_decode, rotary, sdpa, sdpa_decode, update_cache
from .between_chips import all_reduce, collective, part
from .fused import heads_of_a_sum, norm_over_devices, update_both_caches
from .matmul import matmul
from .sampling import argmax, sampling, topk
from .tiles import embedding, norm, only, rows_moved, softmax, tilewise, tilize, transpose, untilize

RULES: dict[str, Callable[[Call, Card], Work]] = {
    "MatmulDeviceOperation": matmul,
    "MinimalMatmulOp": matmul,
    "BinaryNgDeviceOperation": tilewise("elementwise"),
    "UnaryDeviceOperation": tilewise("elementwise", passes=0),
    "TypecastDeviceOperation": tilewise("elementwise"),
    "CopyDeviceOperation": tilewise("data movement"),
    "ShardedToInterleavedDeviceOperation": tilewise("data movement"),
    "InterleavedToShardedDeviceOperation": tilewise("data movement"),
    "ReshardDeviceOperation": tilewise("data movement"),
    "SliceDeviceOperation": only(lambda call: call.outputs, tilewise("data movement")),
    "ConcatDeviceOperation": tilewise("data movement"),
    "PadDeviceOperation": tilewise("data movement"),
    "FillPadDeviceOperation": tilewise("data movement"),
    "TransposeDeviceOperation": transpose,
    "PermuteDeviceOperation": rows_moved("transpose", waits=False),
    "ReshapeDeviceOperation": rows_moved("data movement", waits=True),
    "LayerNormDeviceOperation": norm,
    "LayerNormPreAllGatherDeviceOperation": norm,
    "LayerNormPostAllGatherDeviceOperation": norm,
    "SoftmaxDeviceOperation": softmax,
    "EmbeddingsDeviceOperation": embedding,
    "TilizeWithValPaddingDeviceOperation": tilize,
    "UntilizeDeviceOperation": untilize,
    "RotaryEmbeddingLlamaDeviceOperation": rotary,
    "PagedUpdateCacheDeviceOperation": update_cache,
    "PagedFillCacheDeviceOperation": only(lambda call: call.inputs[1:2], tilewise("KV cache")),
    "UpdateKVCacheOperation": only(lambda call: call.inputs[1:2], tilewise("KV cache")),
    "SdpaDecodeDeviceOperation": sdpa_decode,
    "SDPAOperation": sdpa,
    "NLPCreateQKVHeadsDecodeDeviceOperation": heads_decode,
    "NLPConcatHeadsDecodeDeviceOperation": heads_decode,
    "NlpCreateHeadsDeviceOperation": tilewise("heads"),
    "NLPConcatHeadsDeviceOperation": tilewise("heads"),
    "AllGatherDeviceOperation": collective("collective", part),
    "ReduceScatterDeviceOperation": collective("collective", part),
    "AllReduceDeviceOperation": all_reduce,
    "AllReduceCreateQkvHeadsDeviceOperation": heads_of_a_sum,
    "RMSAllGatherDeviceOperation": norm_over_devices,
    "PagedFusedUpdateCacheDeviceOperation": update_both_caches,
    # Queries and keys at the same time, on different cores: the time of the queries.
    "RotaryEmbeddingLlamaFusedQKDeviceOperation": rotary,
    "TopKDeviceOperation": topk,
    "ArgMaxDeviceOperation": argmax,
    "SamplingDeviceOperation": sampling,
}


def work_of(call: Call, card: Card) -> Work:
    """The work of a call on one device of `card`. Raises ValueError for an operation that has no rule."""
    if call.op not in RULES:
        raise ValueError(f"no cost is known for {call.name or call.op} ({call.op}); add its rule to prediction/rules")
    return RULES[call.op](call, card)
