"""Collectives between the devices that share one model (1D tensor parallel).

The residual stream is split over the devices by columns: a row-parallel matmul's partial sums are reduced and scattered
back into it, and a norm gathers it. On one device both are the identity, so modules call them without asking.
"""

import ttnn

# The mesh's second axis: N300 is 1x2, T3K 1x8.
CLUSTER_AXIS = 1


class SingleDevice:
    """The collectives of a mesh of one."""

    def all_gather(self, x, memory_config):
        return x

    def reduce_scatter(self, x, memory_config):
        return x


class LineOfDevices:
    """The collectives of a mesh 1xN whose devices are joined in a line."""

    def all_gather(self, x, memory_config):
        """x: [1, 1, rows, dim / N], interleaved -> [1, 1, rows, dim] on every device."""
        return ttnn.all_gather(x, dim=3, cluster_axis=CLUSTER_AXIS, topology=ttnn.Topology.Linear, memory_config=memory_config)

    def reduce_scatter(self, x, memory_config):
        """x: partial sums [1, 1, rows, dim], interleaved -> their sum, [1, 1, rows, dim / N]."""
        return ttnn.reduce_scatter(
            x, dim=3, cluster_axis=CLUSTER_AXIS, topology=ttnn.Topology.Linear, memory_config=memory_config
        )


def make_ccl(mesh_device):
    """The collectives for `mesh_device`. Raises ValueError for a mesh that is not 1xN."""
    check_mesh_shape(mesh_device)
    return SingleDevice() if mesh_device.get_num_devices() == 1 else LineOfDevices()


def check_mesh_shape(mesh_device) -> None:
    """Raises ValueError for a mesh that is not 1xN (2D comes with Galaxy)."""
    rows, columns = tuple(mesh_device.shape)
    if rows != 1:
        raise ValueError(f"mesh {rows}x{columns}: tensor parallel runs on 1xN meshes (N150 1x1, N300 1x2, T3K 1x8)")
