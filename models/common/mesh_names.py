"""The meshes that models run on, by the name that a user types. Does not import `ttnn`.

The mock device has to know the mesh before `ttnn` is imported. So this module is separate from `mesh`.
"""

import math
import os
from typing import Optional

# Rows and columns of devices.
MESH_SHAPES = {"N150": (1, 1), "N300": (1, 2), "T3K": (1, 8), "TG": (8, 4)}
# Lines of devices, on which models are validated and measured.
LINES = tuple(name for name, (rows, _) in MESH_SHAPES.items() if rows == 1)

# FAKE_DEVICE is the older name of MESH_DEVICE.
_VARIABLES = ("MESH_DEVICE", "FAKE_DEVICE")


def mesh_name_of(shape) -> str:
    """The name of a mesh of `shape` (rows, columns), by its number of devices; for other numbers a text like "1x4"."""
    rows, columns = shape
    names = {math.prod(mesh_shape): name for name, mesh_shape in MESH_SHAPES.items()}
    return names.get(rows * columns, f"{rows}x{columns}")


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
