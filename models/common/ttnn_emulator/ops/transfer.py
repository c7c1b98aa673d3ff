"""Moves tensors between the host and the mesh, copies and frees them."""

import torch

from ..allocator import Buffer
from ..declaration import NoEffect, NotEmulated
from ..device import MeshDevice
from ..dtypes import DataType
from ..memory import MemoryConfig
from ..op import op
from ..program import Program, rounding
from ..program_config import DeviceComputeKernelConfig
from ..tensor import Replicated, Storage, Tensor, TensorSpec


def check_readable(tensor):
    if tensor._device is not None and tensor._device.capture is not None:
        raise RuntimeError("a device tensor cannot be read while a trace is captured")
    if tensor.storage.pending:
        raise RuntimeError(f"{tensor._describe()} is the output of a trace that has not been executed")


def check_writable(device):
    if device.capture is not None:
        raise RuntimeError("the host cannot write to the mesh while a trace is captured")


@op("ttnn.to_device")
def to_device(
    tensor: Tensor, device: MeshDevice, memory_config: MemoryConfig = None, *, queue_id: int = None
) -> Tensor:
    """The tensor on a mesh. A single host shard goes to every device. A tensor already on the mesh is returned."""
    device.check_queue(queue_id)
    if tensor._device is not None:
        if tensor._device is device and memory_config in (None, tensor._memory_config):
            return tensor
        raise RuntimeError(f"{tensor._describe()} is already on {tensor._device}")
    check_writable(device)
    spec = TensorSpec(tensor.shape, tensor.dtype, tensor.layout, memory_config)
    shards = _spread(tensor.shards, device)
    tensor.storage.aliased = True
    return on_device(spec, device, Storage(shards, aliased=True))


def _spread(shards, device):
    if device.shape_only:
        return Replicated((shards[0].to("meta"),) * device.num_devices)
    if len(shards) == 1:
        return Replicated((shards[0],) * device.num_devices)
    if len(shards) != device.num_devices:
        raise RuntimeError(f"{len(shards)} host shards do not fit {device}")
    return shards if type(shards) is Replicated else list(shards)


def on_device(spec: TensorSpec, device, storage: Storage) -> Tensor:
    """A tensor on a mesh, in a new buffer. RuntimeError if memory runs out."""
    buffer = Buffer(device.allocator, spec.memory_config.buffer_type, spec.bank_bytes)
    return Tensor(spec, storage, device, buffer)


@op("ttnn.from_device")
def from_device(tensor: Tensor, blocking: NoEffect[bool] = True, *, queue_id: int = None) -> Tensor:
    """A host tensor with the values of every device."""
    if tensor._device is None:
        return tensor
    tensor._device.check_queue(queue_id)
    check_readable(tensor)
    tensor.storage.aliased = True
    return Tensor(tensor.spec, Storage(tensor.shards, aliased=True))


@op("ttnn.copy_host_to_device_tensor")
def copy_host_to_device_tensor(host_tensor: Tensor, device_tensor: Tensor, cq_id: int = None) -> None:
    """Copies the values of a host tensor into `device_tensor`. Shape, dtype and layout must be the same."""
    if host_tensor._device is not None or device_tensor._device is None:
        raise RuntimeError("takes a host tensor, then a device tensor")
    device_tensor._device.check_queue(cq_id)
    check_writable(device_tensor._device)
    for name in ("shape", "dtype", "layout"):
        have, want = getattr(host_tensor, name), getattr(device_tensor, name)
        if have != want:
            raise RuntimeError(f"{name} {have} does not fit the device tensor's {want}")
    device_tensor.shards  # raises if deallocated
    shards = _spread(host_tensor.shards, device_tensor._device)
    host_tensor.storage.aliased = device_tensor.storage.aliased = True
    device_tensor.storage.shards = shards
    device_tensor.storage.pending = device_tensor.storage.zeroed = False


@op("ttnn.copy_device_to_host_tensor")
def copy_device_to_host_tensor(
    device_tensor: Tensor, host_tensor: Tensor, blocking: NoEffect[bool] = True, cq_id: int = None
) -> None:
    """Copies the values of `device_tensor` into a host tensor. Shape, dtype and layout must be the same."""
    if device_tensor._device is None or host_tensor._device is not None:
        raise RuntimeError("takes a device tensor, then a host tensor")
    device_tensor._device.check_queue(cq_id)
    check_readable(device_tensor)
    for name in ("shape", "dtype", "layout"):
        have, want = getattr(device_tensor, name), getattr(host_tensor, name)
        if have != want:
            raise RuntimeError(f"{name} {have} does not fit the host tensor's {want}")
    host_tensor.storage.aliased = device_tensor.storage.aliased = True
    host_tensor.storage.shards = device_tensor.shards
    host_tensor.storage.zeroed = False


@op("ttnn.deallocate")
def deallocate(tensor: Tensor, force: NotEmulated = True) -> None:
    """Frees the tensor's buffer. From then on, reading the tensor or a view of it is an error."""
    tensor.deallocate()


@op("ttnn.clone")
def clone(
    input: Tensor,
    *,
    dtype: DataType = None,
    memory_config: MemoryConfig = None,
    compute_kernel_config: NoEffect[DeviceComputeKernelConfig] = None,
) -> Tensor:
    """A copy in a new buffer, in another dtype or memory config if given."""
    dtype = input.dtype if dtype is None else dtype
    memory_config = input.memory_config() if memory_config is None else memory_config
    if memory_config.memory_layout is not input.memory_config().memory_layout:
        raise RuntimeError(f"memory layout {memory_config} must be the input's {input.memory_config()}")
    spec = TensorSpec(input.shape, dtype, input.layout, memory_config)
    return Program(torch.clone, [input], spec)


@op("ttnn.move")
def move(input_tensor: Tensor, *, memory_config: MemoryConfig = None) -> Tensor:
    """Moves a tensor into a new buffer and frees the old one."""
    memory_config = input_tensor.memory_config() if memory_config is None else memory_config
    spec = TensorSpec(input_tensor.shape, input_tensor.dtype, input_tensor.layout, memory_config)
    return Program(lambda value: value, [input_tensor], spec, exact=True, frees=True)


@op("ttnn.reallocate")
def reallocate(tensor: Tensor, memory_config: MemoryConfig = None) -> Tensor:
    """The same as `move`."""
    return move(tensor, memory_config=memory_config)


@op("ttnn.copy")
def copy(input_a: Tensor, input_b: Tensor) -> Tensor:
    """Writes the values of `input_a` into `input_b`, which has the same shape."""
    if input_a.shape != input_b.shape:
        raise RuntimeError(f"shapes {input_a.shape} and {input_b.shape} differ")
    round_to = rounding(input_b.dtype)
    return Program(lambda a, b: b.copy_(round_to(a)), [input_a, input_b], in_place=input_b)
