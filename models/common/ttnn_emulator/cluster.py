"""`ttnn.cluster`: the machine that is emulated."""

from models.common.mesh_names import requested_mesh_name

from .dtypes import _Enum


class ClusterType(_Enum):
    """The emulated machines, and one that programs ask about."""

    N150 = 1
    N300 = 2
    T3K = 3
    GALAXY = 4
    BLACKHOLE_GALAXY = 16


def get_cluster_type() -> ClusterType:
    """The kind of machine that MESH_DEVICE names; N150 without it."""
    name = requested_mesh_name() or "N150"
    return ClusterType.GALAXY if name == "TG" else ClusterType[name]
