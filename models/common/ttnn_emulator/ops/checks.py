"""Checks that several ops make of their arguments; each raises what a card's library would refuse."""

from ..cores import GRID_X, GRID_Y, CoreGrid
from ..dtypes import FLOATS, DataType, Layout
from ..program_config import WormholeComputeKernelConfig
from ..tensor import Tensor
from .common import check_tensor


def check_tiled(name: str, argument: str, tensor: Tensor) -> None:
    check_tensor(name, tensor)
    if tensor.layout is not Layout.TILE:
        raise RuntimeError(f"{name}: {argument} must be in TILE layout, got {tensor.layout.name}")


def check_dtype(name: str, argument: str, dtype: DataType, accepted=FLOATS) -> None:
    if dtype not in accepted:
        names = ", ".join(sorted(each.name for each in accepted))
        raise RuntimeError(f"{name}: {argument} must be {names}, got {dtype.name}")


def check_rank4(name: str, argument: str, tensor: Tensor) -> None:
    if len(tensor.shape) != 4:
        raise RuntimeError(f"{name}: {argument} must have 4 dimensions, got {list(tensor.shape)}")


def check_indices(name: str, argument: str, tensor: Tensor) -> None:
    """Positions and page tables: INT32 in ROW_MAJOR."""
    check_tensor(name, tensor)
    check_dtype(name, argument, tensor.dtype, (DataType.INT32,))
    if tensor.layout is not Layout.ROW_MAJOR:
        raise RuntimeError(f"{name}: {argument} must be in ROW_MAJOR layout, got {tensor.layout.name}")


def check_grid(name: str, argument: str, grid) -> None:
    """A CoreCoord or CoreGrid that must lie on the chip."""
    if not (1 <= grid.x <= GRID_X and 1 <= grid.y <= GRID_Y):
        raise RuntimeError(f"{name}: {argument} {grid.x}x{grid.y} does not fit the device's {GRID_X}x{GRID_Y} cores")


def check_core_grid(name: str, core_grid) -> None:
    if core_grid is None:
        return
    if not isinstance(core_grid, CoreGrid):
        raise TypeError(f"{name}: core_grid takes a CoreGrid, not {core_grid!r}")
    check_grid(name, "core_grid", core_grid)


def check_kernel_config(name: str, config) -> None:
    if config is not None and not isinstance(config, WormholeComputeKernelConfig):
        raise TypeError(f"{name}: compute_kernel_config takes a WormholeComputeKernelConfig, not {config!r}")


def check_config(name: str, config, *accepted) -> None:
    if config is not None and not isinstance(config, accepted):
        names = " or ".join(each.__name__ for each in accepted)
        raise TypeError(f"{name}: program_config takes {names}, not {config!r}")


def not_emulated(name: str, **arguments) -> None:
    """NotImplementedError if an argument that only a card has is used at all."""
    for argument, value in arguments.items():
        if value is not None and value is not False and value != () and value != 0:
            raise NotImplementedError(f"{name}: {argument}={value!r} is not emulated; leave it out")
