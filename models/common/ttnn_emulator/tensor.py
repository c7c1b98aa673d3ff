"""Tensors on the host and on a mesh of devices."""

import mmap

import torch

from .allocator import Buffer
from .dtypes import DataType, Layout, StorageType, element_size, storage_dtype, tile_size
from .memory import DRAM_MEMORY_CONFIG, MemoryConfig, plan
from .shapes import Shape, volume


class TensorSpec:
    """Everything about a tensor except its values: logical shape, dtype, layout, memory config, padded shape.

    `padded_shape` follows from the rest unless given. RuntimeError if a card does not support the combination.
    """

    __slots__ = ("shape", "dtype", "layout", "memory_config", "padded_shape", "bank_bytes")

    def __init__(self, shape, dtype: DataType, layout: Layout, memory_config: MemoryConfig = None, padded_shape=None):
        self.shape = shape if type(shape) is Shape else Shape(shape)
        self.dtype = dtype
        self.layout = layout
        self.memory_config = DRAM_MEMORY_CONFIG if memory_config is None else memory_config
        planned, self.bank_bytes = plan(self.shape, dtype, layout, self.memory_config)
        if padded_shape is None:
            self.padded_shape = planned
        else:
            self.padded_shape = Shape(padded_shape)
            _, self.bank_bytes = plan(self.padded_shape, dtype, layout, self.memory_config)

    def __eq__(self, other):
        return isinstance(other, TensorSpec) and all(
            getattr(self, name) == getattr(other, name)
            for name in ("shape", "dtype", "layout", "memory_config", "padded_shape")
        )

    __hash__ = None

    def __repr__(self):
        return f"TensorSpec({list(self.shape)}, {self.dtype.name}, {self.layout.name}, {self.memory_config})"


def lazy_zeros(shape, dtype: torch.dtype, stride=None) -> torch.Tensor:
    """Zeros whose memory the operating system provides only where they are first written.

    So a KV cache takes the memory that its sequences need, not its full size. torch.zeros would write all of it, and
    numpy.zeros those parts that the process had used before. `stride` must leave no gaps; None is contiguous.
    """
    bytes_of_at_least_one = max(volume(shape), 1) * dtype.itemsize
    memory = mmap.mmap(-1, bytes_of_at_least_one, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    flat = torch.frombuffer(memory, dtype=dtype)[: volume(shape)]
    return flat.view(tuple(shape)) if stride is None else flat.as_strided(tuple(shape), stride)


def is_transposed(values: torch.Tensor) -> bool:
    """Whether the values `[..., K, N]` lie in memory as contiguous `[..., N, K]`, such as a weight of torch's `Linear`."""
    return not values.is_contiguous() and values.dim() > 1 and values.mT.is_contiguous()


class Replicated(tuple):
    """Shards that are the same object on every device."""

    __slots__ = ()


class Storage:
    """A tensor's values: one torch tensor of the logical shape per device. Devices with equal values share one object.

    `aliased`: another tensor may use the same torch storage, so an in-place op must copy first.
    `pending`: the values come from a captured trace that has not run yet. Until then they are meta tensors.
    `zeroed`: nothing was written since `lazy_zeros` made the values, so a copy can be another `lazy_zeros`.
    """

    __slots__ = ("shards", "aliased", "pending", "zeroed")

    def __init__(self, shards, aliased=False, zeroed=False):
        self.shards = shards
        self.aliased = aliased
        self.pending = False
        self.zeroed = zeroed

    def copied(self, shard: torch.Tensor) -> torch.Tensor:
        """A copy of one of the shards, with the same strides."""
        return lazy_zeros(shard.shape, shard.dtype, stride=shard.stride()) if self.zeroed else shard.clone()

    def drop(self) -> None:
        """Releases the values."""
        self.shards = ()


class Tensor:
    """A tensor on the host (no device) or on every device of a mesh."""

    __slots__ = (
        "shape",
        "padded_shape",
        "dtype",
        "layout",
        "storage",
        "_memory_config",
        "_device",
        "_buffer",
        "__weakref__",
    )

    def __init__(self, spec: TensorSpec, storage: Storage, device=None, buffer: Buffer = None):
        self.shape = spec.shape
        self.padded_shape = spec.padded_shape
        self.dtype = spec.dtype
        self.layout = spec.layout
        self._memory_config = spec.memory_config
        self._device = device
        self._buffer = buffer
        self.storage = storage

    @property
    def shards(self):
        """One torch tensor per device, of the logical shape: a list, or a Replicated tuple of one object.

        RuntimeError if the tensor was deallocated.
        """
        if self._buffer is not None and not self._buffer.allocated:
            raise RuntimeError(f"{self._describe()} is not allocated: it was deallocated before this use")
        return self.storage.shards

    @shards.setter
    def shards(self, shards):
        self.storage.shards = shards
        self.storage.zeroed = False

    @property
    def spec(self) -> TensorSpec:
        return TensorSpec(self.shape, self.dtype, self.layout, self._memory_config, self.padded_shape)

    def memory_config(self) -> MemoryConfig:
        return self._memory_config

    def device(self):
        """The mesh that the tensor is on. None for a host tensor, and after deallocation."""
        return self._device if self.is_allocated() else None

    def devices(self) -> list:
        return [] if self._device is None else [self._device]

    def storage_type(self) -> StorageType:
        return StorageType.HOST if self._device is None else StorageType.DEVICE

    def is_allocated(self) -> bool:
        return self._buffer is None or self._buffer.allocated

    def is_sharded(self) -> bool:
        return self._device is not None and self._memory_config.is_sharded()

    def get_dtype(self) -> DataType:
        return self.dtype

    def get_layout(self) -> Layout:
        return self.layout

    def element_size(self) -> int:
        return element_size(self.dtype)

    def volume(self) -> int:
        """Number of elements, padding included."""
        return volume(self.padded_shape)

    def logical_volume(self) -> int:
        return volume(self.shape)

    def buffer_address(self) -> int:
        """A number inside the memory's address range. It is not the address that a card would use."""
        if self._buffer is None or not self._buffer.allocated:
            raise RuntimeError(f"buffer_address: {self._describe()} is not allocated on a device")
        return self._buffer.address

    def buffer_num_pages(self) -> int:
        width = self.padded_shape[-1] if len(self.padded_shape) else 1
        page_elements = 1024 if self.layout is Layout.TILE else max(width, 1)
        return self.volume() // page_elements

    def buffer_page_size(self) -> int:
        if self.layout is Layout.TILE:
            return tile_size(self.dtype)
        return self.padded_shape[-1] * element_size(self.dtype)

    def deallocate(self) -> None:
        """Frees the buffer and the values. The tensor, and views of it, must not be read afterwards."""
        if self._buffer is not None and self._buffer.allocated:
            self._buffer.free()
            self.storage = Storage(())

    def _describe(self) -> str:
        return f"tensor {list(self.shape)} {self.dtype.name} {self.layout.name}"

    def __repr__(self):
        state = "on host" if self._device is None else ("on device" if self.is_allocated() else "deallocated")
        return (
            f"ttnn.Tensor(shape={self.shape}, dtype={self.dtype}, layout={self.layout}, "
            f"memory_config={self._memory_config}, {state})"
        )


def meta_shards(shape, dtype: DataType, count: int) -> Replicated:
    """Shards without values."""
    return Replicated((torch.empty(tuple(shape), dtype=storage_dtype(dtype), device="meta"),) * count)
