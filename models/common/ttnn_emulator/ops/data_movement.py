"""Ops that take parts of tensors and put them together: slice, concat, pad, repeat, split."""

import torch

from ..dtypes import BLOCK_FLOAT, TILE_SIZE, Layout
from ..memory import DRAM_MEMORY_CONFIG, MemoryConfig
from ..op import op, run
from ..shapes import Shape
from ..tensor import Storage, Tensor, TensorSpec
from .common import check_tensor, config_for, moves_exactly, normalise_dim, run_to
from .placement import to_memory_config
from .reshaping import squeeze


@op("ttnn.slice")
def slice_(
    input_tensor: Tensor,
    slice_start=None,
    slice_end=None,
    slice_step=None,
    *,
    starts=None,
    ends=None,
    steps=None,
    memory_config: MemoryConfig = None,
    output_tensor: Tensor = None,
    pad_value: float = None,
    sub_core_grids=None,
) -> Tensor:
    """The elements from `slice_start` up to, not including, `slice_end`, every `slice_step`-th.

    Each is a list with a number per dimension (negative: from the end). The whole tensor is returned as it
    is. Block floats must start at multiples of 32 in the last two dimensions and have no steps.
    """
    check_tensor("slice", input_tensor)
    begin = starts if slice_start is None else slice_start
    end = ends if slice_end is None else slice_end
    step = steps if slice_step is None else slice_step
    if begin is None or end is None:
        raise TypeError("slice: slice_start and slice_end are required")
    if isinstance(begin, Tensor) or isinstance(end, Tensor):
        raise TypeError("slice: the emulator takes starts and ends as numbers, not as tensors")
    shape = tuple(input_tensor.shape)
    step = [1] * len(shape) if step is None else list(step)
    if not len(begin) == len(end) == len(step) == len(shape):
        raise RuntimeError(f"slice: starts {list(begin)}, ends {list(end)} and steps {step} must fit {list(shape)}")
    begin = [at + size if at < 0 else at for at, size in zip(begin, shape)]
    end = [at + size if at < 0 else at for at, size in zip(end, shape)]
    for first, last, stride, size in zip(begin, end, step, shape):
        if not 0 <= first <= last <= size or stride < 1:
            raise RuntimeError(f"slice: [{begin}, {end}) by {step} is not inside {list(shape)}")
    if input_tensor.dtype in BLOCK_FLOAT:
        if any(at % TILE_SIZE for at in begin[-2:]) or any(stride != 1 for stride in step):
            raise RuntimeError(
                f"slice: {input_tensor.dtype} must start at multiples of {TILE_SIZE} in the last two dimensions and "
                f"have no steps, got starts {begin}, steps {step}; typecast to BFLOAT16 first"
            )
    new_shape = Shape(-(-(last - first) // stride) for first, last, stride in zip(begin, end, step))
    if new_shape == shape and memory_config in (None, input_tensor.memory_config()) and output_tensor is None:
        return input_tensor
    if output_tensor is not None and memory_config is None:
        memory_config = output_tensor.memory_config()
    config = config_for("slice", input_tensor, new_shape, memory_config)
    spec = TensorSpec(new_shape, input_tensor.dtype, input_tensor.layout, config)
    index = tuple(slice(first, last, stride) for first, last, stride in zip(begin, end, step))
    attributes = {"starts": begin, "ends": end, "steps": step, "memory_config": config}
    if output_tensor is not None:
        return run_to("ttnn.slice", lambda value: value[index], [input_tensor], spec, output_tensor, attributes)
    return run("ttnn.slice", lambda value: value[index], [input_tensor], [spec], attributes, exact=True)


def getitem(tensor: Tensor, index):
    """`tensor[...]` with integers (which drop their dimension), slices and one ellipsis."""
    index = list(index) if isinstance(index, (tuple, list)) else [index]
    rank = len(tensor.shape)
    if index.count(Ellipsis) > 1:
        raise ValueError("only one ellipsis is allowed in an index")
    if Ellipsis in index:
        at = index.index(Ellipsis)
        index[at : at + 1] = [slice(None)] * (rank - len(index) + 1)
    index += [slice(None)] * (rank - len(index))
    if len(index) > rank:
        raise IndexError(f"too many indices for a tensor of rank {rank}")
    begin, end, step, dropped = [], [], [], []
    for dim, (entry, size) in enumerate(zip(index, tensor.shape)):
        if isinstance(entry, int):
            position = entry + size if entry < 0 else entry
            if not 0 <= position < size:
                raise IndexError(f"index {entry} is out of bounds for dimension {dim} of size {size}")
            entry = slice(position, position + 1, 1)
            dropped.append(dim)
        if not isinstance(entry, slice):
            raise TypeError(f"an index must be an int, a slice or an ellipsis, got {entry!r}")
        begin.append(0 if entry.start is None else entry.start)
        end.append(size if entry.stop is None else entry.stop)
        step.append(1 if entry.step is None else entry.step)
    if tensor.storage_type().name == "HOST":
        part = _host_slice(tensor, begin, end, step)
    else:
        part = slice_(tensor, begin, end, step)
    return squeeze(part, dropped) if dropped else part


def _host_slice(tensor, begin, end, step):
    if any(stride != 1 for stride in step):
        raise RuntimeError("a host tensor cannot be indexed with steps")
    index = tuple(slice(first, last) for first, last in zip(begin, end))
    shards = type(tensor.shards)([shard[index] for shard in tensor.shards])
    tensor.storage.aliased = True
    spec = TensorSpec(tuple(shards[0].shape), tensor.dtype, tensor.layout)
    return Tensor(spec, Storage(shards, aliased=True))


@op("ttnn.concat")
def concat(
    tensors,
    dim: int = 0,
    *,
    memory_config: MemoryConfig = None,
    output_tensor: Tensor = None,
    groups: int = 1,
    sub_core_grids=None,
) -> Tensor:
    """The tensors one after another along `dim`; interleaved in DRAM unless `memory_config` says otherwise.

    They must agree in dtype and in all other sizes, and be all sharded or all interleaved. Block floats must
    have tile-aligned sizes in the last two dimensions.
    """
    tensors = list(tensors)
    if not tensors:
        raise RuntimeError("concat: needs at least one tensor")
    if groups != 1:
        raise RuntimeError(f"concat: groups must be 1, got {groups}")
    for tensor in tensors:
        check_tensor("concat", tensor)
    first = tensors[0]
    dim = normalise_dim("concat", dim, len(first.shape))
    for tensor in tensors:
        if tensor.dtype is not first.dtype:
            raise RuntimeError(f"concat: all tensors must have one dtype, got {first.dtype} and {tensor.dtype}")
        if _without(tensor.shape, dim) != _without(first.shape, dim):
            raise RuntimeError(f"concat: {list(first.shape)} and {list(tensor.shape)} differ outside dimension {dim}")
        if tensor.memory_config().is_sharded() != first.memory_config().is_sharded():
            raise RuntimeError("concat: all tensors must be sharded or all interleaved")
    if first.dtype in BLOCK_FLOAT and dim >= len(first.shape) - 2:
        if any(tensor.shape[dim] % TILE_SIZE for tensor in tensors):
            raise RuntimeError(f"concat: {first.dtype} needs multiples of {TILE_SIZE} along dimension {dim}")
    shape = list(first.shape)
    shape[dim] = sum(tensor.shape[dim] for tensor in tensors)
    layout = first.layout if all(tensor.layout is first.layout for tensor in tensors) else Layout.TILE
    config = DRAM_MEMORY_CONFIG if memory_config is None else memory_config
    if output_tensor is not None:
        config = output_tensor.memory_config()
    spec = TensorSpec(shape, first.dtype, layout, config)
    if len(tensors) == 1 and output_tensor is None:
        # As the vendor's op: one tensor, where it is wanted already, is given back and not copied.
        return to_memory_config(first, config)
    attributes = {"dim": dim, "memory_config": config}
    if output_tensor is not None:
        return run_to("ttnn.concat", lambda *parts: torch.cat(parts, dim), tensors, spec, output_tensor, attributes)
    return run("ttnn.concat", lambda *parts: torch.cat(parts, dim), tensors, [spec], attributes, exact=True)


def _without(shape, dim):
    return tuple(size for index, size in enumerate(shape) if index != dim)


@op("ttnn.pad")
def pad(input_tensor: Tensor, *args, **kwargs) -> Tensor:
    """The tensor with `value` put around it, logically: (tensor, padding, value), `padding` a (before, after)
    per dimension, missing leading ones being (0, 0); or (tensor, output_shape, input_start, value).

    In TILE layout nothing can be put before. Host tensors too.
    """
    check_tensor("pad", input_tensor)
    if "output_padded_shape" in kwargs or (args and isinstance(args[0][0], int)):
        return _pad_to(input_tensor, *args, **kwargs)
    return _pad_by(input_tensor, *args, **kwargs)


def _pad_to(input_tensor, output_padded_shape, input_tensor_start, value, **kwargs):
    padding = [
        (start, target - start - size)
        for target, start, size in zip(output_padded_shape, input_tensor_start, input_tensor.shape)
    ]
    return _pad_by(input_tensor, padding, value, **kwargs)


def _pad_by(input_tensor, padding, value, *, use_multicore=True, memory_config=None, sub_core_grids=None):
    shape = tuple(input_tensor.shape)
    if len(padding) > len(shape):
        raise RuntimeError(f"pad: {list(padding)} has more entries than {list(shape)} has dimensions")
    padding = [(0, 0)] * (len(shape) - len(padding)) + [tuple(entry) for entry in padding]
    if any(len(entry) != 2 or min(entry) < 0 for entry in padding):
        raise TypeError(f"pad: padding must be pairs of numbers >= 0, got {padding}")
    on_host = input_tensor.storage_type().name == "HOST"
    if input_tensor.layout is Layout.TILE and not on_host and any(before for before, _ in padding):
        raise RuntimeError(f"pad: in TILE layout nothing can be put before a tensor, got {padding}")
    new_shape = Shape(before + size + after for size, (before, after) in zip(shape, padding))
    index = tuple(slice(before, before + size) for size, (before, _) in zip(shape, padding))

    def kernel(tensor):
        padded = tensor.new_full(tuple(new_shape), value)
        padded[index] = tensor
        return padded

    if on_host:
        spec = TensorSpec(new_shape, input_tensor.dtype, input_tensor.layout)
        return Tensor(spec, Storage(type(input_tensor.shards)([kernel(shard) for shard in input_tensor.shards])))
    config = config_for("pad", input_tensor, new_shape, memory_config)
    spec = TensorSpec(new_shape, input_tensor.dtype, input_tensor.layout, config)
    exact = moves_exactly(input_tensor.dtype, new_shape[-1] == shape[-1] and value == 0)
    attributes = {"padding": padding, "value": value, "memory_config": config}
    return run("ttnn.pad", kernel, [input_tensor], [spec], attributes, exact=exact)


@op("ttnn.repeat")
def repeat(
    input_tensor: Tensor, repeat_dims, *, memory_config: MemoryConfig = None, optional_output_tensor: Tensor = None
) -> Tensor:
    """The tensor repeated `repeat_dims` times along each dimension; the shorter of the two is filled with ones."""
    check_tensor("repeat", input_tensor)
    times, shape = tuple(repeat_dims), tuple(input_tensor.shape)
    rank = max(len(times), len(shape))
    times = (1,) * (rank - len(times)) + times
    shape = (1,) * (rank - len(shape)) + shape
    if any(count < 1 for count in times):
        raise RuntimeError(f"repeat: repeat_dims must be at least 1, got {list(repeat_dims)}")
    new_shape = Shape(size * count for size, count in zip(shape, times))
    config = config_for("repeat", input_tensor, new_shape, memory_config)
    spec = TensorSpec(new_shape, input_tensor.dtype, input_tensor.layout, config)
    attributes = {"repeat_dims": times, "memory_config": config}

    def kernel(tensor):
        return tensor.reshape(shape).repeat(times)

    if optional_output_tensor is not None:
        return run_to("ttnn.repeat", kernel, [input_tensor], spec, optional_output_tensor, attributes)
    exact = moves_exactly(input_tensor.dtype, times[-1] == 1)
    return run("ttnn.repeat", kernel, [input_tensor], [spec], attributes, exact=exact)


@op("ttnn.repeat_interleave")
def repeat_interleave(input_tensor: Tensor, repeats: int, dim: int, *, memory_config: MemoryConfig = None) -> Tensor:
    """Every element along `dim` repeated `repeats` times in a row."""
    check_tensor("repeat_interleave", input_tensor)
    dim = normalise_dim("repeat_interleave", dim, len(input_tensor.shape))
    shape = list(input_tensor.shape)
    shape[dim] *= repeats
    config = config_for("repeat_interleave", input_tensor, shape, memory_config)
    spec = TensorSpec(shape, input_tensor.dtype, input_tensor.layout, config)
    exact = moves_exactly(input_tensor.dtype, dim != len(shape) - 1)
    return run(
        "ttnn.repeat_interleave",
        lambda tensor: tensor.repeat_interleave(repeats, dim),
        [input_tensor],
        [spec],
        {"repeats": repeats, "dim": dim, "memory_config": config},
        exact=exact,
    )


@op("ttnn.split")
def split(input_tensor: Tensor, split_size, dim: int = 0, *, memory_config: MemoryConfig = None) -> list:
    """Parts of `split_size` along `dim` (the last may be smaller), or parts of the sizes listed."""
    check_tensor("split", input_tensor)
    shape = tuple(input_tensor.shape)
    dim = normalise_dim("split", dim, len(shape))
    if isinstance(split_size, int):
        split_size = [min(split_size, shape[dim] - start) for start in range(0, shape[dim], split_size)]
    if sum(split_size) != shape[dim]:
        raise RuntimeError(f"split: parts {list(split_size)} do not add up to {shape[dim]}")
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
    """`chunks` parts along `dim`, all of one size but the last."""
    check_tensor("chunk", input_tensor)
    size = input_tensor.shape[normalise_dim("chunk", dim, len(input_tensor.shape))]
    return split(input_tensor, -(-size // chunks), dim)
