"""Mappers divide torch tensors over a mesh. Composers put them together again."""

import torch

from .device import MeshDevice
from .shapes import MeshShape
from .tensor import Replicated, Storage, Tensor


class PlacementReplicate:
    """Along this mesh axis every device gets the same part."""

    def __repr__(self):
        return "PlacementReplicate()"


class PlacementShard:
    """Along this mesh axis the tensor is divided in its dimension `dim`."""

    def __init__(self, dim: int):
        self.dim = dim

    def __repr__(self):
        return f"PlacementShard({self.dim})"


class MeshMapperConfig:
    """A placement per axis of a mesh shape."""

    def __init__(self, placements, mesh_shape_override: MeshShape = None):
        self.placements, self.mesh_shape_override = list(placements), mesh_shape_override

    def __repr__(self):
        return f"MeshMapperConfig(placements: {self.placements}, mesh_shape_override={self.mesh_shape_override})"


class CppTensorToMesh:
    """Divides a torch tensor into one part per device. Made by the mapper functions of this module."""

    def __init__(self, mesh_device: MeshDevice, mesh_shape: MeshShape, placements):
        if mesh_shape.mesh_size() > mesh_device.num_devices:
            raise RuntimeError(f"mesh mapper: {mesh_shape} is larger than {mesh_device}")
        self.mesh_device, self.mesh_shape, self.placements = mesh_device, mesh_shape, tuple(placements)

    def config(self) -> MeshMapperConfig:
        """A text that describes how this mapper divides. It is the same in every process."""
        return MeshMapperConfig(self.placements, self.mesh_shape)

    def split(self, tensor: torch.Tensor):
        """One view of `tensor` per device, in row-major order. Devices with the same part share one object."""
        parts = {(): tensor}
        for placement, count in zip(self.placements, self.mesh_shape):
            pieces = {}
            for part in parts.values():
                if id(part) not in pieces:
                    replicates = isinstance(placement, PlacementReplicate)
                    pieces[id(part)] = [part] * count if replicates else _divide(part, placement.dim, count)
            parts = {(*place, at): pieces[id(part)][at] for place, part in parts.items() for at in range(count)}
        shards = list(parts.values())
        return Replicated(shards) if all(shard is shards[0] for shard in shards) else shards


def _divide(tensor, dim, count):
    if not -tensor.dim() <= dim < tensor.dim():
        raise RuntimeError(f"mesh mapper: dimension {dim} is not in a tensor of shape {list(tensor.shape)}")
    if tensor.shape[dim] % count:
        raise RuntimeError(f"mesh mapper: dimension {dim} of {list(tensor.shape)} does not divide into {count} devices")
    return tensor.chunk(count, dim) if count > 1 else [tensor]


class CppMeshToTensor:
    """Puts the devices' tensors together. Made by the composer functions of this module."""

    def __init__(self, mesh_device: MeshDevice, mesh_shape: MeshShape, dims):
        self.mesh_device, self.mesh_shape, self.dims = mesh_device, mesh_shape, tuple(dims)

    def join(self, shards) -> torch.Tensor:
        """Concatenates the devices' tensors, equal ones only once. Of one device it returns the tensor itself."""
        shards = list(shards)
        if len(shards) != self.mesh_shape.mesh_size():
            raise RuntimeError(f"mesh composer: {self.mesh_shape} does not fit a tensor of {len(shards)} shards")
        for count, dim in zip(self.mesh_shape, self.dims):
            if count > 1:
                others = len(shards) // count
                groups = [tuple(shards[start::others]) for start in range(others)]
                parts = {tuple(map(id, group)): group for group in groups}
                joined = {key: torch.cat(group, dim) for key, group in parts.items()}
                shards = [joined[tuple(map(id, group))] for group in groups]
        return shards[0]


class ReplicateTensorToMeshWrapper:
    """A mapper that replicates. It is a class of its own, as the vendor's is."""

    def __init__(self, mapper: CppTensorToMesh):
        self._mapper = mapper

    def unwrap(self) -> CppTensorToMesh:
        return self._mapper


def ReplicateTensorToMesh(mesh_device: MeshDevice) -> ReplicateTensorToMeshWrapper:
    """Every device gets the whole tensor."""
    return ReplicateTensorToMeshWrapper(
        CppTensorToMesh(mesh_device, MeshShape(mesh_device.num_devices), [PlacementReplicate()])
    )


def ShardTensorToMesh(mesh_device: MeshDevice, dim: int) -> CppTensorToMesh:
    """The tensor's dimension `dim` is divided over all devices in row-major order."""
    return CppTensorToMesh(mesh_device, MeshShape(mesh_device.num_devices), [PlacementShard(dim)])


def ShardTensor2dMesh(mesh_device: MeshDevice, mesh_shape, dims) -> CppTensorToMesh:
    """Dimension `dims[0]` is divided over the mesh's rows and `dims[1]` over its columns. None replicates."""
    placements = [PlacementReplicate() if dim is None else PlacementShard(dim) for dim in dims]
    return CppTensorToMesh(mesh_device, MeshShape(*mesh_shape), placements)


def ConcatMeshToTensor(mesh_device: MeshDevice, dim: int) -> CppMeshToTensor:
    """Concatenates all devices' tensors along `dim`."""
    return CppMeshToTensor(mesh_device, MeshShape(mesh_device.num_devices), [dim])


def ConcatMesh2dToTensor(mesh_device: MeshDevice, mesh_shape, dims) -> CppMeshToTensor:
    """Concatenates rows of devices along dimension `dims[0]` and columns along `dims[1]`. The two must differ."""
    if dims[0] == dims[1]:
        raise RuntimeError(f"ConcatMesh2dToTensor: the two dimensions must differ, got {tuple(dims)}")
    return CppMeshToTensor(mesh_device, MeshShape(*mesh_shape), dims)


def get_device_tensors(tensor: Tensor) -> list:
    """One tensor per device. Those of a device tensor share its buffer and values."""
    return [_part(tensor, shard) for shard in tensor.shards]


def _part(tensor, shard):
    tensor.storage.aliased = True
    storage = Storage(Replicated((shard,)), aliased=True)
    storage.pending = tensor.storage.pending
    return Tensor(tensor.spec, storage, tensor._device, tensor._buffer)


def from_host_shards(tensors, mesh_shape: MeshShape) -> Tensor:
    """A host tensor made of one host tensor per device, all of the same shape, dtype and layout."""
    first = tensors[0]
    if any(tensor._device is not None for tensor in tensors):
        raise RuntimeError("from_host_shards: all tensors must be on the host")
    if len(tensors) != mesh_shape.mesh_size() or any(tensor.spec != first.spec for tensor in tensors):
        raise RuntimeError(f"from_host_shards: needs {mesh_shape.mesh_size()} tensors of one spec")
    return Tensor(first.spec, Storage([tensor.shards[0] for tensor in tensors], aliased=True))
