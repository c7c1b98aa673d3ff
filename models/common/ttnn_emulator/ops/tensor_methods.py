"""Gives tensors methods and operators that call ops."""

from ..device import MeshDevice
from ..dtypes import Layout
from ..tensor import Storage, Tensor, TensorSpec
from . import binary, creation, data_movement, placement, reshaping, transfer


def _to(tensor, target, memory_config=None, *, cq_id=None):
    """`tensor.to(device, memory_config=None)` or `tensor.to(layout)`."""
    if isinstance(target, MeshDevice):
        return transfer.to_device(tensor, target, memory_config, queue_id=cq_id)
    if isinstance(target, Layout) and memory_config is cq_id is None:
        return placement.to_layout(tensor, target)
    raise TypeError(f"Tensor.to: takes a MeshDevice (memory_config, cq_id) or a Layout, got {target!r}")


def _reshape(tensor, *shape):
    """`tensor.reshape(shape)`, with the shape as one sequence or as four numbers."""
    if len(shape) == 1:
        shape = shape[0]
    elif len(shape) != 4:
        raise TypeError(f"Tensor.reshape: takes one sequence or four numbers, got {shape}")
    return reshaping.reshape(tensor, shape)


def _cpu(tensor, blocking=True, cq_id=None):
    """The tensor, copied to the host."""
    return transfer.from_device(tensor, blocking, queue_id=cq_id)


def _getitem(tensor: Tensor, index):
    """`tensor[...]` with integers (each removes its dimension), slices and at most one ellipsis."""
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
        part = data_movement.slice_(tensor, begin, end, step)
    return reshaping.squeeze(part, dropped) if dropped else part


def _host_slice(tensor, begin, end, step):
    if any(stride != 1 for stride in step):
        raise RuntimeError("a host tensor cannot be indexed with steps")
    index = tuple(slice(first, last) for first, last in zip(begin, end))
    shards = type(tensor.shards)([shard[index] for shard in tensor.shards])
    tensor.storage.aliased = True
    spec = TensorSpec(tuple(shards[0].shape), tensor.dtype, tensor.layout)
    return Tensor(spec, Storage(shards, aliased=True))


def _item(tensor):
    """The value of a tensor with one element."""
    return creation.to_torch(tensor).item()


def _to_list(tensor):
    """The values as nested lists."""
    return creation.to_torch(tensor).tolist()


Tensor.to = _to
Tensor.cpu = _cpu
Tensor.reshape = _reshape
Tensor.item = _item
Tensor.to_list = _to_list
Tensor.to_torch = lambda tensor, **options: creation.to_torch(tensor, **options)
Tensor.__getitem__ = _getitem
Tensor.__add__ = lambda a, b: binary.add(a, b)
Tensor.__radd__ = lambda a, b: binary.add(b, a)
Tensor.__sub__ = lambda a, b: binary.subtract(a, b)
Tensor.__rsub__ = lambda a, b: binary.subtract(b, a)
Tensor.__mul__ = lambda a, b: binary.multiply(a, b)
Tensor.__rmul__ = lambda a, b: binary.multiply(b, a)
Tensor.__truediv__ = lambda a, b: binary.divide(a, b)
