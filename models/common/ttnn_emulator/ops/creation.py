"""Converts tensors from and to torch. `filling` makes tensors full of one value."""

from collections.abc import Callable

import torch

from ..declaration import NoEffect, NotEmulated
from ..device import MeshDevice
from ..distributed import CppMeshToTensor, CppTensorToMesh, ReplicateTensorToMeshWrapper
from ..dtypes import BLOCK_FLOAT, DataType, Layout, dtype_from_torch, storage_dtype, ttnn_dtype_to_torch_dtype
from ..memory import MemoryConfig
from ..op import op
from ..packed import PackedMatrix, packed
from ..program import rounding
from ..tensor import Replicated, Storage, Tensor, TensorSpec, is_transposed
from .transfer import check_readable, to_device


@op("ttnn.from_torch")
def from_torch(
    tensor: torch.Tensor | None,
    dtype: DataType = None,
    *,
    spec: TensorSpec = None,
    tile: NotEmulated = None,
    pad_value: NoEffect[float] = None,
    layout: Layout = None,
    device: MeshDevice = None,
    memory_config: MemoryConfig = None,
    mesh_mapper: CppTensorToMesh | ReplicateTensorToMeshWrapper = None,
    cq_id: int = None,
    preserve_nan_values: NoEffect[bool] = False,
    col_tilize: NotEmulated = False,
    enable_bfloat_opt: NoEffect[bool] = False,
) -> Tensor:
    """A Tensor with the values of a torch tensor, rounded to `dtype`. It is on the mesh if `device` is given.

    The default `dtype` follows from the torch dtype. The default `layout` is ROW_MAJOR, for block floats TILE.
    Without `mesh_mapper` every device gets the whole tensor. Meta tensors give tensors without values.
    """
    if tensor is None:
        return None
    if spec is not None:
        if not dtype is layout is memory_config is None:
            raise RuntimeError(f"dtype, layout and memory_config must be left out with a spec, got {spec}")
        if spec.shape != tuple(tensor.shape):
            raise RuntimeError(f"{spec} must have the tensor's shape {list(tensor.shape)}")
        dtype, layout, memory_config = spec.dtype, spec.layout, spec.memory_config
    dtype = dtype_from_torch(tensor.dtype) if dtype is None else dtype
    if layout is None:
        layout = Layout.TILE if dtype in BLOCK_FLOAT else Layout.ROW_MAJOR
    if dtype in BLOCK_FLOAT and layout is not Layout.TILE:
        raise RuntimeError(f"{dtype} must be in TILE layout, got {layout}")
    if memory_config is not None and memory_config.is_sharded() and memory_config.shard_spec is None:
        raise RuntimeError(f"memory_config needs a shard_spec, got {memory_config}")

    if mesh_mapper is None:
        shards = Replicated((_convert(tensor, dtype),))
    else:
        mapper = mesh_mapper.unwrap() if isinstance(mesh_mapper, ReplicateTensorToMeshWrapper) else mesh_mapper
        parts = mapper.split(tensor.detach())
        converted = {id(part): _convert(part, dtype) for part in parts}
        shards = type(parts)([converted[id(part)] for part in parts])
    host = Tensor(TensorSpec(tuple(shards[0].shape), dtype, layout, memory_config), Storage(shards))
    if device is None:
        return host
    tensor = to_device(host, device, memory_config, queue_id=cq_id)
    # No other code has a reference to the host tensor. But an op that writes needs an unpacked copy.
    tensor.storage.aliased = any(type(shard) is PackedMatrix for shard in shards)
    return tensor


def _convert(tensor, dtype):
    """A copy of a torch tensor, rounded to `dtype` and in its storage dtype. Integers are cut to the dtype's bits.

    A matrix of block floats is packed. Another transposed matrix, or a device's part of one, stays so in memory: it is a weight, and matmuls read it fastest in
    this order.
    """
    tensor = tensor.detach()
    target = storage_dtype(dtype)
    if tensor.is_meta:
        return torch.empty(tensor.shape, dtype=target, device="meta")
    if tensor.dim() > 1 and not tensor.is_contiguous() and tensor.stride(-2) < tensor.stride(-1):
        tensor = tensor.mT.contiguous().mT
    if dtype in BLOCK_FLOAT:
        values = tensor if tensor.dtype in (torch.bfloat16, torch.float32) else tensor.float()
        matrix = packed(values, dtype)
        if matrix is not None:
            return matrix
        rounded = rounding(dtype)(values)
        return rounded.clone() if rounded is tensor else rounded
    if dtype is DataType.UINT16:
        values = tensor.to(torch.int64)
        return (values.clamp(0, 0xFFFF) if tensor.is_floating_point() else values & 0xFFFF).to(target)
    if dtype in (DataType.UINT32, DataType.INT32, DataType.UINT8) and not tensor.dtype == target:
        return tensor.to(torch.int64).to(target).contiguous()
    order = torch.preserve_format if is_transposed(tensor) else torch.contiguous_format
    return tensor.to(target, copy=True, memory_format=order)


@op("ttnn.to_torch")
def to_torch(
    tensor: Tensor,
    dtype: torch.dtype = None,
    *,
    torch_rank: int = None,
    mesh_composer: CppMeshToTensor = None,
    device: NoEffect[MeshDevice] = None,
    cq_id: int = None,
) -> torch.Tensor:
    """A torch tensor with a copy of the values. Block floats become float32.

    A tensor on more than one device needs a `mesh_composer` (or `get_device_tensors`), else RuntimeError.
    """
    if tensor._device is not None:
        tensor._device.check_queue(cq_id)
    check_readable(tensor)
    shards = tensor.shards
    if mesh_composer is not None:
        value = mesh_composer.join(shards)
    elif len(shards) == 1:
        value = shards[0]
    else:
        raise RuntimeError(f"{tensor._describe()} lies on {len(shards)} devices; give a mesh_composer")
    wanted, is_copy = ttnn_dtype_to_torch_dtype(tensor.dtype) if dtype is None else dtype, value is not shards[0]
    if tensor.dtype is DataType.UINT32 and not value.is_meta:
        value = value.contiguous().view(torch.uint32)
    value = value.to(wanted, copy=not is_copy, memory_format=torch.contiguous_format)
    if torch_rank is None:
        return value
    while value.dim() > torch_rank:
        if value.shape[0] != 1:
            raise RuntimeError(f"shape {list(value.shape)} cannot be squeezed to rank {torch_rank}")
        value = value.squeeze(0)
    return value


@op("ttnn.as_tensor")
def as_tensor(
    tensor: torch.Tensor,
    dtype: DataType = None,
    *,
    layout: Layout | None = Layout.ROW_MAJOR,
    device: MeshDevice = None,
    memory_config: MemoryConfig = None,
    cache_file_name: NotEmulated = None,
    preprocess: Callable = None,
    mesh_mapper: CppTensorToMesh | ReplicateTensorToMeshWrapper = None,
    cache_dump_mode: NotEmulated = ...,
) -> Tensor:
    """`from_torch` of `preprocess(tensor)`. With a device, `memory_config` is required."""
    if device is not None and memory_config is None:
        raise RuntimeError("memory_config must be given with a device")
    tensor = tensor if preprocess is None else preprocess(tensor)
    return from_torch(
        tensor, dtype, layout=layout, device=device, memory_config=memory_config, mesh_mapper=mesh_mapper
    )


@op("ttnn.to_dtype")
def to_dtype(tensor: Tensor, dtype: DataType) -> Tensor:
    """A host tensor rounded to another dtype."""
    if tensor._device is not None:
        raise RuntimeError("takes a host tensor; use typecast on a device")
    converted = {id(shard): _convert(shard, dtype) for shard in tensor.shards}
    layout = Layout.TILE if dtype in BLOCK_FLOAT else tensor.layout
    spec = TensorSpec(tensor.shape, dtype, layout, tensor._memory_config)
    return Tensor(spec, Storage(type(tensor.shards)([converted[id(shard)] for shard in tensor.shards])))
