"""The machine that is emulated: the one whose mesh MESH_DEVICE names, an N150 without it.

`open_mesh_device` opens any mesh of the machine's chips, also a larger one than the machine has.
"""

import math
from contextlib import contextmanager

from models.common.chip import Chip
from models.common.mesh_names import MESHES, requested_mesh_name

from .cores import CoreCoord

_given = None
_held = None


def machine_name() -> str:
    """The name of the mesh that consists of all chips of the machine."""
    return requested_mesh_name() or "N150"


@contextmanager
def with_chip(chip: Chip):
    """Context manager: the machine's devices are of this chip, whatever MESH_DEVICE says."""
    global _given
    before, _given = _given, chip
    try:
        yield
    finally:
        _given = before


def own_chip() -> Chip:
    """What each of the machine's devices is."""
    return _given or MESHES[machine_name()].chip


def chip() -> Chip:
    """As `own_chip`, but while meshes are open, what their devices are."""
    return _held or own_chip()


def hold_chip(chip: Chip | None) -> None:
    """Fixes what `chip` gives. None: it is `own_chip` again."""
    global _held
    _held = chip


def worker_grid() -> CoreCoord:
    """Columns and rows of a chip's worker cores."""
    return CoreCoord(chip().grid)


def get_arch_name() -> str:
    return chip().arch


def using_distributed_env() -> bool:
    """Whether the machine consists of several computers: never."""
    return False


def get_num_devices() -> int:
    """How many chips the machine has."""
    return math.prod(MESHES[machine_name()].shape)


GetNumAvailableDevices = get_num_devices


def get_device_ids() -> list:
    return list(range(get_num_devices()))
