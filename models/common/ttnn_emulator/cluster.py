"""`ttnn.cluster`: the kind of machine that is emulated."""

from .dtypes import _Enum
from .machine import machine_name


class ClusterType(_Enum):
    """The emulated machines, and one that programs ask about."""

    N150 = 1
    N300 = 2
    T3K = 3
    GALAXY = 4
    P100 = 6
    P150 = 7
    P150_X4 = 9
    BLACKHOLE_GALAXY = 16


# The vendor calls a line of N150 boards as it calls one board.
_OTHER_NAMES = {"TG": "GALAXY", "P150x4": "P150_X4", "N150x4": "N150"}


def get_cluster_type() -> ClusterType:
    """The kind of `machine_name`."""
    name = machine_name()
    return ClusterType[_OTHER_NAMES.get(name, name)]
