"""Data types, layouts and other enumerations of ttnn, with their sizes in bytes and their torch dtypes."""

from enum import Enum

import torch

TILE_SIZE = 32


class _Enum(Enum):
    # Enum's own hash is slow Python code. Members are singletons, so a hash of the identity is correct and faster.
    __hash__ = object.__hash__

    def __repr__(self):
        return f"{type(self).__name__}.{self.name}"

    __str__ = __repr__


class DataType(_Enum):
    BFLOAT16 = 0
    FLOAT32 = 1
    UINT32 = 2
    BFLOAT8_B = 3
    BFLOAT4_B = 4
    UINT8 = 5
    UINT16 = 6
    INT32 = 7


class Layout(_Enum):
    ROW_MAJOR = 0
    TILE = 1


class StorageType(_Enum):
    HOST = 0
    DEVICE = 1


class BufferType(_Enum):
    DRAM = 0
    L1 = 1
    L1_SMALL = 3
    TRACE = 4


class TensorMemoryLayout(_Enum):
    INTERLEAVED = 0
    HEIGHT_SHARDED = 2
    WIDTH_SHARDED = 3
    BLOCK_SHARDED = 4


class ShardOrientation(_Enum):
    ROW_MAJOR = 0
    COL_MAJOR = 1


class ShardStrategy(_Enum):
    HEIGHT = 1
    WIDTH = 2
    BLOCK = 3


class Arch(_Enum):
    WORMHOLE_B0 = 2
    BLACKHOLE = 3


class DispatchCoreType(_Enum):
    WORKER = 0
    ETH = 1


class DispatchCoreAxis(_Enum):
    ROW = 0
    COL = 1


class FabricConfig(_Enum):
    DISABLED = 0
    FABRIC_1D_NEIGHBOR_EXCHANGE = 1
    FABRIC_1D = 2
    FABRIC_1D_RING = 3
    FABRIC_2D = 4
    FABRIC_2D_TORUS_X = 5
    FABRIC_2D_TORUS_Y = 6
    FABRIC_2D_TORUS_XY = 7
    CUSTOM = 8


class FabricReliabilityMode(_Enum):
    STRICT_INIT = 0
    RELAXED_INIT = 1
    DYNAMIC_RECONFIG = 2


class Topology(_Enum):
    Linear = 1
    Ring = 2


MAGNITUDE_BITS = {DataType.BFLOAT8_B: 7, DataType.BFLOAT4_B: 3}  # of a value of a block float, beside its sign
BLOCK_FLOAT = tuple(MAGNITUDE_BITS)
FLOATS = (DataType.BFLOAT16, DataType.FLOAT32, *BLOCK_FLOAT)

_TILE_BYTES = {
    DataType.BFLOAT16: 2048,
    DataType.FLOAT32: 4096,
    DataType.UINT32: 4096,
    DataType.INT32: 4096,
    DataType.UINT16: 2048,
    DataType.UINT8: 1024,
    DataType.BFLOAT8_B: 1088,
    DataType.BFLOAT4_B: 576,
}

# The torch dtype of a stored shard. Block floats are exact in bfloat16. UINT16 and UINT32 are stored as int32, because
# torch can compute with it. UINT32 wraps as on the card, and to_torch reads it back as unsigned.
_TORCH_STORAGE = {
    DataType.BFLOAT16: torch.bfloat16,
    DataType.FLOAT32: torch.float32,
    DataType.UINT32: torch.int32,
    DataType.INT32: torch.int32,
    DataType.UINT16: torch.int32,
    DataType.UINT8: torch.uint8,
    DataType.BFLOAT8_B: torch.bfloat16,
    DataType.BFLOAT4_B: torch.bfloat16,
}

_TORCH_RESULT = {
    **_TORCH_STORAGE,
    DataType.UINT32: torch.uint32,
    DataType.UINT16: torch.uint16,
    DataType.BFLOAT8_B: torch.float32,
    DataType.BFLOAT4_B: torch.float32,
}

_FROM_TORCH = {
    torch.bool: DataType.UINT8,
    torch.uint8: DataType.UINT8,
    torch.int16: DataType.UINT16,
    torch.uint16: DataType.UINT16,
    torch.int32: DataType.INT32,
    torch.int64: DataType.UINT32,
    torch.uint32: DataType.UINT32,
    torch.float16: DataType.BFLOAT16,
    torch.bfloat16: DataType.BFLOAT16,
    torch.float32: DataType.FLOAT32,
}


def tile_size(dtype: DataType) -> int:
    """Bytes of one 32x32 tile of `dtype`."""
    return _TILE_BYTES[dtype]


def element_size(dtype: DataType) -> int:
    """Bytes of one element of `dtype` in row-major layout. ValueError for block floats, which have no element size."""
    if dtype in BLOCK_FLOAT:
        raise ValueError(f"element_size: {dtype} is stored in blocks and has no element size")
    return _TILE_BYTES[dtype] // (TILE_SIZE * TILE_SIZE)


def storage_dtype(dtype: DataType) -> torch.dtype:
    """The torch dtype in which a shard of `dtype` is stored."""
    return _TORCH_STORAGE[dtype]


def ttnn_dtype_to_torch_dtype(dtype: DataType) -> torch.dtype:
    """The torch dtype that `to_torch` gives for `dtype`."""
    return _TORCH_RESULT[dtype]


def dtype_from_torch(dtype: torch.dtype) -> DataType:
    """The ttnn dtype that `from_torch` chooses for a torch dtype when none is given."""
    if dtype not in _FROM_TORCH:
        raise TypeError(f"from_torch: {dtype} has no ttnn dtype; accepted: {', '.join(map(str, _FROM_TORCH))}")
    return _FROM_TORCH[dtype]
