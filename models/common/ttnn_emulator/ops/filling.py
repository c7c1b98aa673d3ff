"""Makes tensors full of one value, or of consecutive numbers."""

from collections.abc import Sequence

import torch

from ..declaration import NotEmulated
from ..device import MeshDevice
from ..dtypes import BLOCK_FLOAT, DataType, Layout, storage_dtype
from ..memory import DRAM_MEMORY_CONFIG, MemoryConfig
from ..op import op
from ..program import rounding
from ..tensor import Replicated, Storage, Tensor, TensorSpec, lazy_zeros, meta_shards
from .creation import from_torch
from .transfer import check_writable, on_device


@op("ttnn.allocate_tensor_on_device")
def allocate_tensor_on_device(tensor_spec: TensorSpec, mesh_device: MeshDevice) -> Tensor:
    """A device tensor with undefined values (here zeros). Another form takes the parts of a TensorSpec."""
    return _filled(tensor_spec, mesh_device, 0)


@allocate_tensor_on_device.overload
def _allocate_shape(
    shape: Sequence[int], dtype: DataType, layout: Layout, mesh_device: MeshDevice, memory_config: MemoryConfig = None
) -> Tensor:
    return _filled(TensorSpec(shape, dtype, layout, memory_config), mesh_device, 0)


def _filled(spec, device, value) -> Tensor:
    """A tensor full of `value`, on the host if `device` is None. All devices share one object."""
    storage = Storage(())
    # The buffer is allocated first: values that do not fit on the card must not be created here either.
    tensor = Tensor(spec, storage) if device is None else on_device(spec, device, storage)
    if device is not None and device.shape_only:
        storage.shards = meta_shards(spec.shape, spec.dtype, device.num_devices)
        return tensor
    shape, storage_type = tuple(spec.shape), storage_dtype(spec.dtype)
    if value == 0:
        shard = lazy_zeros(shape, storage_type)
        storage.zeroed = True
    else:
        shard = rounding(spec.dtype)(torch.full(shape, value, dtype=storage_type))
    storage.shards = Replicated((shard,) * (1 if device is None else device.num_devices))
    return tensor


def _creation_spec(shape, dtype, layout, memory_config):
    dtype = DataType.BFLOAT16 if dtype is None else dtype
    layout = (Layout.TILE if dtype in BLOCK_FLOAT else Layout.ROW_MAJOR) if layout is None else layout
    return TensorSpec(shape, dtype, layout, memory_config)


def _full(shape, fill_value, dtype, layout, device, memory_config):
    if device is not None:
        check_writable(device)
    return _filled(_creation_spec(shape, dtype, layout, memory_config), device, fill_value)


@op("ttnn.full")
def full(
    shape: Sequence[int],
    fill_value: float,
    dtype: DataType = None,
    layout: Layout = None,
    device: MeshDevice = None,
    memory_config: MemoryConfig = None,
    optional_tensor: NotEmulated = None,
) -> Tensor:
    """A tensor full of `fill_value`. The default is BFLOAT16 in ROW_MAJOR layout."""
    return _full(shape, fill_value, dtype, layout, device, memory_config)


@op("ttnn.zeros")
def zeros(
    shape: Sequence[int],
    dtype: DataType = None,
    layout: Layout = None,
    device: MeshDevice = None,
    memory_config: MemoryConfig = None,
) -> Tensor:
    """A tensor full of zeros. The default is BFLOAT16 in ROW_MAJOR layout."""
    return _full(shape, 0, dtype, layout, device, memory_config)


@op("ttnn.ones")
def ones(
    shape: Sequence[int],
    dtype: DataType = None,
    layout: Layout = None,
    device: MeshDevice = None,
    memory_config: MemoryConfig = None,
) -> Tensor:
    """A tensor full of ones. The default is BFLOAT16 in ROW_MAJOR layout."""
    return _full(shape, 1, dtype, layout, device, memory_config)


@op("ttnn.empty")
def empty(
    shape: Sequence[int],
    dtype: DataType = DataType.BFLOAT16,
    layout: Layout = Layout.ROW_MAJOR,
    device: MeshDevice = None,
    memory_config: MemoryConfig = DRAM_MEMORY_CONFIG,
) -> Tensor:
    """A device tensor with undefined values (here zeros)."""
    if device is None:
        raise TypeError("device is missing")
    return _filled(TensorSpec(shape, dtype, layout, memory_config), device, 0)


def _full_like(tensor, fill_value, dtype, layout, device, memory_config):
    return _full(
        tensor.shape,
        fill_value,
        tensor.dtype if dtype is None else dtype,
        tensor.layout if layout is None else layout,
        tensor._device if device is None else device,
        tensor.memory_config() if memory_config is None else memory_config,
    )


@op("ttnn.full_like")
def full_like(
    tensor: Tensor,
    fill_value: float,
    dtype: DataType = None,
    layout: Layout = None,
    device: MeshDevice = None,
    memory_config: MemoryConfig = None,
    optional_tensor: NotEmulated = None,
) -> Tensor:
    """`full`, with the shape of `tensor`. Its dtype, layout, device and memory config are the defaults."""
    return _full_like(tensor, fill_value, dtype, layout, device, memory_config)


@op("ttnn.zeros_like")
def zeros_like(
    tensor: Tensor,
    dtype: DataType = None,
    layout: Layout = None,
    device: MeshDevice = None,
    memory_config: MemoryConfig = None,
    optional_tensor: NotEmulated = None,
) -> Tensor:
    """`zeros`, with the shape of `tensor`. Its dtype, layout, device and memory config are the defaults."""
    return _full_like(tensor, 0, dtype, layout, device, memory_config)


@op("ttnn.ones_like")
def ones_like(
    tensor: Tensor,
    dtype: DataType = None,
    layout: Layout = None,
    device: MeshDevice = None,
    memory_config: MemoryConfig = None,
    optional_tensor: NotEmulated = None,
) -> Tensor:
    """`ones`, with the shape of `tensor`. Its dtype, layout, device and memory config are the defaults."""
    return _full_like(tensor, 1, dtype, layout, device, memory_config)


@op("ttnn.empty_like")
def empty_like(
    tensor: Tensor,
    *,
    dtype: DataType = None,
    layout: Layout = None,
    device: MeshDevice = None,
    memory_config: MemoryConfig = None,
) -> Tensor:
    """`empty`, with the shape of `tensor`. Its dtype, layout, device and memory config are the defaults."""
    return _full_like(tensor, 0, dtype, layout, device, memory_config)


@op("ttnn.arange")
def arange(
    start: int,
    end: int,
    step: int = 1,
    *,
    dtype: DataType = DataType.BFLOAT16,
    device: MeshDevice = None,
    memory_config: MemoryConfig = DRAM_MEMORY_CONFIG,
    layout: Layout = Layout.ROW_MAJOR,
) -> Tensor:
    """The numbers from `start` (0 if only `end` is given) up to, but not including, `end`. Shape [n]."""
    if step == 0 or (end - start) * step < 0:
        raise RuntimeError(f"step {step} does not lead from {start} to {end}")
    numbers = torch.arange(start, end, step)
    return from_torch(numbers, dtype, layout=layout, device=device, memory_config=memory_config)


@arange.overload
def _arange_from_zero(
    end: int,
    *,
    dtype: DataType = DataType.BFLOAT16,
    device: MeshDevice = None,
    memory_config: MemoryConfig = DRAM_MEMORY_CONFIG,
    layout: Layout = Layout.ROW_MAJOR,
) -> Tensor:
    return arange(0, end, dtype=dtype, device=device, memory_config=memory_config, layout=layout)
