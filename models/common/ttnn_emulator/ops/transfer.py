"""Moving tensors between the host and the mesh, copying and freeing them."""

import torch

from ..allocator import Buffer
from ..dtypes import DataType
from ..memory import MemoryConfig
from ..op import op, rounding, run
from ..tensor import Replicated, Storage, Tensor, TensorSpec


def check_readable(name, tensor):
    if tensor._device is not None and tensor._device.capture is not None:
        raise RuntimeError(f"{name}: a device tensor cannot be read while a trace is captured")
    if tensor.storage.pending:
        raise RuntimeError(f"{name}: {tensor._describe()} is the output of a trace that has not been executed")


def check_writable(name, device):
    if device.capture is not None:
        raise RuntimeError(f"{name}: the host cannot write to the mesh while a trace is captured")


@op("ttnn.to_device")
def to_device(tensor: Tensor, device, memory_config: MemoryConfig = None, *, queue_id: int = None) -> Tensor:
    """The tensor on a mesh; one host shard goes to every device. On the mesh already, it is returned as it is."""
    if tensor._device is not None:
        if tensor._device is device and memory_config in (None, tensor._memory_config):
            return tensor
        raise RuntimeError(f"to_device: {tensor._describe()} is already on {tensor._device}")
    check_writable("to_device", device)
    spec = TensorSpec(tensor.shape, tensor.dtype, tensor.layout, memory_config)
    shards = _spread("to_device", tensor.shards, device)
    tensor.storage.aliased = True
    return on_device(spec, device, Storage(shards, aliased=True))


def _spread(name, shards, device):
    if device.shape_only:
        return Replicated((shards[0].to("meta"),) * device.num_devices)
    if len(shards) == 1:
        return Replicated((shards[0],) * device.num_devices)
    if len(shards) != device.num_devices:
        raise RuntimeError(f"{name}: {len(shards)} host shards do not fit {device}")
    return shards if type(shards) is Replicated else list(shards)


def on_device(spec: TensorSpec, device, storage: Storage) -> Tensor:
    """A tensor on a mesh with a buffer of its own. RuntimeError if memory runs out."""
    buffer = Buffer(device.allocator, spec.memory_config.buffer_type, spec.bank_bytes)
    return Tensor(spec, storage, device, buffer)


@op("ttnn.from_device")
def from_device(tensor: Tensor, blocking: bool = True, *, queue_id: int = None) -> Tensor:
    """A host tensor with the values of every device."""
    if tensor._device is None:
        return tensor
    check_readable("from_device", tensor)
    tensor.storage.aliased = True
    return Tensor(tensor.spec, Storage(tensor.shards, aliased=True))


@op("ttnn.copy_host_to_device_tensor")
def copy_host_to_device_tensor(host_tensor: Tensor, device_tensor: Tensor, cq_id: int = None) -> None:
    """Gives `device_tensor` the values of a host tensor of the same shape, dtype and layout."""
    if host_tensor._device is not None or device_tensor._device is None:
        raise RuntimeError("copy_host_to_device_tensor: takes a host tensor, then a device tensor")
    check_writable("copy_host_to_device_tensor", device_tensor._device)
    for name in ("shape", "dtype", "layout"):
        have, want = getattr(host_tensor, name), getattr(device_tensor, name)
        if have != want:
            raise RuntimeError(f"copy_host_to_device_tensor: {name} {have} does not fit the device tensor's {want}")
    device_tensor.shards  # raises if deallocated
    shards = _spread("copy_host_to_device_tensor", host_tensor.shards, device_tensor._device)
    host_tensor.storage.aliased = device_tensor.storage.aliased = True
    device_tensor.storage.shards = shards
    device_tensor.storage.pending = device_tensor.storage.zeroed = False


@op("ttnn.copy_device_to_host_tensor")
def copy_device_to_host_tensor(
    device_tensor: Tensor, host_tensor: Tensor, blocking: bool = True, cq_id: int = None
) -> None:
    """Gives a host tensor the values of `device_tensor`, which must have the same shape, dtype and layout."""
    if device_tensor._device is None or host_tensor._device is not None:
        raise RuntimeError("copy_device_to_host_tensor: takes a device tensor, then a host tensor")
    check_readable("copy_device_to_host_tensor", device_tensor)
    for name in ("shape", "dtype", "layout"):
        have, want = getattr(device_tensor, name), getattr(host_tensor, name)
        if have != want:
            raise RuntimeError(f"copy_device_to_host_tensor: {name} {have} does not fit the host tensor's {want}")
    host_tensor.storage.aliased = device_tensor.storage.aliased = True
    host_tensor.storage.shards = device_tensor.shards
    host_tensor.storage.zeroed = False


@op("ttnn.deallocate")
def deallocate(tensor: Tensor, force: bool = True) -> None:
    """Gives back the tensor's buffer; reading the tensor, or a view of it, is an error from then on."""
    tensor.deallocate(force)


@op("ttnn.clone")
def clone(
    input: Tensor, *, dtype: DataType = None, memory_config: MemoryConfig = None, compute_kernel_config=None
) -> Tensor:
    """A copy in a buffer of its own, in another dtype or memory config if given."""
    dtype = input.dtype if dtype is None else dtype
    memory_config = input.memory_config() if memory_config is None else memory_config
    if memory_config.memory_layout is not input.memory_config().memory_layout:
        raise RuntimeError(f"clone: memory layout {memory_config} must be the input's {input.memory_config()}")
    spec = TensorSpec(input.shape, dtype, input.layout, memory_config)
    return run("ttnn.clone", torch.clone, [input], [spec], {"dtype": dtype, "memory_config": memory_config})


@op("ttnn.move")
def move(input_tensor: Tensor, *, memory_config: MemoryConfig = None) -> Tensor:
    """Moves a tensor into a new buffer and gives back the old one."""
    memory_config = input_tensor.memory_config() if memory_config is None else memory_config
    spec = TensorSpec(input_tensor.shape, input_tensor.dtype, input_tensor.layout, memory_config)
    attributes = {"memory_config": memory_config}
    output = run("ttnn.move", lambda value: value, [input_tensor], [spec], attributes, exact=True)
    input_tensor.deallocate()
    return output


@op("ttnn.reallocate")
def reallocate(tensor: Tensor, memory_config: MemoryConfig = None) -> Tensor:
    """As `move`."""
    return move(tensor, memory_config=memory_config)


@op("ttnn.copy")
def copy(input_a: Tensor, input_b: Tensor) -> Tensor:
    """Writes the values of `input_a` into `input_b`, of the same shape."""
    if input_a.shape != input_b.shape:
        raise RuntimeError(f"copy: shapes {input_a.shape} and {input_b.shape} differ")
    round_to = rounding(input_b.dtype)
    return run("ttnn.copy", lambda a, b: b.copy_(round_to(a)), [input_a, input_b], [], in_place=input_b)
