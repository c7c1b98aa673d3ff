"""How a model lies on a mesh of devices: which mesh axis splits which dimension, and the share of one device.

Only this module counts devices. Modules ask it for their share, weights ask for mappers, and logits for a composer.
"""

import math
from dataclasses import dataclass

import ttnn

from models.common.chip import TILE, WORMHOLE, Chip, whole_tiles
from models.common.mesh import chip_of
from models.common.mesh_names import LINES, MESH_SHAPES, mesh_name_of

# The most KV heads of one device: paged_update_cache writes one tile of heads.
MAX_KV_HEADS = TILE


@dataclass(frozen=True)
class HeadSplit:
    """The attention heads of each rank, by their index in the model. None is a padding head; its weights are zeros.

    `query[r]` follows the order of `kv[r]`, with the same number of query heads for each KV head. All ranks have the
    same number of query heads and the same number of KV heads.
    """

    query: tuple[tuple[int | None, ...], ...]
    kv: tuple[tuple[int | None, ...], ...]

    @property
    def n_heads(self) -> int:
        """Query heads of one device, padding included."""
        return len(self.query[0])

    @property
    def n_kv_heads(self) -> int:
        """KV heads of one device, padding included."""
        return len(self.kv[0])


def split_heads(n_heads: int, n_kv_heads: int, ranks: int) -> HeadSplit:
    """Distributes heads over `ranks` so that every query head is on the same rank as its KV head.

    The number of KV heads is padded to the next multiple or divisor of `ranks`. If it is smaller than `ranks`, each KV
    head is replicated on several ranks. These share its query heads, padded to the same number on each.
    """
    group = n_heads // n_kv_heads
    kv_slots = next(n for n in range(n_kv_heads, n_kv_heads * ranks + 1) if n % ranks == 0 or ranks % n == 0)
    copies, kv_a_rank = max(1, ranks // kv_slots), max(1, kv_slots // ranks)
    queries_a_kv = math.ceil(group / copies)
    query, kv = [], []
    for rank in range(ranks):
        first, part = rank // copies * kv_a_rank, rank % copies
        heads = [head if head < n_kv_heads else None for head in range(first, first + kv_a_rank)]
        members = range(part * queries_a_kv, (part + 1) * queries_a_kv)
        query.append(tuple(None if head is None or m >= group else head * group + m for head in heads for m in members))
        kv.append(tuple(heads))
    return HeadSplit(tuple(query), tuple(kv))


@dataclass(frozen=True)
class Placement:
    """Which axis of a mesh (0: its rows of devices, 1: its columns) splits which parts of a model.

    Attributes:
        mesh_shape: rows and columns of devices.
        model_axis: splits heads, the MLP's hidden columns and the vocabulary.
        residual_axis: splits the columns of the residual stream.
        users_axis: splits users and their KV caches; None if every device serves all users.
        chip: what each device is.

    On a line (1xN) one axis splits everything; see `of`. A Galaxy (8x4) can split the model over its 8 rows, and the
    residual stream and the users over its 4 columns: `Placement((8, 4), model_axis=0, residual_axis=1, users_axis=1)`.
    """

    mesh_shape: tuple[int, int]
    model_axis: int = 1
    residual_axis: int = 1
    users_axis: int | None = None
    chip: Chip = WORMHOLE

    @classmethod
    def of(cls, mesh_device) -> "Placement":
        """The placement of tensor parallel over all devices of a 1xN mesh. Raises ValueError for another shape."""
        rows, columns = tuple(mesh_device.shape)
        if rows != 1:
            raise ValueError(f"mesh {rows}x{columns}: tensor parallel runs on 1xN meshes (N150 1x1, N300 1x2, T3K 1x8)")
        return cls((rows, columns), chip=chip_of(mesh_device))

    @property
    def num_devices(self) -> int:
        return self.mesh_shape[0] * self.mesh_shape[1]

    @property
    def name(self) -> str:
        """The mesh's name, such as T3K. A shape without a name, such as a part of a machine, gives rows x columns."""
        return mesh_name_of(self.mesh_shape, self.chip)

    @property
    def model_ranks(self) -> int:
        """Devices that heads, MLP and vocabulary are split over."""
        return self.mesh_shape[self.model_axis]

    @property
    def residual_ranks(self) -> int:
        """Devices that the residual stream is split over."""
        return self.mesh_shape[self.residual_axis]

    def heads(self, n_heads: int, n_kv_heads: int) -> HeadSplit:
        """The heads of each rank of the model axis. ValueError if a device would have more than `MAX_KV_HEADS`."""
        split = split_heads(n_heads, n_kv_heads, self.model_ranks)
        if split.n_kv_heads > MAX_KV_HEADS:
            fewer = (
                name for name in LINES if split_heads(n_heads, n_kv_heads, math.prod(MESH_SHAPES[name])).n_kv_heads <= MAX_KV_HEADS
            )
            raise ValueError(
                f"{n_kv_heads} KV heads are {split.n_kv_heads} on each device of {self.name}, which takes at most "
                f"{MAX_KV_HEADS}; meshes that work: {', '.join(fewer) or 'none'}"
            )
        return split

    def model_width(self, columns: int) -> int:
        """One device's share of `columns` that are split over the model axis, padded to whole tiles."""
        return whole_tiles(math.ceil(columns / self.model_ranks))

    def residual_width(self, dim: int) -> int:
        """One device's columns of the residual stream of `dim` columns, padded to whole tiles."""
        return whole_tiles(math.ceil(dim / self.residual_ranks))

    def padded_dim(self, dim: int) -> int:
        """The columns of the residual stream on all devices together. Those after the first `dim` are zeros."""
        return self.residual_ranks * self.residual_width(dim)

    def users(self, max_batch_size: int) -> int:
        """The users that one device serves."""
        return max_batch_size if self.users_axis is None else math.ceil(max_batch_size / self.mesh_shape[self.users_axis])

    def mapper(self, mesh_device, *, model: int | None = None, residual: int | None = None):
        """A mesh mapper that splits dimension `model` over the model axis and `residual` over the residual axis.

        A tensor is replicated along an axis that splits none of its dimensions. On a line only one of the two may be
        given.
        """
        dims: list[int | None] = [None, None]
        for axis, dim in ((self.model_axis, model), (self.residual_axis, residual)):
            if dim is not None:
                if dims[axis] is not None:
                    raise ValueError(f"dimensions {dims[axis]} and {dim} cannot both be split over axis {axis} of the mesh")
                dims[axis] = dim
        if dims == [None, None]:
            return ttnn.ReplicateTensorToMesh(mesh_device)
        return ttnn.ShardTensor2dMesh(mesh_device, mesh_shape=self.mesh_shape, dims=tuple(dims))

    def composer(self, mesh_device, *, model: int):
        """A mesh composer that joins dimension `model` along the model axis.

        The parts of the devices along the other axis are joined in dimension 0. If these parts are equal, the first one
        is enough.
        """
        dims = [0, 0]
        dims[self.model_axis] = model
        return ttnn.ConcatMesh2dToTensor(mesh_device, mesh_shape=self.mesh_shape, dims=tuple(dims))
