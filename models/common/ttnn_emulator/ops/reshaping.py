"""Ops that give the same elements another shape or order: reshape, view, permute, transpose, squeeze."""

from ..dtypes import TILE_SIZE, DataType, Layout
from ..memory import MemoryConfig
from ..op import op, run
from ..shapes import Shape, volume
from ..tensor import Storage, Tensor, TensorSpec
from .common import check_tensor, config_for, moves_exactly, normalise_dim


def _resolved(name, tensor, shape):
    """`shape` with its -1, if any, worked out."""
    shape = tuple(int(size) for size in shape)
    elements = tensor.logical_volume()
    if shape.count(-1) > 1 or any(size < -1 for size in shape):
        raise RuntimeError(f"{name}: shape {list(shape)} may have one -1 and no other negative size")
    if -1 in shape:
        rest = volume(size for size in shape if size != -1)
        if rest == 0 or elements % rest:
            raise RuntimeError(f"{name}: {list(tensor.shape)} does not fit {list(shape)}")
        shape = tuple(elements // rest if size == -1 else size for size in shape)
    return shape


def _is_view(tensor, shape):
    """The vendor's rule for a reshape that moves nothing."""
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
    """`change` of every shard, the same object for the same object."""
    changed = {}
    for shard in shards:
        if id(shard) not in changed:
            changed[id(shard)] = change(shard)
    return [changed[id(shard)] for shard in shards]


@op("ttnn.reshape")
def reshape(
    input_tensor: Tensor,
    shape,
    padded_shape=None,
    *,
    memory_config: MemoryConfig = None,
    pad_value=None,
    reshape_tile_mode=None,
    sub_core_grids=None,
    skip_padding_fill: bool = False,
) -> Tensor:
    """The tensor's elements in another shape; one size may be -1. A view where nothing has to move.

    With `padded_shape`, which must be the tensor's own, only the logical shape changes: elements of the
    padding come into it as zeros, or go out of it. Host tensors too.
    """
    check_tensor("reshape", input_tensor)
    if padded_shape is not None:
        return _relabelled(input_tensor, tuple(shape), tuple(padded_shape))
    shape = _resolved("reshape", input_tensor, shape)
    if volume(shape) != input_tensor.logical_volume():
        raise RuntimeError(f"reshape: {list(input_tensor.shape)} cannot become {list(shape)}: volumes differ")
    if input_tensor.storage_type().name == "HOST":
        return _reshaped_host(input_tensor, shape)
    kept = input_tensor.memory_config()
    attributes = {"shape": shape, "memory_config": memory_config}
    if memory_config in (None, kept) and _is_view(input_tensor, shape):
        if shape == tuple(input_tensor.shape):
            return input_tensor
        return _viewed("ttnn.reshape", input_tensor, shape, attributes)
    if input_tensor.dtype in (DataType.UINT16, DataType.UINT8):
        raise RuntimeError(f"reshape: {input_tensor.dtype} is not supported unless nothing moves")
    config = config_for("reshape", input_tensor, shape, memory_config)
    spec = TensorSpec(shape, input_tensor.dtype, input_tensor.layout, config)
    exact = moves_exactly(input_tensor.dtype, shape[-1:] == tuple(input_tensor.shape)[-1:])
    return run("ttnn.reshape", _to_shape(shape, exact), [input_tensor], [spec], attributes, exact=exact)


def _to_shape(shape, exact):
    if exact:
        return lambda value: value.reshape(shape)
    return lambda value: value.reshape(shape).clone()


def _viewed(name, tensor, shape, attributes):
    spec = TensorSpec(shape, tensor.dtype, tensor.layout, tensor.memory_config())
    return run(name, lambda value: value.reshape(shape), [tensor], [spec], attributes, view=True)


def _relabelled(tensor, shape, padded):
    if padded != tuple(tensor.padded_shape):
        raise RuntimeError(f"reshape: padded shape {list(padded)} must be the tensor's {list(tensor.padded_shape)}")
    if len(shape) != len(tensor.shape) or any(size > limit for size, limit in zip(shape, padded)):
        raise RuntimeError(f"reshape: shape {list(shape)} does not fit into the padded shape {list(padded)}")
    spec = TensorSpec(shape, tensor.dtype, tensor.layout, tensor.memory_config(), padded)
    common = tuple(slice(0, min(new, old)) for new, old in zip(shape, tensor.shape))
    grows = any(new > old for new, old in zip(shape, tensor.shape))

    def kernel(value):
        if not grows:
            return value[common]
        out = value.new_zeros(shape)
        out[common] = value[common]
        return out

    return run("ttnn.reshape", kernel, [tensor], [spec], {"shape": shape, "padded_shape": padded}, view=True)


@op("ttnn.view")
def view(input_tensor: Tensor, shape) -> Tensor:
    """The same buffer under another shape. RuntimeError if elements would have to move; use reshape then."""
    check_tensor("view", input_tensor)
    shape = _resolved("view", input_tensor, shape)
    if volume(shape) != input_tensor.logical_volume() or not _is_view(input_tensor, shape):
        raise RuntimeError(
            f"view: {list(input_tensor.shape)} cannot be seen as {list(shape)}: the last size must stay, and in TILE "
            "layout the second last must stay or both be multiples of 32; use reshape"
        )
    return _viewed("ttnn.view", input_tensor, shape, {"shape": shape})


@op("ttnn.experimental.view")
def experimental_view(input_tensor: Tensor, *shape) -> Tensor:
    """`view`, with the shape as one sequence or as four numbers."""
    return view(input_tensor, shape[0] if len(shape) == 1 else shape)


@op("ttnn.unsqueeze_to_4D")
def unsqueeze_to_4D(tensor: Tensor) -> Tensor:
    """The tensor with ones in front up to rank 4. Host tensors too."""
    check_tensor("unsqueeze_to_4D", tensor)
    rank = len(tensor.shape)
    if rank > 4:
        raise RuntimeError(f"unsqueeze_to_4D: rank {rank} is greater than 4")
    return reshape(tensor, (1,) * (4 - rank) + tuple(tensor.shape))


@op("ttnn.unsqueeze")
def unsqueeze(input_tensor: Tensor, dim: int) -> Tensor:
    """The tensor with a size of 1 put in at `dim`."""
    check_tensor("unsqueeze", input_tensor)
    shape = list(input_tensor.shape)
    dim = normalise_dim("unsqueeze", dim, len(shape) + 1)
    return reshape(input_tensor, shape[:dim] + [1] + shape[dim:])


@op("ttnn.squeeze")
def squeeze(input_tensor: Tensor, dim=None) -> Tensor:
    """The tensor without its sizes of 1: all of them, or those at `dim` (an int or several). Others stay."""
    check_tensor("squeeze", input_tensor)
    shape = tuple(input_tensor.shape)
    dims = range(len(shape)) if dim is None else [dim] if isinstance(dim, int) else dim
    dims = {normalise_dim("squeeze", d, len(shape)) for d in dims}
    return reshape(input_tensor, [size for d, size in enumerate(shape) if d not in dims or size != 1])


@op("ttnn.permute")
def permute(input_tensor: Tensor, dims, pad_value: float = 0.0, *, memory_config: MemoryConfig = None) -> Tensor:
    """The tensor with its dimensions in the order `dims`."""
    check_tensor("permute", input_tensor)
    rank = len(input_tensor.shape)
    if len(dims) != rank:
        raise RuntimeError(f"permute: {list(dims)} must name the {rank} dimensions of {list(input_tensor.shape)}")
    order = tuple(normalise_dim("permute", dim, rank) for dim in dims)
    if len(set(order)) != rank:
        raise RuntimeError(f"permute: {list(dims)} names a dimension twice")
    return _permuted("ttnn.permute", input_tensor, order, memory_config)


@op("ttnn.transpose")
def transpose(
    input_tensor: Tensor, dim1: int, dim2: int, pad_value: float = 0.0, *, memory_config: MemoryConfig = None
) -> Tensor:
    """The tensor with two dimensions swapped."""
    check_tensor("transpose", input_tensor)
    rank = len(input_tensor.shape)
    first, second = normalise_dim("transpose", dim1, rank), normalise_dim("transpose", dim2, rank)
    order = list(range(rank))
    order[first], order[second] = order[second], order[first]
    return _permuted("ttnn.transpose", input_tensor, tuple(order), memory_config)


def _permuted(name, tensor, order, memory_config):
    shape = Shape(tensor.shape[dim] for dim in order)
    config = config_for(name, tensor, shape, memory_config)
    spec = TensorSpec(shape, tensor.dtype, tensor.layout, config)
    exact = moves_exactly(tensor.dtype, not order or order[-1] == len(order) - 1)
    kernel = (lambda value: value.permute(order)) if exact else (lambda value: value.permute(order).contiguous())
    return run(name, kernel, [tensor], [spec], {"dims": order, "memory_config": config}, exact=exact)
