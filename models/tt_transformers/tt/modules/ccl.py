"""Collectives between the devices that share one model, named by the place in the model where they act.

A module calls the same methods on any mesh. Where a placement has nothing to exchange, the method returns its input. So
the modules need no cases, and `Placement` says what a device has before and after each call.
"""

import torch
import ttnn

from models.common import links
from models.tt_transformers.tt.placement import Placement


class SingleDevice:
    """The collectives of a mesh of one device: nothing is exchanged."""

    def gather_residual(self, x, memory_config):
        """The residual stream, before a norm: [1, 1, rows, dim / N] -> [1, 1, rows, dim]."""
        return x

    def sum_residual(self, x, memory_config):
        """Partial products of wo or w2, interleaved -> their sum, a device's share of the residual stream."""
        return x

    def sum_qkv(self, x, memory_config):
        """Partial products of wqkv, interleaved -> their sum on every device of the grid's row."""
        return x

    def gather_users(self, x, memory_config):
        """Attention's output of a device's users, [1, users of a device, heads, head_dim] -> of all users."""
        return x

    def from_column_of(self, slot: int, x):
        """Attention's output of a prompt's chunk, [1, heads, seq_len, head_dim], which is right on the devices that have
        the earlier tokens of the user in `slot` -> the right one on every device."""
        return x

    def scatter_hidden(self, x, memory_config):
        """Partial products of w1 or w3 -> a device's columns of their sum."""
        return x

    def gather_hidden(self, x, memory_config):
        """A device's columns of w2's input -> all columns that its rows of w2 take."""
        return x

    def sum_logits(self, x, memory_config):
        """Partial products of the LM head, interleaved -> their sum."""
        return x

    def deallocate(self):
        """Frees what the collectives keep on the devices."""


class LineOfDevices(SingleDevice):
    """Tensor parallel in one dimension: devices in a line along an axis of the mesh.

    The partial products of wo and w2 are summed and scattered into the residual stream, and a norm gathers it. This has
    the traffic of an all_reduce, but each device computes and stores only its share of residual adds.
    """

    def __init__(self, placement: Placement):
        self._line = dict(dim=3, cluster_axis=placement.residual_axis, topology=ttnn.Topology.Linear)

    def gather_residual(self, x, memory_config):
        return ttnn.all_gather(x, memory_config=memory_config, **self._line)

    def sum_residual(self, x, memory_config):
        return ttnn.reduce_scatter(x, memory_config=memory_config, **self._line)


class GridOfDevices(SingleDevice):
    """Tensor parallel in two dimensions (the table in `Placement`): "rows" and "columns" are those of the mesh.

    first_user: [1, 1] int32 on each device, the first row of a decode step that is a user of the device's column.
    """

    def __init__(self, placement: Placement, mesh_device, max_batch_size: int):
        self._placement = placement
        self._max_batch_size = max_batch_size
        # None is the topology of the fabric, the only one that all_gather has.
        topology = ttnn.Topology.Linear if links.sums_in_line() else None
        self._along_row = dict(cluster_axis=placement.residual_axis)
        self._sum_along_row = dict(topology=topology, **self._along_row)
        self._sum_along_column = dict(topology=topology, cluster_axis=placement.model_axis)
        firsts = torch.arange(placement.pools, dtype=torch.int32)[:, None] * placement.users(max_batch_size)
        self.first_user = ttnn.from_torch(
            firsts,
            dtype=ttnn.int32,
            layout=ttnn.ROW_MAJOR_LAYOUT,
            device=mesh_device,
            memory_config=ttnn.DRAM_MEMORY_CONFIG,
            mesh_mapper=placement.mapper(mesh_device, users=0),
        )

    def gather_statistics(self, x, memory_config):
        """A norm's sums of squares, one tile wide, side by side: [1, 1, rows, 32] -> [1, 1, rows, 32 * columns]."""
        return ttnn.all_gather(x, dim=3, memory_config=memory_config, **self._along_row)

    def sum_residual(self, x, memory_config):
        return ttnn.all_reduce(x, memory_config=memory_config, **self._sum_along_column)

    def sum_qkv(self, x, memory_config):
        return ttnn.all_reduce(x, memory_config=memory_config, **self._sum_along_row)

    def gather_users(self, x, memory_config):
        return ttnn.all_gather(x, dim=1, memory_config=memory_config, **self._along_row)

    def from_column_of(self, slot: int, x):
        """The pages of a user are in its column only. So every column computes the chunk's attention, with whatever its
        own pages of these numbers hold, and the results of all columns are gathered to take the user's."""
        _, *shape = x.shape
        x = ttnn.all_gather(x, dim=0, memory_config=ttnn.DRAM_MEMORY_CONFIG, **self._along_row)
        column = self._placement.pool_of(slot, self._max_batch_size)
        return ttnn.slice(x, [column, 0, 0, 0], [column + 1, *shape])

    def scatter_hidden(self, x, memory_config):
        return ttnn.reduce_scatter(x, dim=3, memory_config=memory_config, **self._sum_along_row)

    def gather_hidden(self, x, memory_config):
        return ttnn.all_gather(x, dim=3, memory_config=memory_config, **self._along_row)

    def sum_logits(self, x, memory_config):
        return ttnn.all_reduce(x, memory_config=memory_config, **self._sum_along_row)

    def deallocate(self):
        ttnn.deallocate(self.first_user)


def make_ccl(placement: Placement, mesh_device, max_batch_size: int):
    """The collectives of a model on a mesh."""
    if placement.is_grid:
        return GridOfDevices(placement, mesh_device, max_batch_size)
    return SingleDevice() if placement.num_devices == 1 else LineOfDevices(placement)
