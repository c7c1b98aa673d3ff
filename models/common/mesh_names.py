"""The meshes that models run on, by the name that a user types. Does not import `ttnn`.

The mock device has to know the mesh before `ttnn` is imported. So this module is separate from `mesh`.
"""

import math
import os
from dataclasses import dataclass
from typing import Optional

from models.common.chip import P100, P150, WORMHOLE, Chip


@dataclass(frozen=True)
class Mesh:
    """Rows and columns of devices, and the chip that each of them is."""

    shape: tuple[int, int]
    chip: Chip

    @property
    def arch(self) -> str:
        return self.chip.arch


MESHES = {
    "N150": Mesh((1, 1), WORMHOLE),
    "N300": Mesh((1, 2), WORMHOLE),
    "N150x4": Mesh((1, 4), WORMHOLE),
    "T3K": Mesh((1, 8), WORMHOLE),
    "TG": Mesh((8, 4), WORMHOLE),
    "P100": Mesh((1, 1), P100),
    "P150": Mesh((1, 1), P150),
    "P150x4": Mesh((1, 4), P150),
}
MESH_SHAPES = {name: mesh.shape for name, mesh in MESHES.items()}
# The lines of devices that every measurement has a record of.
LINES = ("N150", "N300", "T3K")
# The meshes that the vendor's checks have records of.
VALIDATED = ("N150", "N300", "N150x4", "T3K", "TG", "P100", "P150", "P150x4")

# FAKE_DEVICE is the older name of MESH_DEVICE.
_VARIABLES = ("MESH_DEVICE", "FAKE_DEVICE")


def mesh_name_of(shape, chip: Chip) -> str:
    """The name of a mesh of `shape` (rows, columns), by its number of devices and their chip.

    For a number of devices that no mesh has, a text like "1x3".
    """
    rows, columns = shape
    names = {(math.prod(mesh.shape), mesh.chip): name for name, mesh in MESHES.items()}
    return names.get((rows * columns, chip), f"{rows}x{columns}")


def is_line(name: str) -> bool:
    """Whether a mesh's devices are in a line. On others models split the users over the columns, with paged caches only."""
    return 1 in MESH_SHAPES[name]


def check_mesh_name(name: str, source: str = "mesh") -> str:
    """Returns `name` if a mesh has this name. If not, raises ValueError that names `source` and the known meshes."""
    if name not in MESH_SHAPES:
        raise ValueError(f"{source}: {name!r} is not a known mesh; known are {', '.join(MESH_SHAPES)}")
    return name


def requested_mesh_name() -> Optional[str]:
    """The mesh that MESH_DEVICE (or its alias FAKE_DEVICE) names; None if neither is set.

    Raises ValueError for an unknown name, and for two variables that differ.
    """
    requested = {variable: os.environ[variable] for variable in _VARIABLES if variable in os.environ}
    for variable, name in requested.items():
        check_mesh_name(name, source=variable)
    if len(set(requested.values())) > 1:
        raise ValueError(
            f"MESH_DEVICE={requested['MESH_DEVICE']} and FAKE_DEVICE={requested['FAKE_DEVICE']} differ: "
            "set one of them, or both alike"
        )
    return next(iter(requested.values()), None)
