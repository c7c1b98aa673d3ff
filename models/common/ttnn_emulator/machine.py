"""The machine that is emulated: the one whose mesh MESH_DEVICE names, an N150 without it.

`open_mesh_device` opens any mesh of the machine's chips, also a larger one than the machine has. As with the vendor's
package, TT_VISIBLE_DEVICES (such as `0,1`) leaves a process only these of a machine's chips: so many are there, and no
larger mesh opens.
"""

import math
import os
from contextlib import contextmanager

from models.common.chip import Chip
from models.common.mesh_names import MESHES, requested_mesh_name

from .cores import CoreCoord

VISIBLE_DEVICES = "TT_VISIBLE_DEVICES"

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


def visible_devices() -> list[int] | None:
    """The chips that TT_VISIBLE_DEVICES names; None if it is not set. ValueError if it does not name different chips."""
    given = os.environ.get(VISIBLE_DEVICES)
    if given is None:
        return None
    numbers = [part.strip() for part in given.split(",")]
    if not all(number.isascii() and number.isdecimal() for number in numbers) or len(set(map(int, numbers))) < len(numbers):
        raise ValueError(f"{VISIBLE_DEVICES}={given!r}: expected different numbers of devices, separated by commas")
    return list(map(int, numbers))


def get_num_devices() -> int:
    """How many chips this process sees."""
    visible = visible_devices()
    return math.prod(MESHES[machine_name()].shape) if visible is None else len(visible)


GetNumAvailableDevices = get_num_devices


def get_device_ids() -> list:
    return list(range(get_num_devices()))
