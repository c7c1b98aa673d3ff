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


def group_shape(mesh_shape, data_parallel: int) -> tuple[int, int]:
    """Rows and columns that each of `data_parallel` equal groups has on a mesh of `mesh_shape`.

    Parts of a row where rows can be cut so, else whole columns: the same groups as in the vendor's TT-Transformers.
    Raises ValueError with the numbers that work.
    """
    shape = _group_shape(mesh_shape, data_parallel)
    if shape is None:
        rows, columns = mesh_shape
        works = ", ".join(str(n) for n in range(1, rows * columns + 1) if _group_shape(mesh_shape, n))
        raise ValueError(
            f"data_parallel {data_parallel} does not divide a mesh of {rows}x{columns} devices; numbers that do: {works}"
        )
    return shape


def _group_shape(mesh_shape, data_parallel: int) -> tuple[int, int] | None:
    rows, columns = mesh_shape
    if data_parallel < 1 or rows * columns % data_parallel:
        return None
    if data_parallel == 1:
        return rows, columns
    devices = rows * columns // data_parallel
    if columns % devices == 0:
        return 1, devices
    return (rows, columns // data_parallel) if columns % data_parallel == 0 else None


def create_submeshes(mesh_device, data_parallel: int) -> list:
    """Cuts a mesh into `data_parallel` lines (1xN) of equally many devices; 1 gives the mesh itself, as it is.

    Raises ValueError for a number that does not divide the mesh. The submeshes are closed with the mesh.
    """
    rows, columns = group_shape(tuple(mesh_device.shape), data_parallel)
    if data_parallel == 1:
        return [mesh_device]
    submeshes = mesh_device.create_submeshes(ttnn.MeshShape(rows, columns))
    if rows > 1:
        for submesh in submeshes:
            submesh.reshape(ttnn.MeshShape(1, rows * columns))
    return submeshes


@dataclass(frozen=True)
class Placement:
    """Which axis of a mesh (0: its rows of devices, 1: its columns) splits which parts of a model.

    Attributes:
        mesh_shape: rows and columns of devices.
        model_axis: splits heads, the MLP's hidden columns and the vocabulary.
        residual_axis: splits the columns of the residual stream.
        users_axis: splits users and their KV caches; None if every device serves all users.
        chip: what each device is.

    Tensor parallel in one dimension, on a line (1xN or Nx1): one axis splits everything. Each device has whole rows of the
    residual stream in its matmuls: a norm gathers them, and sums of partial products are scattered again.

    Tensor parallel in two dimensions, on a grid such as a Galaxy (8x4): the rows split the model, the columns split the
    residual stream and the users. A weight is split in both of its dimensions, so every matmul gives partial sums. Of a
    Llama-3.3-70B (hidden size 8192, 64 query heads, 8 KV heads, MLP of 28672, vocabulary of 128256) with 32 users:

    | tensor | split | on a device | afterwards |
    | --- | --- | --- | --- |
    | residual | columns over axis 1 | 32 x 2048 | norm with statistics gathered over axis 1 |
    | wqkv | N over axis 0, K over axis 1 | 2048 x 1280 | sum over axis 1; each column of devices keeps 8 users |
    | KV cache | KV heads over axis 0, users over axis 1 | 1 head, 8 users | attention |
    | attention's output | | 8 users x 1024 | users gathered over axis 1: 32 x 1024 |
    | wo | K over axis 0, N over axis 1 | 1024 x 2048 | sum over axis 0 |
    | w1, w3 | N over axis 0, K over axis 1 | 2048 x 3584 | sum scattered over axis 1, product, gathered over axis 1 |
    | w2 | K over axis 0, N over axis 1 | 3584 x 2048 | sum over axis 0 |
    | LM head | vocabulary over axis 0, K over axis 1 | 2048 x 16384 | sum over axis 1 |
    """

    mesh_shape: tuple[int, int]
    model_axis: int = 1
    residual_axis: int = 1
    users_axis: int | None = None
    chip: Chip = WORMHOLE

    @classmethod
    def of(cls, mesh_device) -> "Placement":
        """Tensor parallel over all devices of a mesh: in one dimension on a line, in two on a grid."""
        rows, columns = shape = tuple(mesh_device.shape)
        chip = chip_of(mesh_device)
        if rows > 1 and columns > 1:
            return cls(shape, model_axis=0, residual_axis=1, users_axis=1, chip=chip)
        axis = 0 if rows > 1 else 1
        return cls(shape, model_axis=axis, residual_axis=axis, chip=chip)

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

    @property
    def is_grid(self) -> bool:
        """Whether tensor parallel is in two dimensions."""
        return self.model_axis != self.residual_axis

    @property
    def layout(self) -> str:
        """How the model is split, for the user."""
        if self.num_devices == 1:
            return "1 device"
        if not self.is_grid:
            return f"{self.num_devices} devices, tensor parallel"
        return f"{self.num_devices} devices, tensor parallel over {self.model_ranks} rows and {self.residual_ranks} columns"

    @property
    def input_ranks(self) -> int:
        """Devices that the residual columns of a weight are split over: those that a matmul sums over, or gives."""
        return self.residual_ranks if self.is_grid else 1

    def split_residual(self, dim: int) -> int | None:
        """Dimension `dim` of a weight, which has the residual columns, as `mapper` takes it; None if it is not split."""
        return dim if self.is_grid else None

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
        if self.is_grid and split.n_heads > TILE:
            raise ValueError(
                f"{n_heads} query heads are {split.n_heads} on each device of {self.name}, which takes at most {TILE} where "
                "users are split over the devices too; use more rows of devices, or a line"
            )
        return split

    @property
    def hidden_unit(self) -> int:
        """What one device's hidden columns of the MLP are a multiple of: on a grid their sums are scattered in whole
        tiles."""
        return TILE * self.input_ranks

    def model_width(self, columns: int) -> int:
        """One device's share of the MLP's hidden `columns`, padded to a multiple of `hidden_unit`."""
        return math.ceil(columns / self.model_ranks / self.hidden_unit) * self.hidden_unit

    def residual_width(self, dim: int) -> int:
        """One device's columns of the residual stream of `dim` columns, padded to whole tiles."""
        return whole_tiles(math.ceil(dim / self.residual_ranks))

    def padded_dim(self, dim: int) -> int:
        """The columns of the residual stream on all devices together. Those after the first `dim` are zeros."""
        return self.residual_ranks * self.residual_width(dim)

    def matmul_width(self, dim: int) -> int:
        """The residual columns of one device's matmuls: all of them on a line, the device's share on a grid."""
        return self.padded_dim(dim) // self.input_ranks

    @property
    def pools(self) -> int:
        """Groups of devices with their own users, and their own pages of the KV cache: the columns of a grid."""
        return 1 if self.users_axis is None else self.mesh_shape[self.users_axis]

    def users(self, max_batch_size: int) -> int:
        """The users that one device serves, which are neighbours in the batch."""
        return math.ceil(max_batch_size / self.pools)

    def pool_of(self, user: int, max_batch_size: int) -> int:
        """The group of devices that serves a user of the batch."""
        return user // self.users(max_batch_size)

    def decode_rows(self, max_batch_size: int) -> int:
        """Rows of a decode step: a row for each user, and rows for nobody so that all groups have as many."""
        return self.pools * self.users(max_batch_size)

    def mapper(
        self, mesh_device, *, model: int | None = None, residual: int | None = None, users: int | None = None
    ):
        """A mesh mapper that splits dimension `model` over the model axis, `residual` over the residual axis and `users`
        over the users axis.

        A tensor is replicated along an axis that splits none of its dimensions, and over all devices if every device
        serves all users. An axis may split one dimension only: on a line, `model` or `residual`.
        """
        dims: list[int | None] = [None, None]
        for axis, dim in ((self.model_axis, model), (self.residual_axis, residual), (self.users_axis, users)):
            if axis is not None and dim is not None:
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
