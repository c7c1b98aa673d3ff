"""Semaphores that all devices of a mesh have, with which fused collectives wait for one another's data."""

from .allocator import Buffer
from .cores import CoreRangeSet
from .declaration import NoEffect
from .device import MeshDevice
from .dtypes import BufferType
from .op import FUNCTIONS, op
from .ops.checks import worker_cores


def _from_zero(value) -> bool:
    """a whole number from 0"""
    return isinstance(value, int) and value >= 0


class GlobalSemaphore:
    """A number in the L1 of every core. Ops run in the order of the calls, so nothing waits for it."""

    def __init__(self, mesh_device: MeshDevice):
        # Of the memory that a page takes at least, it uses four bytes.
        self._buffer = Buffer(mesh_device.allocator, BufferType.L1, mesh_device.allocator.chip.dram_alignment)

    def __repr__(self):
        return "GlobalSemaphore()"


@op("ttnn.create_global_semaphore", registry=FUNCTIONS)
def create_global_semaphore(
    mesh_device: MeshDevice,
    cores: NoEffect[worker_cores],
    initial_value: NoEffect[_from_zero],
    buffer_type: BufferType = BufferType.L1,
) -> GlobalSemaphore:
    """A semaphore on `cores` of every device. It takes its memory until nothing refers to it any more."""
    if buffer_type is not BufferType.L1:
        raise RuntimeError(f"buffer_type must be L1, got {buffer_type.name}")
    return GlobalSemaphore(mesh_device)
