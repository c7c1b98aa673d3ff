"""How many hidden columns of the MLP each device computes: the model's share, padded so that decode uses enough cores.

`PAD_MLP_CORES` sets the number of cores that a device's columns split over evenly.
"""

import math
import os

from models.common.chip import TILE
from models.tt_transformers.tt.config.program_configs import ChipLayout

VARIABLE = "PAD_MLP_CORES"
CORES = range(8, 65, 8)


def mlp_width(chip: ChipLayout, dim: int, columns: int, unit: int = TILE) -> int:
    """One device's hidden columns: `columns`, its share in multiples of `unit`, and columns of zeros after these.

    The default is `ChipLayout.decode_width` of a matrix [dim, columns]. Raises ValueError for a PAD_MLP_CORES that is
    not a multiple of 8 from 8 to 64.
    """
    given = os.environ.get(VARIABLE)
    if given is None:
        return chip.decode_width(dim, columns, unit)
    if given not in map(str, CORES):
        raise ValueError(f"{VARIABLE}={given!r} is not accepted: a number of cores, one of {', '.join(map(str, CORES))}")
    unit = math.lcm(int(given) * TILE, unit)
    return -(-columns // unit) * unit
