"""`ttnn.cluster`: the kind of machine that is emulated."""

from .dtypes import _Enum
from .machine import machine_name


class ClusterType(_Enum):
    """The emulated machines, and one that programs ask about."""

    N150 = 1
    N300 = 2
    T3K = 3
    GALAXY = 4
    BLACKHOLE_GALAXY = 16


def get_cluster_type() -> ClusterType:
    """The kind of `machine_name`."""
    name = machine_name()
    return ClusterType.GALAXY if name == "TG" else ClusterType[name]
