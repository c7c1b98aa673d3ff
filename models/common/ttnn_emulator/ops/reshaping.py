"""Ops that change the shape or the order of the elements: reshape, view, permute, transpose, squeeze."""

from collections.abc import Sequence

from ..declaration import NoEffect, NotEmulated
from ..dtypes import TILE_SIZE, DataType, Layout, StorageType
from ..memory import MemoryConfig
from ..op import op
from ..program import Program
from ..shapes import Shape, volume
from ..tensor import Storage, Tensor, TensorSpec
from .checks import check_host, worker_cores
from .common import config_for, moves_exactly, normalise_dim


def _resolved(tensor, shape):
    """`shape` with the computed size in place of -1."""
    shape = tuple(map(int, shape))
    if min(shape, default=0) >= 0:
        return shape
    elements = tensor.logical_volume()
    if shape.count(-1) > 1 or any(size < -1 for size in shape):
        raise RuntimeError(f"shape {list(shape)} may have one -1 and no other negative size")
    if -1 in shape:
        rest = volume(size for size in shape if size != -1)
        if rest == 0 or elements % rest:
            raise RuntimeError(f"{list(tensor.shape)} does not fit {list(shape)}")
        shape = tuple(elements // rest if size == -1 else size for size in shape)
    return shape


def _is_view(tensor, shape):
    """The vendor's rule: whether a reshape moves no elements."""
    old = (1,) * (2 - len(tensor.shape)) + tuple(tensor.shape)
    new = (1,) * (2 - len(shape)) + tuple(shape)
    if old[-1] != new[-1]:
        return False
    aligned = old[-2] % TILE_SIZE == 0 and new[-2] % TILE_SIZE == 0
    return tensor.layout is Layout.ROW_MAJOR or old[-2] == new[-2] or aligned


def _reshaped_host(tensor, shape):
    shards = type(tensor.shards)(_distinct(tensor.shards, lambda shard: shard.reshape(shape)))
    tensor.storage.aliased = True
    spec = TensorSpec(shape, tensor.dtype, tensor.layout, tensor.memory_config())
    return Tensor(spec, Storage(shards, aliased=True))


def _distinct(shards, change):
    """Applies `change` to every shard. Shards that share an object share the result."""
    changed = {}
    for shard in shards:
        if id(shard) not in changed:
            changed[id(shard)] = change(shard)
    return [changed[id(shard)] for shard in shards]


@op("ttnn.reshape")
def reshape(
    input_tensor: Tensor,
    shape: Sequence[int],
    *,
    memory_config: MemoryConfig = None,
    pad_value: NoEffect[float] = None,
    reshape_tile_mode: NotEmulated = ...,
    sub_core_grids: NoEffect[worker_cores] = None,
    skip_padding_fill: NoEffect[bool] = False,
) -> Tensor:
    """The tensor's elements in another shape; one size may be -1. A view if no element has to move. Host tensors too.

    Another form takes a `logical_shape` and a `padded_shape`, which must be the tensor's own. A larger logical shape
    includes padding, as zeros. A smaller one turns elements into padding.
    """
    shape, kept = _resolved(input_tensor, shape), input_tensor.memory_config()
    on_host = input_tensor.storage_type() is StorageType.HOST
    if shape == input_tensor.shape and not on_host and memory_config in (None, kept):
        return input_tensor
    if volume(shape) != input_tensor.logical_volume():
        raise RuntimeError(f"{list(input_tensor.shape)} cannot become {list(shape)}: volumes differ")
    if on_host:
        check_host(memory_config=memory_config)
        return _reshaped_host(input_tensor, shape)
    if memory_config in (None, kept) and _is_view(input_tensor, shape):
        return _viewed(input_tensor, shape)
    if input_tensor.dtype in (DataType.UINT16, DataType.UINT8):
        raise RuntimeError(f"{input_tensor.dtype} is not supported unless nothing moves")
    config = config_for(input_tensor, shape, memory_config)
    spec = TensorSpec(shape, input_tensor.dtype, input_tensor.layout, config)
    exact = moves_exactly(input_tensor.dtype, shape[-1:] == tuple(input_tensor.shape)[-1:])
    return Program(_to_shape(shape, exact), [input_tensor], spec, exact=exact)


def _to_shape(shape, exact):
    if exact:
        return lambda value: value.reshape(shape)
    return lambda value: value.reshape(shape).clone()


def _viewed(tensor, shape):
    spec = TensorSpec(shape, tensor.dtype, tensor.layout, tensor.memory_config())
    return Program(lambda value: value.reshape(shape), [tensor], spec, view=True)


@reshape.overload
def _relabelled(
    input_tensor: Tensor,
    logical_shape: Sequence[int],
    padded_shape: Sequence[int],
    *,
    memory_config: MemoryConfig = None,
    pad_value: NotEmulated = None,
    reshape_tile_mode: NotEmulated = ...,
    sub_core_grids: NoEffect[worker_cores] = None,
    skip_padding_fill: NoEffect[bool] = False,
) -> Tensor:
    tensor, shape, padded = input_tensor, tuple(logical_shape), tuple(padded_shape)
    if memory_config not in (None, tensor.memory_config()):
        raise RuntimeError(f"memory_config must be the tensor's {tensor.memory_config()}, got {memory_config}")
    if padded != tuple(tensor.padded_shape):
        raise RuntimeError(f"padded shape {list(padded)} must be the tensor's {list(tensor.padded_shape)}")
    if len(shape) != len(tensor.shape) or any(size > limit for size, limit in zip(shape, padded)):
        raise RuntimeError(f"shape {list(shape)} does not fit into the padded shape {list(padded)}")
    spec = TensorSpec(shape, tensor.dtype, tensor.layout, tensor.memory_config(), padded)
    common = tuple(slice(0, min(new, old)) for new, old in zip(shape, tensor.shape))
    grows = any(new > old for new, old in zip(shape, tensor.shape))

    def kernel(value):
        if not grows:
            return value[common]
        out = value.new_zeros(shape)
        out[common] = value[common]
        return out

    return Program(kernel, [tensor], spec, view=True)


@op("ttnn.view")
def view(input_tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """The same buffer in another shape. RuntimeError if elements would have to move; use reshape for that."""
    shape = _resolved(input_tensor, shape)
    if volume(shape) != input_tensor.logical_volume() or not _is_view(input_tensor, shape):
        raise RuntimeError(
            f"{list(input_tensor.shape)} cannot be seen as {list(shape)}: the last size must stay, and in TILE "
            "layout the second last must stay or both be multiples of 32; use reshape"
        )
    return _viewed(input_tensor, shape)


@op("ttnn.experimental.view")
def experimental_view(input_tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """`view`, with the shape as one sequence or as four numbers."""
    return view(input_tensor, shape)


@experimental_view.overload
def _view_of_rank_4(input_tensor: Tensor, N: int, C: int, H: int, W: int) -> Tensor:
    return view(input_tensor, (N, C, H, W))


@op("ttnn.unsqueeze_to_4D")
def unsqueeze_to_4D(tensor: Tensor) -> Tensor:
    """The tensor with leading sizes of 1, up to rank 4. Host tensors too."""
    rank = len(tensor.shape)
    if rank > 4:
        raise RuntimeError(f"rank {rank} is greater than 4")
    return reshape(tensor, (1,) * (4 - rank) + tuple(tensor.shape))


@op("ttnn.unsqueeze")
def unsqueeze(input_tensor: Tensor, dim: int) -> Tensor:
    """The tensor with a size of 1 inserted at `dim`."""
    shape = list(input_tensor.shape)
    dim = normalise_dim(dim, len(shape) + 1)
    return reshape(input_tensor, shape[:dim] + [1] + shape[dim:])


@op("ttnn.squeeze")
def squeeze(input_tensor: Tensor, dim: int | Sequence[int] = None) -> Tensor:
    """The tensor without its sizes of 1: all of them, or those at `dim` (an int or several). Other sizes stay."""
    shape = tuple(input_tensor.shape)
    dims = range(len(shape)) if dim is None else [dim] if isinstance(dim, int) else dim
    dims = {normalise_dim(d, len(shape)) for d in dims}
    return reshape(input_tensor, [size for d, size in enumerate(shape) if d not in dims or size != 1])


@op("ttnn.permute")
def permute(
    input_tensor: Tensor,
    dims: Sequence[int],
    *,
    memory_config: MemoryConfig = None,
    pad_value: NoEffect[float] = 0.0,
) -> Tensor:
    """The tensor with its dimensions in the order `dims`. Another form takes `pad_value` by position."""
    return _permuted(input_tensor, dims, memory_config)


@permute.overload
def _permute_padded(input_tensor: Tensor, dims: Sequence[int], pad_value: NoEffect[float] = 0.0) -> Tensor:
    return _permuted(input_tensor, dims, None)


@op("ttnn.transpose")
def transpose(
    input_tensor: Tensor, dim1: int, dim2: int, *, memory_config: MemoryConfig = None, pad_value: float = 0.0
) -> Tensor:
    """The tensor with two dimensions swapped. Another form takes `pad_value` by position."""
    return _transposed(input_tensor, dim1, dim2, memory_config, pad_value)


@transpose.overload
def _transpose_padded(input_tensor: Tensor, dim1: int, dim2: int, pad_value: float = 0.0) -> Tensor:
    return _transposed(input_tensor, dim1, dim2, None, pad_value)


def _transposed(tensor, dim1, dim2, memory_config, pad_value):
    rank = len(tensor.shape)
    first, second = normalise_dim(dim1, rank), normalise_dim(dim2, rank)
    # The padding of tiles has no value here. A card can fill it only when these two dimensions are swapped.
    if pad_value and {first - rank, second - rank} != {-3, -2}:
        raise RuntimeError(f"pad_value={pad_value} is possible where dimensions -3 and -2 are swapped; use 0.0")
    order = list(range(rank))
    order[first], order[second] = order[second], order[first]
    return _permuted(tensor, order, memory_config)


def _permuted(tensor, dims, memory_config):
    rank = len(tensor.shape)
    if len(dims) != rank:
        raise RuntimeError(f"{list(dims)} must name the {rank} dimensions of {list(tensor.shape)}")
    order = tuple(normalise_dim(dim, rank) for dim in dims)
    if len(set(order)) != rank:
        raise RuntimeError(f"{list(dims)} names a dimension twice")
    shape = Shape(tensor.shape[dim] for dim in order)
    config = config_for(tensor, shape, memory_config)
    spec = TensorSpec(shape, tensor.dtype, tensor.layout, config)
    exact = moves_exactly(tensor.dtype, not order or order[-1] == len(order) - 1)
    kernel = (lambda value: value.permute(order)) if exact else (lambda value: value.permute(order).contiguous())
    return Program(kernel, [tensor], spec, exact=exact)
