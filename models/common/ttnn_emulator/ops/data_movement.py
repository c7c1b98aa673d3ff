"""Ops that cut tensors into parts and put parts together: slice, concat, pad, repeat, split."""

from collections.abc import Sequence

import torch

from ..declaration import NoEffect, NotEmulated
from ..dtypes import BLOCK_FLOAT, TILE_SIZE, Layout
from ..memory import DRAM_MEMORY_CONFIG, MemoryConfig
from ..op import op
from ..program import Program
from ..shapes import Shape
from ..tensor import Storage, Tensor, TensorSpec
from .checks import check_host, check_multicore, worker_cores
from .common import config_for, into, moves_exactly, normalise_dim
from .placement import to_memory_config


@op("ttnn.slice")
def slice_(
    input_tensor: Tensor,
    slice_start: Sequence[int],
    slice_end: Sequence[int],
    slice_step: Sequence[int] = None,
    *,
    memory_config: MemoryConfig = None,
    output_tensor: Tensor = None,
    pad_value: NoEffect[float] = None,
    sub_core_grids: NoEffect[worker_cores] = None,
) -> Tensor:
    """Every `slice_step`-th element from `slice_start` up to, but not including, `slice_end`.

    Each argument has one number per dimension; negative numbers count from the end. A slice of everything returns the
    tensor itself. Block floats must start at multiples of 32 in the last two dimensions, without steps.
    """
    return _slice(input_tensor, slice_start, slice_end, slice_step, memory_config, output_tensor)


@slice_.overload
def _slice_by_steps(
    input_tensor: Tensor,
    starts: Sequence[int],
    ends: Sequence[int],
    steps: Sequence[int],
    *,
    memory_config: MemoryConfig = None,
    output_tensor: Tensor = None,
    pad_value: NoEffect[float] = None,
    sub_core_grids: NoEffect[worker_cores] = None,
) -> Tensor:
    return _slice(input_tensor, starts, ends, steps, memory_config, output_tensor)


def _slice(input_tensor, begin, end, step, memory_config, output_tensor):
    shape = tuple(input_tensor.shape)
    step = [1] * len(shape) if step is None else list(step)
    if not len(begin) == len(end) == len(step) == len(shape):
        raise RuntimeError(f"starts {list(begin)}, ends {list(end)} and steps {step} must fit {list(shape)}")
    begin = [at + size if at < 0 else at for at, size in zip(begin, shape)]
    end = [at + size if at < 0 else at for at, size in zip(end, shape)]
    for first, last, stride, size in zip(begin, end, step, shape):
        if not 0 <= first <= last <= size or stride < 1:
            raise RuntimeError(f"[{begin}, {end}) by {step} is not inside {list(shape)}")
    if input_tensor.dtype in BLOCK_FLOAT:
        if any(at % TILE_SIZE for at in begin[-2:]) or any(stride != 1 for stride in step):
            raise RuntimeError(
                f"{input_tensor.dtype} must start at multiples of {TILE_SIZE} in the last two dimensions and "
                f"have no steps, got starts {begin}, steps {step}; typecast to BFLOAT16 first"
            )
    new_shape = Shape(-(-(last - first) // stride) for first, last, stride in zip(begin, end, step))
    if new_shape == shape and memory_config in (None, input_tensor.memory_config()) and output_tensor is None:
        return input_tensor
    wanted = memory_config
    if output_tensor is not None and wanted is None:
        wanted = output_tensor.memory_config()
    config = config_for(input_tensor, new_shape, wanted)
    spec = TensorSpec(new_shape, input_tensor.dtype, input_tensor.layout, config)
    index = tuple(slice(first, last, stride) for first, last, stride in zip(begin, end, step))
    if output_tensor is not None:
        return into(
            output_tensor, lambda value: value[index], [input_tensor], spec, input_tensor.dtype, memory_config
        )
    return Program(lambda value: value[index], [input_tensor], spec, exact=True)


@op("ttnn.concat")
def concat(
    tensors: Sequence[Tensor],
    dim: int = 0,
    *,
    memory_config: MemoryConfig = None,
    output_tensor: NotEmulated = None,
    groups: NotEmulated = 1,
    sub_core_grids: NoEffect[worker_cores] = None,
) -> Tensor:
    """The tensors, one after another along `dim`. The output is interleaved in DRAM unless `memory_config` is given.

    The tensors must agree in dtype and all other sizes, and be all sharded or all interleaved. Block floats must
    have tile-aligned sizes in the last two dimensions.
    """
    tensors = list(tensors)
    if not tensors:
        raise RuntimeError("needs at least one tensor")
    first = tensors[0]
    dim = normalise_dim(dim, len(first.shape))
    for tensor in tensors:
        if tensor.dtype is not first.dtype:
            raise RuntimeError(f"all tensors must have one dtype, got {first.dtype} and {tensor.dtype}")
        if _without(tensor.shape, dim) != _without(first.shape, dim):
            raise RuntimeError(f"{list(first.shape)} and {list(tensor.shape)} differ outside dimension {dim}")
        if tensor.memory_config().is_sharded() != first.memory_config().is_sharded():
            raise RuntimeError("all tensors must be sharded or all interleaved")
    if first.dtype in BLOCK_FLOAT and dim >= len(first.shape) - 2:
        if any(tensor.shape[dim] % TILE_SIZE for tensor in tensors):
            raise RuntimeError(f"{first.dtype} needs multiples of {TILE_SIZE} along dimension {dim}")
    shape = list(first.shape)
    shape[dim] = sum(tensor.shape[dim] for tensor in tensors)
    layout = first.layout if all(tensor.layout is first.layout for tensor in tensors) else Layout.TILE
    config = DRAM_MEMORY_CONFIG if memory_config is None else memory_config
    spec = TensorSpec(shape, first.dtype, layout, config)
    if len(tensors) == 1:
        # As the vendor's op does: a single tensor that already is in `config` is returned without a copy.
        return to_memory_config(first, config)
    return Program(lambda *parts: torch.cat(parts, dim), tensors, spec, exact=True)


def _without(shape, dim):
    return tuple(size for index, size in enumerate(shape) if index != dim)


@op("ttnn.pad")
def pad(
    input_tensor: Tensor,
    padding: Sequence[Sequence[int]],
    value: float,
    *,
    use_multicore: bool = True,
    memory_config: MemoryConfig = None,
    sub_core_grids: worker_cores = None,
) -> Tensor:
    """The tensor with `value` put around it, in the logical shape. Host tensors too.

    `padding` is a pair (before, after) per dimension; missing leading pairs are (0, 0). In TILE layout `before` must
    be 0. In another form, `output_padded_shape` and `input_tensor_start` say where the tensor goes.
    """
    check_multicore(use_multicore, sub_core_grids)
    return _pad(input_tensor, padding, value, memory_config)


@pad.overload
def _pad_to(
    input_tensor: Tensor,
    output_padded_shape: Sequence[int],
    input_tensor_start: Sequence[int],
    value: float,
    *,
    use_multicore: bool = True,
    memory_config: MemoryConfig = None,
    sub_core_grids: worker_cores = None,
) -> Tensor:
    padding = [
        (start, target - start - size)
        for target, start, size in zip(output_padded_shape, input_tensor_start, input_tensor.shape)
    ]
    check_multicore(use_multicore, sub_core_grids)
    return _pad(input_tensor, padding, value, memory_config)


def _pad(input_tensor, padding, value, memory_config):
    shape = tuple(input_tensor.shape)
    if len(padding) > len(shape):
        raise RuntimeError(f"{list(padding)} has more entries than {list(shape)} has dimensions")
    padding = [(0, 0)] * (len(shape) - len(padding)) + [tuple(entry) for entry in padding]
    if any(len(entry) != 2 or min(entry) < 0 for entry in padding):
        raise TypeError(f"padding must be pairs of numbers >= 0, got {padding}")
    on_host = input_tensor.storage_type().name == "HOST"
    if input_tensor.layout is Layout.TILE and not on_host and any(before for before, _ in padding):
        raise RuntimeError(f"in TILE layout nothing can be put before a tensor, got {padding}")
    new_shape = Shape(before + size + after for size, (before, after) in zip(shape, padding))
    index = tuple(slice(before, before + size) for size, (before, _) in zip(shape, padding))

    def kernel(tensor):
        padded = tensor.new_full(tuple(new_shape), value)
        padded[index] = tensor
        return padded

    if on_host:
        check_host(memory_config=memory_config)
        spec = TensorSpec(new_shape, input_tensor.dtype, input_tensor.layout)
        return Tensor(spec, Storage(type(input_tensor.shards)([kernel(shard) for shard in input_tensor.shards])))
    config = config_for(input_tensor, new_shape, memory_config)
    spec = TensorSpec(new_shape, input_tensor.dtype, input_tensor.layout, config)
    exact = moves_exactly(input_tensor.dtype, new_shape[-1] == shape[-1] and value == 0)
    return Program(kernel, [input_tensor], spec, exact=exact)


@op("ttnn.repeat")
def repeat(
    input_tensor: Tensor,
    repeat_dims: Sequence[int],
    *,
    memory_config: MemoryConfig = None,
    optional_output_tensor: Tensor = None,
) -> Tensor:
    """The tensor repeated `repeat_dims` times along each dimension. The shorter of the two gets leading 1s."""
    times, shape = tuple(repeat_dims), tuple(input_tensor.shape)
    rank = max(len(times), len(shape))
    times = (1,) * (rank - len(times)) + times
    shape = (1,) * (rank - len(shape)) + shape
    if any(count < 1 for count in times):
        raise RuntimeError(f"repeat_dims must be at least 1, got {list(repeat_dims)}")
    new_shape = Shape(size * count for size, count in zip(shape, times))
    config = config_for(input_tensor, new_shape, memory_config)
    spec = TensorSpec(new_shape, input_tensor.dtype, input_tensor.layout, config)

    def kernel(tensor):
        return tensor.reshape(shape).repeat(times)

    if optional_output_tensor is not None:
        return into(optional_output_tensor, kernel, [input_tensor], spec, input_tensor.dtype, memory_config)
    exact = moves_exactly(input_tensor.dtype, times[-1] == 1)
    return Program(kernel, [input_tensor], spec, exact=exact)


@op("ttnn.repeat_interleave")
def repeat_interleave(input_tensor: Tensor, repeats: int, dim: int, *, memory_config: MemoryConfig = None) -> Tensor:
    """Every element along `dim` repeated `repeats` times in a row."""
    dim = normalise_dim(dim, len(input_tensor.shape))
    shape = list(input_tensor.shape)
    shape[dim] *= repeats
    config = config_for(input_tensor, shape, memory_config)
    spec = TensorSpec(shape, input_tensor.dtype, input_tensor.layout, config)
    exact = moves_exactly(input_tensor.dtype, dim != len(shape) - 1)
    return Program(lambda tensor: tensor.repeat_interleave(repeats, dim), [input_tensor], spec, exact=exact)


@op("ttnn.split")
def split(
    input_tensor: Tensor, split_size: int | Sequence[int], dim: int = 0, *, memory_config: MemoryConfig = None
) -> list:
    """Parts of size `split_size` along `dim` (the last may be smaller), or parts of the listed sizes."""
    shape = tuple(input_tensor.shape)
    dim = normalise_dim(dim, len(shape))
    if isinstance(split_size, int):
        split_size = [min(split_size, shape[dim] - start) for start in range(0, shape[dim], split_size)]
    if sum(split_size) != shape[dim]:
        raise RuntimeError(f"parts {list(split_size)} do not add up to {shape[dim]}")
    if memory_config is None and input_tensor.memory_config().is_sharded():
        memory_config = DRAM_MEMORY_CONFIG
    parts, start = [], 0
    for size in split_size:
        begin, end = [0] * len(shape), list(shape)
        begin[dim], end[dim] = start, start + size
        parts.append(slice_(input_tensor, begin, end, memory_config=memory_config))
        start += size
    return parts


@op("ttnn.chunk")
def chunk(input_tensor: Tensor, chunks: int, dim: int) -> list:
    """`chunks` parts along `dim`, all of the same size except the last."""
    size = input_tensor.shape[normalise_dim(dim, len(input_tensor.shape))]
    return split(input_tensor, -(-size // chunks), dim)
