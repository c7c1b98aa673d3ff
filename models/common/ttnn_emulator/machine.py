"""The machine that is emulated: the one whose mesh MESH_DEVICE names, an N150 without it.

`open_mesh_device` opens any mesh all the same.
"""

import math

from models.common.mesh_names import MESH_SHAPES, requested_mesh_name


def machine_name() -> str:
    """The name of the mesh that consists of all chips of the machine."""
    return requested_mesh_name() or "N150"


def using_distributed_env() -> bool:
    """Whether the machine consists of several computers: never."""
    return False


def get_num_devices() -> int:
    """How many chips the machine has."""
    return math.prod(MESH_SHAPES[machine_name()])


GetNumAvailableDevices = get_num_devices


def get_device_ids() -> list:
    return list(range(get_num_devices()))
