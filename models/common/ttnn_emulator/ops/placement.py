"""Ops that change a tensor's memory config, layout or dtype, but not its shape or the order of its elements."""

from collections.abc import Sequence

import torch

from ..cores import CoreCoord, CoreRange, CoreRangeSet
from ..declaration import NoEffect, NotEmulated
from ..dtypes import BLOCK_FLOAT, FLOATS, BufferType, DataType, Layout, ShardOrientation, TensorMemoryLayout
from ..memory import DRAM_MEMORY_CONFIG, MemoryConfig, ShardSpec
from ..op import op
from ..program import Program
from ..shapes import Shape
from ..tensor import Storage, Tensor, TensorSpec
from .checks import check_host, check_multicore, worker_cores
from .common import into, same_stored_values
from .creation import to_dtype


def _identity(value):
    return value


def _convert(tensor, spec, output_tensor=None):
    """The tensor converted to another spec of the same shape."""
    if output_tensor is not None:
        return into(output_tensor, _identity, [tensor], spec, spec.dtype, spec.memory_config)
    exact = same_stored_values(tensor.dtype, spec.dtype)
    kernel = _identity if exact else _conversion(tensor.dtype, spec.dtype)
    return Program(kernel, [tensor], spec, exact=exact)


def _conversion(source, target):
    """A kernel that converts values as a card does. `run` then stores them in the target's dtype."""
    if source in FLOATS and target is DataType.UINT16:
        return lambda value: torch.floor(value.float() + 0.5).clamp(0, 0xFFFF)
    if source in FLOATS and target is DataType.UINT32:
        return lambda value: value.to(torch.int64).clamp(0, 0xFFFFFFFF)
    if source in FLOATS and target is DataType.UINT8:
        return lambda value: value.to(torch.int64) % 256
    if target is DataType.UINT16:
        return lambda value: value.clamp(0, 0xFFFF)
    if source is DataType.UINT32 and target in FLOATS:
        return lambda value: (value.to(torch.int64) & 0xFFFFFFFF).float()
    if target in BLOCK_FLOAT and source not in FLOATS:
        return lambda value: value.float()
    return lambda value: value.clone()


@op("ttnn.to_memory_config")
def to_memory_config(
    tensor: Tensor, memory_config: MemoryConfig, dtype: DataType = None, output_tensor: Tensor = None
) -> Tensor:
    """The tensor in another memory config, and in another dtype if given (TILE layout only).

    As the vendor's op does, a tensor that already has this memory config is returned itself, and `dtype` is ignored.
    """
    if tensor.is_allocated() and tensor.memory_config() == memory_config and output_tensor is None:
        if dtype not in (None, tensor.dtype):
            raise RuntimeError(f"a tensor with that memory config keeps its dtype, so {dtype} is ignored; use typecast")
        return tensor
    if dtype not in (None, tensor.dtype) and tensor.layout is not Layout.TILE:
        raise RuntimeError("only TILE layout can change its dtype")
    spec = TensorSpec(tensor.shape, tensor.dtype if dtype is None else dtype, tensor.layout, memory_config)
    return _convert(tensor, spec, output_tensor)


@op("ttnn.interleaved_to_sharded")
def interleaved_to_sharded(
    input_tensor: Tensor,
    sharded_memory_config: MemoryConfig,
    output_dtype: DataType = None,
    *,
    keep_l1_aligned: NoEffect[bool | None] = False,
    preallocated_output: NotEmulated = None,
) -> Tensor:
    """Shards an interleaved tensor, in another dtype if given. Another form takes the cores and the shard, in L1."""
    return _sharded(input_tensor, sharded_memory_config, output_dtype)


@interleaved_to_sharded.overload
def _interleaved_to_shards(
    input_tensor: Tensor,
    grid: CoreCoord | CoreRangeSet,
    shard_shape: Sequence[int],
    shard_scheme: TensorMemoryLayout,
    shard_orientation: ShardOrientation,
    output_dtype: DataType = None,
    *,
    keep_l1_aligned: NoEffect[bool | None] = False,
) -> Tensor:
    if isinstance(grid, CoreCoord):
        grid = CoreRangeSet([CoreRange(CoreCoord(0, 0), CoreCoord(grid.x - 1, grid.y - 1))])
    config = MemoryConfig(shard_scheme, BufferType.L1, ShardSpec(grid, shard_shape, shard_orientation))
    return _sharded(input_tensor, config, output_dtype)


def _sharded(input_tensor, sharded_memory_config, output_dtype):
    if input_tensor.memory_config().is_sharded():
        raise RuntimeError(f"the input must be interleaved, got {input_tensor.memory_config()}")
    if not sharded_memory_config.is_sharded():
        raise RuntimeError(f"the output must be sharded, got {sharded_memory_config}")
    dtype = input_tensor.dtype if output_dtype is None else output_dtype
    spec = TensorSpec(input_tensor.shape, dtype, input_tensor.layout, sharded_memory_config)
    return _convert(input_tensor, spec)


@op("ttnn.sharded_to_interleaved")
def sharded_to_interleaved(
    input_tensor: Tensor, memory_config: MemoryConfig = None, output_dtype: DataType = None
) -> Tensor:
    """Makes a sharded tensor interleaved, in DRAM unless `memory_config` is given."""
    memory_config = DRAM_MEMORY_CONFIG if memory_config is None else memory_config
    if not input_tensor.memory_config().is_sharded():
        raise RuntimeError(f"the input must be sharded, got {input_tensor.memory_config()}")
    if memory_config.is_sharded():
        raise RuntimeError(f"memory_config must be interleaved, got {memory_config}")
    dtype = input_tensor.dtype if output_dtype is None else output_dtype
    spec = TensorSpec(input_tensor.shape, dtype, input_tensor.layout, memory_config)
    return _convert(input_tensor, spec)


@op("ttnn.reshard")
def reshard(input_tensor: Tensor, output_memory_config: MemoryConfig, output_tensor: Tensor = None) -> Tensor:
    """Shards a sharded tensor in another way."""
    for what, config in (("the input", input_tensor.memory_config()), ("the output", output_memory_config)):
        if not config.is_sharded():
            raise RuntimeError(f"{what} must be sharded, got {config}")
    spec = TensorSpec(input_tensor.shape, input_tensor.dtype, input_tensor.layout, output_memory_config)
    return _convert(input_tensor, spec, output_tensor)


@op("ttnn.typecast")
def typecast(
    input_tensor: Tensor,
    dtype: DataType,
    *,
    memory_config: MemoryConfig = None,
    output_tensor: Tensor = None,
    sub_core_grids: NoEffect[worker_cores] = None,
) -> Tensor:
    """The tensor in another dtype. Another form takes the input's dtype and the output's.

    Floats are truncated to integers (rounded for UINT16), and clamped at 0 for unsigned ones. Host tensors too.
    """
    return _typecast(input_tensor, dtype, memory_config, output_tensor)


@typecast.overload
def _typecast_from(
    input_tensor: Tensor,
    input_dtype: DataType,
    output_dtype: DataType,
    *,
    memory_config: MemoryConfig = None,
    output_tensor: Tensor = None,
    sub_core_grids: NoEffect[worker_cores] = None,
) -> Tensor:
    if input_dtype is not input_tensor.dtype:
        raise RuntimeError(f"input_dtype {input_dtype} is not the tensor's {input_tensor.dtype}")
    return _typecast(input_tensor, output_dtype, memory_config, output_tensor)


def _typecast(input_tensor, wanted, memory_config, output_tensor):
    if input_tensor.storage_type().name == "HOST":
        check_host(memory_config=memory_config, output_tensor=output_tensor)
        return to_dtype(input_tensor, wanted)
    kept = input_tensor.memory_config()
    config = kept if memory_config is None else memory_config
    if output_tensor is not None and memory_config is None:
        config = output_tensor.memory_config()
    if config.memory_layout is not kept.memory_layout:
        raise RuntimeError(f"memory layout {config.memory_layout} must be the input's {kept.memory_layout}")
    spec = TensorSpec(input_tensor.shape, wanted, input_tensor.layout, config)
    return _convert(input_tensor, spec, output_tensor)


@op("ttnn.to_layout")
def to_layout(
    tensor: Tensor,
    layout: Layout,
    dtype: DataType = None,
    memory_config: MemoryConfig = None,
    sub_core_grids: NoEffect[worker_cores] = None,
    pad_value: NoEffect[float] = 0.0,
) -> Tensor:
    """The tensor in TILE or ROW_MAJOR layout. Block floats become BFLOAT16 in ROW_MAJOR. Host tensors too."""
    target = tensor.dtype if dtype is None else dtype
    if layout is Layout.ROW_MAJOR and tensor.dtype in BLOCK_FLOAT and dtype in (None, DataType.BFLOAT16):
        target = DataType.BFLOAT16
    elif layout is Layout.ROW_MAJOR and target is not tensor.dtype:
        raise RuntimeError(f"{tensor.dtype} cannot become {target} when going to ROW_MAJOR; use typecast")
    if tensor.storage_type().name == "HOST":
        check_host(memory_config=memory_config)
        spec = TensorSpec(tensor.shape, target, layout, tensor.memory_config())
        source = tensor if target is tensor.dtype else to_dtype(tensor, target)
        return Tensor(spec, Storage(source.shards, aliased=True))
    config = tensor.memory_config() if memory_config is None else memory_config
    if layout is tensor.layout and target is tensor.dtype and config == tensor.memory_config():
        return tensor
    spec = TensorSpec(tensor.shape, target, layout, config)
    return _convert(tensor, spec)


def _tilized(tensor, memory_config, dtype, padded_shape=None):
    if tensor.layout is not Layout.ROW_MAJOR:
        raise RuntimeError(f"the input must be in ROW_MAJOR layout, got {tensor.layout}")
    config = tensor.memory_config() if memory_config is None else memory_config
    dtype = tensor.dtype if dtype is None else dtype
    spec = TensorSpec(tensor.shape, dtype, Layout.TILE, config, padded_shape)
    return _convert(tensor, spec)


@op("ttnn.tilize")
def tilize(
    input_tensor: Tensor,
    *,
    memory_config: MemoryConfig = None,
    dtype: DataType = None,
    use_multicore: NoEffect[bool] = True,
    use_low_perf: NoEffect[bool] = False,
    tile: NotEmulated = ...,
    sub_core_grids: NoEffect[worker_cores] = None,
) -> Tensor:
    """Converts a ROW_MAJOR tensor to TILE layout. Its last two sizes must be multiples of 32."""
    shape = tuple(input_tensor.shape)
    if len(shape) < 2 or shape[-1] % 32 or shape[-2] % 32:
        raise RuntimeError(f"the last two sizes must be multiples of 32, got {list(shape)}")
    return _tilized(input_tensor, memory_config, dtype)


@op("ttnn.tilize_with_zero_padding")
def tilize_with_zero_padding(
    input_tensor: Tensor,
    *,
    memory_config: MemoryConfig = None,
    output_dtype: DataType = None,
    use_multicore: NoEffect[bool] = True,
    sub_core_grids: NoEffect[worker_cores] = None,
) -> Tensor:
    """Converts a ROW_MAJOR tensor to TILE layout, padded to whole tiles."""
    return _tilized(input_tensor, memory_config, output_dtype)


@op("ttnn.tilize_with_val_padding")
def tilize_with_val_padding(
    input_tensor: Tensor,
    output_tensor_shape: Sequence[int],
    pad_value: NoEffect[float],
    *,
    memory_config: MemoryConfig = None,
    dtype: DataType = None,
    use_multicore: NoEffect[bool] = True,
    sub_core_grids: NoEffect[worker_cores] = None,
) -> Tensor:
    """Converts a ROW_MAJOR tensor to TILE layout, padded to `output_tensor_shape`. Padding has no value here."""
    padded = tuple(output_tensor_shape)
    if len(padded) != len(input_tensor.shape) or any(want < have for want, have in zip(padded, input_tensor.shape)):
        raise RuntimeError(f"{list(padded)} does not contain {list(input_tensor.shape)}")
    if padded[-1] % 32 or padded[-2] % 32:
        raise RuntimeError(f"{list(padded)} must end in multiples of 32")
    return _tilized(input_tensor, memory_config, dtype, padded)


def _untilized(tensor, shape, memory_config):
    if tensor.layout is not Layout.TILE:
        raise RuntimeError(f"the input must be in TILE layout, got {tensor.layout}")
    config = tensor.memory_config() if memory_config is None else memory_config
    dtype = DataType.BFLOAT16 if tensor.dtype in BLOCK_FLOAT else tensor.dtype
    index = tuple(slice(0, size) for size in shape)
    spec = TensorSpec(shape, dtype, Layout.ROW_MAJOR, config)
    return Program(lambda value: value[index], [tensor], spec, exact=True)


@op("ttnn.untilize")
def untilize(
    input_tensor: Tensor,
    *,
    memory_config: MemoryConfig = None,
    use_multicore: bool = True,
    sub_core_grids: worker_cores = None,
) -> Tensor:
    """Converts a TILE tensor to ROW_MAJOR layout. Block floats become BFLOAT16."""
    check_multicore(use_multicore, sub_core_grids)
    return _untilized(input_tensor, input_tensor.shape, memory_config)


@op("ttnn.untilize_with_unpadding")
def untilize_with_unpadding(
    input_tensor: Tensor,
    output_tensor_end: Sequence[int],
    *,
    memory_config: MemoryConfig = None,
    use_multicore: NoEffect[bool] = True,
    sub_core_grids: NoEffect[worker_cores] = None,
) -> Tensor:
    """Converts a TILE tensor to ROW_MAJOR layout, and keeps the elements up to and including `output_tensor_end`."""
    shape = tuple(end + 1 for end in output_tensor_end)
    if len(shape) != len(input_tensor.shape) or any(want > have for want, have in zip(shape, input_tensor.shape)):
        raise RuntimeError(
            f"the end {list(output_tensor_end)} is not inside {list(input_tensor.shape)}"
        )
    return _untilized(input_tensor, Shape(shape), memory_config)
