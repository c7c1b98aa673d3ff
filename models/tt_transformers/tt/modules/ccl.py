"""Collectives between the devices that share one model (1D tensor parallel).

The residual stream is split over the devices by columns: a row-parallel matmul's partial sums are reduced and scattered
back into it, and a norm gathers it. On one device both return their input, so modules need no case for one device.
"""

import ttnn

from models.tt_transformers.tt.placement import Placement


class SingleDevice:
    """The collectives of a mesh of one device."""

    def all_gather(self, x, memory_config):
        return x

    def reduce_scatter(self, x, memory_config):
        return x


class LineOfDevices:
    """The collectives of devices that are joined in a line along an axis of the mesh."""

    def __init__(self, axis: int):
        self._line = dict(dim=3, cluster_axis=axis, topology=ttnn.Topology.Linear)

    def all_gather(self, x, memory_config):
        """x: [1, 1, rows, dim / N], interleaved -> [1, 1, rows, dim] on every device."""
        return ttnn.all_gather(x, memory_config=memory_config, **self._line)

    def reduce_scatter(self, x, memory_config):
        """x: partial sums [1, 1, rows, dim], interleaved -> their sum, [1, 1, rows, dim / N]."""
        return ttnn.reduce_scatter(x, memory_config=memory_config, **self._line)


def make_ccl(placement: Placement):
    """The collectives of tensor parallel on a line."""
    return SingleDevice() if placement.num_devices == 1 else LineOfDevices(placement.residual_axis)
