"""Ops that change where or how a tensor is held, but not its elements: memory config, layout, dtype."""

import torch

from ..cores import CoreCoord, CoreRange, CoreRangeSet
from ..dtypes import BLOCK_FLOAT, FLOATS, BufferType, DataType, Layout
from ..memory import DRAM_MEMORY_CONFIG, MemoryConfig, ShardSpec
from ..op import op, run
from ..shapes import Shape
from ..tensor import Storage, Tensor, TensorSpec
from .common import check_tensor, run_to, same_stored_values
from .creation import to_dtype


def _identity(value):
    return value


def _convert(name, tensor, spec, attributes, output_tensor=None):
    """The tensor under another spec of the same shape."""
    if output_tensor is not None:
        return run_to(name, _identity, [tensor], spec, output_tensor, attributes)
    exact = same_stored_values(tensor.dtype, spec.dtype)
    kernel = _identity if exact else _conversion(tensor.dtype, spec.dtype)
    return run(name, kernel, [tensor], [spec], attributes, exact=exact)


def _conversion(source, target):
    """A kernel that converts values as a card does; `run` then stores them in the target's dtype."""
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

    In that memory config already, the tensor itself, whatever `dtype` says: as the vendor's op does.
    """
    check_tensor("to_memory_config", tensor)
    if tensor.is_allocated() and tensor.memory_config() == memory_config and output_tensor is None:
        if dtype not in (None, tensor.dtype):
            raise RuntimeError(
                f"to_memory_config: the tensor has that memory config already, so a card would ignore {dtype}; "
                "use typecast"
            )
        return tensor
    if dtype not in (None, tensor.dtype) and tensor.layout is not Layout.TILE:
        raise RuntimeError("to_memory_config: only TILE layout can change its dtype")
    spec = TensorSpec(tensor.shape, tensor.dtype if dtype is None else dtype, tensor.layout, memory_config)
    return _convert("ttnn.to_memory_config", tensor, spec, {"memory_config": memory_config}, output_tensor)


@op("ttnn.interleaved_to_sharded")
def interleaved_to_sharded(input_tensor: Tensor, *args, **kwargs) -> Tensor:
    """An interleaved tensor, sharded: (tensor, sharded_memory_config, output_dtype=None), or
    (tensor, grid, shard_shape, shard_scheme, shard_orientation, output_dtype=None) in L1."""
    if args and isinstance(args[0], (CoreCoord, CoreRangeSet)) or "grid" in kwargs:
        return _to_shards_of(input_tensor, *args, **kwargs)
    return _to_sharded(input_tensor, *args, **kwargs)


def _to_shards_of(input_tensor, grid, shard_shape, shard_scheme, shard_orientation, output_dtype=None):
    if isinstance(grid, CoreCoord):
        grid = CoreRangeSet([CoreRange(CoreCoord(0, 0), CoreCoord(grid.x - 1, grid.y - 1))])
    config = MemoryConfig(shard_scheme, BufferType.L1, ShardSpec(grid, shard_shape, shard_orientation))
    return _to_sharded(input_tensor, config, output_dtype)


def _to_sharded(input_tensor, sharded_memory_config, output_dtype=None, *, keep_l1_aligned=False):
    check_tensor("interleaved_to_sharded", input_tensor)
    if input_tensor.memory_config().is_sharded():
        raise RuntimeError(f"interleaved_to_sharded: the input must be interleaved, got {input_tensor.memory_config()}")
    if not sharded_memory_config.is_sharded():
        raise RuntimeError(f"interleaved_to_sharded: the output must be sharded, got {sharded_memory_config}")
    dtype = input_tensor.dtype if output_dtype is None else output_dtype
    spec = TensorSpec(input_tensor.shape, dtype, input_tensor.layout, sharded_memory_config)
    attributes = {"memory_config": sharded_memory_config, "output_dtype": output_dtype}
    return _convert("ttnn.interleaved_to_sharded", input_tensor, spec, attributes)


@op("ttnn.sharded_to_interleaved")
def sharded_to_interleaved(
    input_tensor: Tensor, memory_config: MemoryConfig = None, output_dtype: DataType = None
) -> Tensor:
    """A sharded tensor, interleaved (in DRAM unless `memory_config` says otherwise)."""
    check_tensor("sharded_to_interleaved", input_tensor)
    memory_config = DRAM_MEMORY_CONFIG if memory_config is None else memory_config
    if not input_tensor.memory_config().is_sharded():
        raise RuntimeError(f"sharded_to_interleaved: the input must be sharded, got {input_tensor.memory_config()}")
    if memory_config.is_sharded():
        raise RuntimeError(f"sharded_to_interleaved: memory_config must be interleaved, got {memory_config}")
    dtype = input_tensor.dtype if output_dtype is None else output_dtype
    spec = TensorSpec(input_tensor.shape, dtype, input_tensor.layout, memory_config)
    attributes = {"memory_config": memory_config, "output_dtype": output_dtype}
    return _convert("ttnn.sharded_to_interleaved", input_tensor, spec, attributes)


@op("ttnn.reshard")
def reshard(input_tensor: Tensor, output_memory_config: MemoryConfig, output_tensor: Tensor = None) -> Tensor:
    """A sharded tensor, sharded in another way."""
    check_tensor("reshard", input_tensor)
    for what, config in (("the input", input_tensor.memory_config()), ("the output", output_memory_config)):
        if not config.is_sharded():
            raise RuntimeError(f"reshard: {what} must be sharded, got {config}")
    spec = TensorSpec(input_tensor.shape, input_tensor.dtype, input_tensor.layout, output_memory_config)
    return _convert("ttnn.reshard", input_tensor, spec, {"memory_config": output_memory_config}, output_tensor)


@op("ttnn.typecast")
def typecast(input_tensor: Tensor, *dtypes, dtype=None, input_dtype=None, output_dtype=None,
             memory_config: MemoryConfig = None, output_tensor: Tensor = None, sub_core_grids=None) -> Tensor:
    """The tensor in another dtype: typecast(x, dtype), or typecast(x, input_dtype, output_dtype).

    Floats become integers by truncation (UINT16 by rounding), unsigned ones clamped at 0. Host tensors too.
    """
    check_tensor("typecast", input_tensor)
    if len(dtypes) == 2:
        input_dtype, output_dtype = dtypes
    elif len(dtypes) == 1:
        dtype = dtypes[0]
    wanted = output_dtype if dtype is None else dtype
    if not isinstance(wanted, DataType) or len(dtypes) > 2:
        raise TypeError("typecast: takes (input_tensor, dtype) or (input_tensor, input_dtype, output_dtype)")
    if input_dtype not in (None, input_tensor.dtype):
        raise RuntimeError(f"typecast: input_dtype {input_dtype} is not the tensor's {input_tensor.dtype}")
    if input_tensor.storage_type().name == "HOST":
        return to_dtype(input_tensor, wanted)
    kept = input_tensor.memory_config()
    config = kept if memory_config is None else memory_config
    if config.memory_layout is not kept.memory_layout:
        raise RuntimeError(f"typecast: memory layout {config.memory_layout} must be the input's {kept.memory_layout}")
    spec = TensorSpec(input_tensor.shape, wanted, input_tensor.layout, config)
    return _convert("ttnn.typecast", input_tensor, spec, {"dtype": wanted, "memory_config": config}, output_tensor)


@op("ttnn.to_layout")
def to_layout(
    tensor: Tensor,
    layout: Layout,
    dtype: DataType = None,
    memory_config: MemoryConfig = None,
    sub_core_grids=None,
    pad_value: float = 0.0,
) -> Tensor:
    """The tensor in TILE or ROW_MAJOR layout. Block floats become BFLOAT16 in ROW_MAJOR. Host tensors too."""
    check_tensor("to_layout", tensor)
    target = tensor.dtype if dtype is None else dtype
    if layout is Layout.ROW_MAJOR and tensor.dtype in BLOCK_FLOAT and dtype in (None, DataType.BFLOAT16):
        target = DataType.BFLOAT16
    elif layout is Layout.ROW_MAJOR and target is not tensor.dtype:
        raise RuntimeError(f"to_layout: {tensor.dtype} cannot become {target} when going to ROW_MAJOR; use typecast")
    if tensor.storage_type().name == "HOST":
        spec = TensorSpec(tensor.shape, target, layout, tensor.memory_config())
        source = tensor if target is tensor.dtype else to_dtype(tensor, target)
        return Tensor(spec, Storage(source.shards, aliased=True))
    config = tensor.memory_config() if memory_config is None else memory_config
    if layout is tensor.layout and target is tensor.dtype and config == tensor.memory_config():
        return tensor
    spec = TensorSpec(tensor.shape, target, layout, config)
    attributes = {"layout": layout, "dtype": target, "memory_config": config}
    return _convert("ttnn.to_layout", tensor, spec, attributes)


def _tilized(name, tensor, memory_config, dtype, padded_shape=None):
    check_tensor(name, tensor)
    if tensor.layout is not Layout.ROW_MAJOR:
        raise RuntimeError(f"{name}: the input must be in ROW_MAJOR layout, got {tensor.layout}")
    config = tensor.memory_config() if memory_config is None else memory_config
    dtype = tensor.dtype if dtype is None else dtype
    spec = TensorSpec(tensor.shape, dtype, Layout.TILE, config, padded_shape)
    return _convert(name, tensor, spec, {"dtype": dtype, "memory_config": config})


@op("ttnn.tilize")
def tilize(
    input_tensor: Tensor,
    *,
    memory_config: MemoryConfig = None,
    dtype: DataType = None,
    use_multicore: bool = True,
    use_low_perf: bool = False,
    sub_core_grids=None,
) -> Tensor:
    """A ROW_MAJOR tensor, whose last two sizes are multiples of 32, in TILE layout."""
    shape = tuple(input_tensor.shape)
    if len(shape) < 2 or shape[-1] % 32 or shape[-2] % 32:
        raise RuntimeError(f"tilize: the last two sizes must be multiples of 32, got {list(shape)}")
    return _tilized("ttnn.tilize", input_tensor, memory_config, dtype)


@op("ttnn.tilize_with_zero_padding")
def tilize_with_zero_padding(
    input_tensor: Tensor,
    *,
    memory_config: MemoryConfig = None,
    output_dtype: DataType = None,
    use_multicore: bool = True,
    sub_core_grids=None,
) -> Tensor:
    """A ROW_MAJOR tensor in TILE layout, padded as far as needed."""
    return _tilized("ttnn.tilize_with_zero_padding", input_tensor, memory_config, output_dtype)


@op("ttnn.tilize_with_val_padding")
def tilize_with_val_padding(
    input_tensor: Tensor,
    output_tensor_shape,
    pad_value,
    *,
    memory_config: MemoryConfig = None,
    dtype: DataType = None,
    use_multicore: bool = True,
    sub_core_grids=None,
) -> Tensor:
    """A ROW_MAJOR tensor in TILE layout, padded to `output_tensor_shape`. Padding has no value here."""
    padded = tuple(output_tensor_shape)
    if len(padded) != len(input_tensor.shape) or any(want < have for want, have in zip(padded, input_tensor.shape)):
        raise RuntimeError(f"tilize_with_val_padding: {list(padded)} does not contain {list(input_tensor.shape)}")
    if padded[-1] % 32 or padded[-2] % 32:
        raise RuntimeError(f"tilize_with_val_padding: {list(padded)} must end in multiples of 32")
    return _tilized("ttnn.tilize_with_val_padding", input_tensor, memory_config, dtype, padded)


def _untilized(name, tensor, shape, memory_config):
    check_tensor(name, tensor)
    if tensor.layout is not Layout.TILE:
        raise RuntimeError(f"{name}: the input must be in TILE layout, got {tensor.layout}")
    config = tensor.memory_config() if memory_config is None else memory_config
    dtype = DataType.BFLOAT16 if tensor.dtype in BLOCK_FLOAT else tensor.dtype
    index = tuple(slice(0, size) for size in shape)
    return run(
        name,
        lambda value: value[index],
        [tensor],
        [TensorSpec(shape, dtype, Layout.ROW_MAJOR, config)],
        {"memory_config": config},
        exact=True,
    )


@op("ttnn.untilize")
def untilize(
    input_tensor: Tensor, *, memory_config: MemoryConfig = None, use_multicore: bool = True, sub_core_grids=None
) -> Tensor:
    """A TILE tensor in ROW_MAJOR layout; block floats become BFLOAT16."""
    check_tensor("untilize", input_tensor)
    return _untilized("ttnn.untilize", input_tensor, input_tensor.shape, memory_config)


@op("ttnn.untilize_with_unpadding")
def untilize_with_unpadding(
    input_tensor: Tensor,
    output_tensor_end,
    *,
    memory_config: MemoryConfig = None,
    use_multicore: bool = True,
    sub_core_grids=None,
) -> Tensor:
    """A TILE tensor in ROW_MAJOR layout, cut to the elements up to, and including, `output_tensor_end`."""
    check_tensor("untilize_with_unpadding", input_tensor)
    shape = tuple(end + 1 for end in output_tensor_end)
    if len(shape) != len(input_tensor.shape) or any(want > have for want, have in zip(shape, input_tensor.shape)):
        raise RuntimeError(
            f"untilize_with_unpadding: the end {list(output_tensor_end)} is not inside {list(input_tensor.shape)}"
        )
    return _untilized("ttnn.untilize_with_unpadding", input_tensor, Shape(shape), memory_config)
