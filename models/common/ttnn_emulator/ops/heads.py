"""Splits a fused projection into heads, and joins heads again."""

import torch

from .. import machine
from ..compiled import in_memory
from ..cores import CoreCoord, num_cores_to_corerangeset
from ..declaration import NoEffect, NotEmulated
from ..dtypes import TILE_SIZE, BufferType, DataType, Layout, ShardOrientation, TensorMemoryLayout
from ..loops import rows as loops
from ..memory import MemoryConfig, ShardSpec
from ..op import op
from ..program import Program
from ..shapes import round_up
from ..tensor import Tensor, TensorSpec
from .checks import check_dtype, check_rank4, check_tiled

# The ops that move single rows between cores cannot take packed block floats.
_UNPACKED = (DataType.BFLOAT16, DataType.FLOAT32)


@op("ttnn.experimental.nlp_create_qkv_heads")
def nlp_create_qkv_heads(
    input: Tensor,
    input_kv: Tensor = None,
    *,
    num_heads: int,
    num_kv_heads: int = None,
    transpose_k_heads: bool = True,
    kv_tied: NotEmulated = False,
    memory_config: MemoryConfig = None,
    output_tensors: NotEmulated = None,
) -> tuple:
    """Splits `[B, 1, S, q | k | v]` into q `[B, num_heads, S, head_dim]`, k and v `[B, num_kv_heads, S, head_dim]`.

    With `transpose_k_heads`, k is `[B, num_kv_heads, head_dim, S]`. With `input_kv`, k and v come from that tensor.
    """
    num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
    check_fused("input", input)
    if input_kv is None:
        head_dim = head_dim_of(input, num_heads + 2 * num_kv_heads)
    else:
        check_fused("input_kv", input_kv)
        head_dim = head_dim_of(input, num_heads)
        if head_dim_of(input_kv, 2 * num_kv_heads) != head_dim or input_kv.shape[2] != input.shape[2]:
            raise RuntimeError(f"input {list(input.shape)} and input_kv {list(input_kv.shape)} do not match")
        if input_kv.dtype is not input.dtype:
            raise RuntimeError(f"input_kv must have input's dtype {input.dtype.name}, got {input_kv.dtype.name}")
    batch, _, seq_len, _ = input.shape
    counts = (num_heads, num_kv_heads, num_kv_heads)

    def kernel(fused, fused_kv):
        if fused_kv is not None:
            fused = torch.cat((fused, fused_kv), dim=-1)
        heads = fused.reshape(batch, seq_len, sum(counts), head_dim).transpose(1, 2)
        q, k, v = heads.split(counts, dim=1)
        return (q.clone(), k.mT.clone(), v.clone()) if transpose_k_heads else (q, k, v)

    memory_config = input.memory_config() if memory_config is None else memory_config
    if memory_config.is_sharded():
        raise NotImplementedError(f"only interleaved outputs are emulated, got {memory_config}")
    shapes = [[batch, count, seq_len, head_dim] for count in counts]
    if transpose_k_heads:
        shapes[1] = [batch, num_kv_heads, head_dim, seq_len]
    specs = tuple(TensorSpec(shape, input.dtype, Layout.TILE, memory_config) for shape in shapes)
    return Program(kernel, [input, input_kv], specs, exact=not transpose_k_heads)


@op("ttnn.experimental.nlp_create_qkv_heads_decode")
def nlp_create_qkv_heads_decode(
    input_tensor: Tensor,
    *,
    num_heads: int,
    num_kv_heads: int = None,
    output_tensors: NotEmulated = None,
    overlap_qk_coregrid: bool | None = True,
    batch_offset: Tensor = None,
    slice_size: int = None,
    memory_config: MemoryConfig = None,
) -> tuple:
    """Splits `[1, 1, B, q | k | v]` into q `[1, B, num_heads, head_dim]`, k and v `[1, B, num_kv_heads, head_dim]`.

    The outputs are height-sharded in L1, one user per core, with heads padded to 32. They are on the cores of
    `memory_config`, or by default on the first B cores. With `slice_size`, they have so many users only: those from
    `batch_offset` on, one integer on each device.
    """
    check_fused("input_tensor", input_tensor)
    check_dtype("input_tensor", input_tensor.dtype, _UNPACKED)
    num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
    if num_heads < num_kv_heads:
        raise RuntimeError(f"num_heads={num_heads} must be at least num_kv_heads={num_kv_heads}")
    first, _, batch, _ = input_tensor.shape
    if first != 1 or batch > TILE_SIZE:
        raise RuntimeError(f"input_tensor must be [1, 1, users up to 32, width], got {list(input_tensor.shape)}")
    if not overlap_qk_coregrid and input_tensor.memory_config().is_sharded():
        raise NotImplementedError("overlap_qk_coregrid=False is not emulated; use True")
    if (batch_offset is None) != (slice_size is None):
        raise RuntimeError("batch_offset and slice_size must be given together")
    if batch_offset is not None:
        _check_offset(batch_offset, input_tensor)
    users = batch if slice_size is None else slice_size
    head_dim = head_dim_of(input_tensor, num_heads + 2 * num_kv_heads)
    cores = num_cores_to_corerangeset(users, machine.worker_grid(), row_wise=True)
    if memory_config is not None and memory_config.shard_spec is not None:
        cores = memory_config.shard_spec.grid
    counts = (num_heads, num_kv_heads, num_kv_heads)

    def kernel(fused, offset):
        heads = fused.reshape(1, batch, sum(counts), head_dim)
        if offset is not None:
            heads = heads.narrow(1, int(offset.flatten()[0]), users)
        return heads.split(counts, dim=2)

    specs = []
    for count in counts:
        shard = ShardSpec(cores, (round_up(count, TILE_SIZE), head_dim), ShardOrientation.ROW_MAJOR)
        sharded = MemoryConfig(TensorMemoryLayout.HEIGHT_SHARDED, BufferType.L1, shard)
        specs.append(TensorSpec([1, users, count, head_dim], input_tensor.dtype, Layout.TILE, sharded))
    return Program(kernel, [input_tensor, batch_offset], tuple(specs), exact=True)


def _check_offset(batch_offset, tensor):
    if batch_offset.shape[0] != 1:
        raise RuntimeError(f"batch_offset must be one integer, got {list(batch_offset.shape)}")
    if not tensor.memory_config().is_sharded():
        raise NotImplementedError("batch_offset has no effect on a card if input_tensor is interleaved; shard it")
    if batch_offset.dtype not in (DataType.INT32, DataType.UINT32) or batch_offset.layout is not Layout.ROW_MAJOR:
        raise NotImplementedError(f"batch_offset must be INT32 or UINT32 in ROW_MAJOR, got {batch_offset._describe()}")


@op("ttnn.experimental.nlp_concat_heads")
def nlp_concat_heads(input_tensor: Tensor, *, memory_config: MemoryConfig = None) -> Tensor:
    """Joins `[B, heads, S, head_dim]` to `[B, 1, S, heads * head_dim]`."""
    batch, _, seq_len, _ = _heads_shape(input_tensor)
    return _join(input_tensor, (batch, 1, seq_len), memory_config)


@op("ttnn.transformer.concatenate_heads")
def concatenate_heads(input_tensor: Tensor, *, memory_config: MemoryConfig = None) -> Tensor:
    """Joins `[B, heads, S, head_dim]` to `[B, S, heads * head_dim]`."""
    batch, _, seq_len, _ = _heads_shape(input_tensor)
    return _join(input_tensor, (batch, seq_len), memory_config)


def _join(tensor, leading, memory_config):
    memory_config = tensor.memory_config() if memory_config is None else memory_config
    if memory_config.is_sharded():
        raise NotImplementedError(f"only an interleaved output is emulated, got {memory_config}")
    shape = (*leading, tensor.shape[1] * tensor.shape[3])

    def kernel(heads):
        return heads.transpose(1, 2).reshape(shape)

    spec = TensorSpec(shape, tensor.dtype, Layout.TILE, memory_config)
    return Program(kernel, [tensor], spec, exact=True)


@op("ttnn.experimental.nlp_concat_heads_decode")
def nlp_concat_heads_decode(
    input_tensor: Tensor,
    *,
    num_heads: int,
    memory_config: NoEffect[MemoryConfig] = None,
    output_tensor: NotEmulated = None,
    sub_core_grids: NotEmulated = None,
) -> Tensor:
    """Joins `[1, B, heads, head_dim]`, height-sharded, to `[1, 1, 32, num_heads * head_dim]`, one head per core.

    As on a card, `memory_config` does not change the output's place. The output always has 32 rows. Rows from B on are
    zero.
    """
    first, batch, heads, head_dim = _heads_shape(input_tensor)
    check_dtype("input_tensor", input_tensor.dtype, _UNPACKED)
    held = input_tensor.memory_config()
    if held.memory_layout is not TensorMemoryLayout.HEIGHT_SHARDED:
        raise RuntimeError(f"input_tensor must be height-sharded, got {held}")
    cores = held.shard_spec.grid
    if cores.size() != 1 or cores.bounding_box().start != CoreCoord(0, 0):
        raise RuntimeError(f"input_tensor must be on one rectangle of cores from the first, got {cores}")
    if first != 1 or batch > TILE_SIZE or heads > TILE_SIZE or not 0 < num_heads <= heads:
        raise RuntimeError(
            "input_tensor must be [1, users up to 32, heads up to 32, head_dim] with at least "
            f"num_heads={num_heads} heads, got {list(input_tensor.shape)}"
        )
    width = num_heads * head_dim

    def kernel(values):
        if batch == TILE_SIZE or values.is_meta:
            joined = values[0, :, :num_heads].reshape(1, 1, batch, width)
            return joined if batch == TILE_SIZE else joined.new_empty(1, 1, TILE_SIZE, width)
        # By one loop, because torch would wake its threads for this.
        values, padded = in_memory(values), values.new_empty(1, 1, TILE_SIZE, width)
        size = values.element_size()
        stride, row_bytes = size * heads * head_dim, size * width
        loops.pad_rows(values.data_ptr(), stride, batch, padded.data_ptr(), row_bytes, TILE_SIZE)
        return padded

    cores = num_cores_to_corerangeset(num_heads, machine.worker_grid(), row_wise=True)
    shard = ShardSpec(cores, (TILE_SIZE, head_dim), ShardOrientation.ROW_MAJOR)
    sharded = MemoryConfig(TensorMemoryLayout.WIDTH_SHARDED, BufferType.L1, shard)
    spec = TensorSpec([1, 1, TILE_SIZE, width], input_tensor.dtype, Layout.TILE, sharded)
    return Program(kernel, [input_tensor], spec, exact=True)


def check_fused(argument, tensor):
    check_tiled(argument, tensor)
    check_rank4(argument, tensor)
    if tensor.shape[1] != 1:
        raise RuntimeError(f"{argument} must have one row of heads (size 1 at dimension 1), got {list(tensor.shape)}")


def head_dim_of(tensor, heads):
    """The width of one head if the tensor's width is divided into `heads`. It must be whole tiles."""
    width = tensor.shape[-1]
    if heads < 1 or width % heads or width // heads % TILE_SIZE:
        raise RuntimeError(f"a width of {width} is not {heads} heads of a multiple of {TILE_SIZE}")
    return width // heads


def _heads_shape(tensor):
    check_tiled("input_tensor", tensor)
    check_rank4("input_tensor", tensor)
    if tensor.shape[-1] % TILE_SIZE:
        raise RuntimeError(f"head_dim must be a multiple of {TILE_SIZE}, got {list(tensor.shape)}")
    return tuple(tensor.shape)
