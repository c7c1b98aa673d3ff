"""Checks of arguments that several ops share. Each raises an error for values that the vendor's package refuses.

The functions with one parameter `value` are kinds of arguments, for the annotations of ops (see `declaration`).
Their docstrings are parts of error messages.
"""

from .. import machine
from ..cores import CoreRangeSet
from ..dtypes import FLOATS, DataType, Layout
from ..memory import MemoryConfig
from ..tensor import Tensor


def worker_cores(value) -> bool:
    """a CoreRangeSet of one or more of the chip's worker cores"""
    if not isinstance(value, CoreRangeSet) or value.empty():
        return False
    last = value.bounding_box().end
    grid = machine.worker_grid()
    return last.x < grid.x and last.y < grid.y


def positive(value) -> bool:
    """a whole number from 1"""
    return isinstance(value, int) and value >= 1


def interleaved(value) -> bool:
    """an interleaved MemoryConfig"""
    return isinstance(value, MemoryConfig) and not value.is_sharded()


def check_host(**arguments) -> None:
    """Refuses arguments that place the output, for an op on a host tensor, where they would be ignored."""
    for argument, value in arguments.items():
        if value is not None:
            raise RuntimeError(f"the output is on the host, as the input is; leave {argument} out, got {value}")


def check_tiled(argument: str, tensor: Tensor) -> None:
    if tensor.layout is not Layout.TILE:
        raise RuntimeError(f"{argument} must be in TILE layout, got {tensor.layout.name}")


def check_dtype(argument: str, dtype: DataType, accepted=FLOATS) -> None:
    if dtype not in accepted:
        names = ", ".join(sorted(each.name for each in accepted))
        raise RuntimeError(f"{argument} must be {names}, got {dtype.name}")


def check_rank4(argument: str, tensor: Tensor) -> None:
    if len(tensor.shape) != 4:
        raise RuntimeError(f"{argument} must have 4 dimensions, got {list(tensor.shape)}")


def check_indices(argument: str, tensor: Tensor) -> None:
    """Checks a tensor of positions or a page table: it must be INT32 in ROW_MAJOR layout."""
    check_dtype(argument, tensor.dtype, (DataType.INT32,))
    if tensor.layout is not Layout.ROW_MAJOR:
        raise RuntimeError(f"{argument} must be in ROW_MAJOR layout, got {tensor.layout.name}")


def check_grid(argument: str, grid) -> None:
    """Checks that a CoreCoord or CoreGrid lies on the chip."""
    available = machine.worker_grid()
    if not (1 <= grid.x <= available.x and 1 <= grid.y <= available.y):
        raise RuntimeError(f"{argument} {grid.x}x{grid.y} does not fit the device's {available.x}x{available.y} cores")


def check_multicore(use_multicore: bool, sub_core_grids: CoreRangeSet) -> None:
    if sub_core_grids is not None and not use_multicore:
        raise RuntimeError("sub_core_grids is for use_multicore=True")


def check_sub_core_grids(sub_core_grids: CoreRangeSet, *tensors: Tensor) -> None:
    """Checks that `sub_core_grids`, if given, contain all cores that hold shards of the op's tensors."""
    if sub_core_grids is None:
        return
    for tensor in tensors:
        spec = tensor.memory_config().shard_spec
        if spec is not None and not sub_core_grids.contains(spec.grid):
            raise RuntimeError(f"sub_core_grids {sub_core_grids} must contain the shards' cores {spec.grid}")
