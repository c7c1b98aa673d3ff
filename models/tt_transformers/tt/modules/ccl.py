"""Collectives between the devices that share one model, named by the place in the model where they act.

A module calls the same methods on any mesh. Where a placement has nothing to exchange, the method returns its input. So
the modules need no cases, and `Placement` says what a device has before and after each call.
"""

from itertools import cycle

import torch
import ttnn

from models.common import links
from models.common.chip import TILE
from models.tt_transformers.tt.modules.constants import Constants
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
        """Partial products of wqkv in a prefill, interleaved -> their sum on every device of the grid's row."""
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

    def __init__(self, placement: Placement, constants: Constants, max_batch_size: int):
        mesh_device = constants.mesh_device
        self._placement, self._constants, self._mesh_device = placement, constants, mesh_device
        self._max_batch_size = max_batch_size
        # all_gather takes the topology of the fabric only.
        is_ring = ttnn.get_fabric_config() == ttnn.FabricConfig.FABRIC_1D_RING
        self._fabric = ttnn.Topology.Ring if is_ring else ttnn.Topology.Linear
        topology = ttnn.Topology.Linear if links.sums_in_line() else self._fabric
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
        self._norm_semaphores, self._heads_semaphores = self._semaphores(), self._semaphores()

    def _semaphores(self):
        """Semaphores for an op's calls: two in turn, because a device may be a call behind its neighbours."""
        grid = self._mesh_device.compute_with_storage_grid_size()
        cores = ttnn.num_cores_to_corerangeset(grid.x * grid.y, grid, True)
        return cycle([ttnn.create_global_semaphore(self._mesh_device, cores, 0) for _ in range(2)])

    def norm(self, x, sums, program_config, **options):
        """RMS norm of x, L1 width-sharded, whose columns are split over the devices of a row. sums: of `room_for_sums`."""
        return ttnn.fused_rms_minimal(
            x, program_config, mesh_device=self._mesh_device, global_semaphore=next(self._norm_semaphores), stats=sums,
            topology=self._fabric, **self._along_row, **options,
        )  # fmt: skip

    def room_for_sums(self, chip):
        """Where the devices of a row write a norm's sums of squares: a tile for each, the same memory in all norms."""
        columns = self._placement.residual_ranks * TILE
        return self._constants.tensor(
            "sums", lambda: torch.zeros(1, 1, TILE, columns), ttnn.float32, memory_config=chip.width_sharded(columns, 1)
        )

    def sum_to_heads(self, x, parts, memory_config, **heads):
        """Partial products of wqkv [1, 1, rows, columns of q, k and v], L1 width-sharded -> q, k, v of their sum, of the
        device's users: [1, users of a device, heads, head_dim] each, one user a core, on the cores of `memory_config`.
        parts: of `room_for_parts`."""
        _, q, k, v = ttnn.experimental.all_reduce_create_qkv_heads(
            x, parts, self.first_user, mesh_device=self._mesh_device, memory_config=x.memory_config(),
            multi_device_global_semaphore=next(self._heads_semaphores), final_memory_config=memory_config, **heads, **self._sum_along_row,
        )  # fmt: skip
        return q, k, v

    def room_for_parts(self, chip, rows: int, width: int, cores: int):
        """Where the devices of a row write their parts of a decode matmul's product [1, 1, rows, width], width-sharded over
        `cores`: the same memory in all layers."""
        columns = self._placement.residual_ranks * width
        return self._constants.tensor(
            ("parts", rows, width), lambda: torch.zeros(1, 1, rows, columns), ttnn.bfloat16,
            memory_config=chip.beside_product(columns, cores),
        )  # fmt: skip

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


def make_ccl(placement: Placement, constants: Constants, max_batch_size: int):
    """The collectives of a model on the mesh of its `constants`."""
    if placement.is_grid:
        return GridOfDevices(placement, constants, max_batch_size)
    return SingleDevice() if placement.num_devices == 1 else LineOfDevices(placement)
