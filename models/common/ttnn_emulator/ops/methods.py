"""The ops that tensors also have as methods and operators."""

from ..device import MeshDevice
from ..dtypes import Layout
from ..tensor import Tensor
from . import binary, creation, data_movement, placement, reshaping, transfer


def _to(tensor, target, memory_config=None, *, cq_id=None):
    """`tensor.to(device, memory_config=None)` or `tensor.to(layout)`."""
    if isinstance(target, MeshDevice):
        return transfer.to_device(tensor, target, memory_config)
    if isinstance(target, Layout):
        return placement.to_layout(tensor, target)
    raise TypeError(f"Tensor.to: takes a MeshDevice or a Layout, got {target!r}")


def _reshape(tensor, *shape):
    """`tensor.reshape(shape)`, or four numbers."""
    if len(shape) == 1:
        shape = shape[0]
    elif len(shape) != 4:
        raise TypeError(f"Tensor.reshape: takes one sequence or four numbers, got {shape}")
    return reshaping.reshape(tensor, shape)


def _cpu(tensor, blocking=True, cq_id=None):
    """The tensor on the host."""
    return transfer.from_device(tensor, blocking)


def _item(tensor):
    """The value of a tensor of one element."""
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
Tensor.__getitem__ = data_movement.getitem
Tensor.__add__ = lambda a, b: binary.add(a, b)
Tensor.__radd__ = lambda a, b: binary.add(b, a)
Tensor.__sub__ = lambda a, b: binary.subtract(a, b)
Tensor.__rsub__ = lambda a, b: binary.subtract(b, a)
Tensor.__mul__ = lambda a, b: binary.multiply(a, b)
Tensor.__rmul__ = lambda a, b: binary.multiply(b, a)
Tensor.__truediv__ = lambda a, b: binary.divide(a, b)
