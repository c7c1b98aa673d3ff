"""Makes calls from the emulator's op log. An op of the log that is not in `OPERATIONS` is an error."""

from collections.abc import Iterable

from .call import Call, Operand

# The vendor's device operation of each op. An op may run more than one; a view runs none.
OPERATIONS = {
    "ttnn.add": "BinaryNgDeviceOperation",
    "ttnn.divide": "BinaryNgDeviceOperation",
    "ttnn.multiply": "BinaryNgDeviceOperation",
    "ttnn.subtract": "BinaryNgDeviceOperation",
    "ttnn.all_gather": "AllGatherDeviceOperation",
    "ttnn.all_reduce": "AllReduceDeviceOperation",
    "ttnn.argmax": "ArgMaxDeviceOperation",
    "ttnn.concat": "ConcatDeviceOperation",
    "ttnn.embedding": "EmbeddingsDeviceOperation",
    "ttnn.experimental.all_reduce_create_qkv_heads": "AllReduceCreateQkvHeadsDeviceOperation",
    "ttnn.experimental.nlp_concat_heads": "NLPConcatHeadsDeviceOperation",
    "ttnn.experimental.nlp_concat_heads_decode": "NLPConcatHeadsDecodeDeviceOperation",
    "ttnn.experimental.nlp_create_qkv_heads": "NlpCreateHeadsDeviceOperation",
    "ttnn.experimental.nlp_create_qkv_heads_decode": "NLPCreateQKVHeadsDecodeDeviceOperation",
    "ttnn.experimental.paged_fill_cache": "PagedFillCacheDeviceOperation",
    "ttnn.experimental.paged_fused_update_cache": "PagedFusedUpdateCacheDeviceOperation",
    "ttnn.experimental.paged_update_cache": "PagedUpdateCacheDeviceOperation",
    "ttnn.experimental.rotary_embedding_llama": "RotaryEmbeddingLlamaDeviceOperation",
    "ttnn.experimental.rotary_embedding_llama_fused_qk": "RotaryEmbeddingLlamaFusedQKDeviceOperation",
    "ttnn.fill_cache": "UpdateKVCacheOperation",
    "ttnn.fused_rms_minimal": "RMSAllGatherDeviceOperation",
    "ttnn.gelu": "UnaryDeviceOperation",
    "ttnn.interleaved_to_sharded": "InterleavedToShardedDeviceOperation",
    "ttnn.layer_norm": "LayerNormDeviceOperation",
    "ttnn.linear": "MatmulDeviceOperation",
    "ttnn.matmul": "MatmulDeviceOperation",
    "ttnn.pad": "PadDeviceOperation",
    "ttnn.permute": "PermuteDeviceOperation",
    "ttnn.reduce_scatter": "ReduceScatterDeviceOperation",
    "ttnn.reshape": "ReshapeDeviceOperation",
    "ttnn.reshard": "ReshardDeviceOperation",
    "ttnn.rms_norm": "LayerNormDeviceOperation",
    "ttnn.rms_norm_post_all_gather": "LayerNormPostAllGatherDeviceOperation",
    "ttnn.rms_norm_pre_all_gather": "LayerNormPreAllGatherDeviceOperation",
    "ttnn.sharded_to_interleaved": "ShardedToInterleavedDeviceOperation",
    "ttnn.sigmoid": "UnaryDeviceOperation",
    "ttnn.silu": "UnaryDeviceOperation",
    "ttnn.slice": "SliceDeviceOperation",
    "ttnn.softmax": "SoftmaxDeviceOperation",
    "ttnn.tilize": "TilizeWithValPaddingDeviceOperation",
    "ttnn.topk": "TopKDeviceOperation",
    "ttnn.transpose": "TransposeDeviceOperation",
    "ttnn.typecast": "TypecastDeviceOperation",
    "ttnn.untilize": "UntilizeDeviceOperation",
    "ttnn.untilize_with_unpadding": "UntilizeDeviceOperation",
    "ttnn.update_cache": "UpdateKVCacheOperation",
    "ttnn.transformer.chunked_scaled_dot_product_attention": "SDPAOperation",
    "ttnn.transformer.paged_scaled_dot_product_attention_decode": "SdpaDecodeDeviceOperation",
    "ttnn.transformer.scaled_dot_product_attention": "SDPAOperation",
    "ttnn.transformer.scaled_dot_product_attention_decode": "SdpaDecodeDeviceOperation",
}
# How a program config divides a matmul, by its class; see `rules.matmul.MATMULS`.
_PROGRAMS = {
    "MatmulMultiCoreReuseMultiCastDRAMShardedProgramConfig": "dram_sharded",
    "MatmulMultiCoreReuseMultiCastProgramConfig": "mcast_2d",
    "MatmulMultiCoreReuseMultiCast1DProgramConfig": "mcast_1d",
    "MatmulMultiCoreReuseProgramConfig": "reuse",
}


def calls(records: Iterable, context: float) -> list[Call]:
    """The device operations of a log's records (`oplog.OpRecord`).

    `context`: tokens that each user attends to in a decode step. The log has positions of tensors only, not of values.
    Raises ValueError for an op without a device operation.
    """
    return [call_of(record, context) for record in records if not record.is_view]


def call_of(record, context: float) -> Call:
    """The device operation of one record."""
    if record.name not in OPERATIONS and record.name != "ttnn.to_memory_config":
        raise ValueError(f"no device operation is known for {record.name}; add it to prediction/from_log.py")
    inputs, outputs = tuple(map(operand, record.inputs)), tuple(map(operand, record.outputs))
    kernel = record.arguments.get("compute_kernel_config")
    fidelity = "HiFi4" if kernel is None else kernel.math_fidelity.name
    op = OPERATIONS.get(record.name) or _moved(inputs[0], outputs[0])
    return Call(op, inputs, outputs, fidelity, None, _settings(op, record, context), record.name)


def operand(spec) -> Operand | None:
    """A TensorSpec as the prediction sees it."""
    if spec is None:
        return None
    config = spec.memory_config
    return Operand(
        tuple(spec.padded_shape), spec.dtype.name, spec.layout.name.removesuffix("_LAYOUT"), config.buffer_type.name,
        config.memory_layout.name, config.shard_spec and config.shard_spec.num_cores(), tuple(spec.shape),
    )  # fmt: skip


def _moved(given: Operand, made: Operand) -> str:
    """The operation that `to_memory_config` chooses."""
    if given.shards and made.shards:
        return "ReshardDeviceOperation"
    if made.shards:
        return "InterleavedToShardedDeviceOperation"
    return "ShardedToInterleavedDeviceOperation" if given.shards else "CopyDeviceOperation"


def _settings(op: str, record, context: float) -> dict:
    given = record.arguments
    if op == "MatmulDeviceOperation":
        return _matmul_settings(record)
    if op == "BinaryNgDeviceOperation":
        activations = given.get("input_tensor_a_activations") or ()
        names = [getattr(activation, "op_type", activation).name for activation in activations]
        return {"activation": names[0]} if names else {}
    if op == "UnaryDeviceOperation":
        return {"activation": record.name.removeprefix("ttnn.").upper()}
    if op == "SdpaDecodeDeviceOperation":
        window = given.get("sliding_window_size")
        return {"context": context if window is None else min(context, window)}
    if op == "SDPAOperation":
        program = given.get("program_config")
        return {
            "start": given.get("chunk_start_idx") or 0, "window": given.get("sliding_window_size"),
            "chunk": program.q_chunk_size if program else 32,
        }  # fmt: skip
    if op == "TransposeDeviceOperation":
        rank = len(record.inputs[0].shape)
        return {"dims": "WH" if {given["dim1"] % rank, given["dim2"] % rank} == {rank - 2, rank - 1} else "HC"}
    if "cluster_axis" in given:
        axis = given["cluster_axis"]
        axis = 1 if axis is None else axis
        return {"devices": tuple(record.mesh_shape)[axis], "axis": axis, "ring": given["topology"].name == "Ring"}
    return {}


def _matmul_settings(record) -> dict:
    program = record.arguments.get("program_config")
    if program is None:
        return {"program": "mcast_1d"}
    kind = type(program).__name__
    if kind not in _PROGRAMS:
        raise ValueError(f"{record.name}: no cost is known for a matmul with {kind}")
    settings = {"program": _PROGRAMS[kind]}
    grid = getattr(program, "compute_with_storage_grid_size", None)
    if grid is not None:
        settings |= {"grid": (grid.x, grid.y)}
    if settings["program"] == "mcast_2d" and not program.fuse_batch:
        settings |= {"batch": record.inputs[0].shape[1]}
    return settings
