"""Making tensors: from torch and back, and full of one value."""

import torch

from ..distributed import CppMeshToTensor, CppTensorToMesh, ReplicateTensorToMeshWrapper
from ..dtypes import BLOCK_FLOAT, DataType, Layout, dtype_from_torch, storage_dtype, ttnn_dtype_to_torch_dtype
from ..memory import DRAM_MEMORY_CONFIG, MemoryConfig
from ..op import op, rounding
from ..tensor import Replicated, Storage, Tensor, TensorSpec, lazy_zeros
from .transfer import check_readable, check_writable, on_device, to_device


@op("ttnn.from_torch")
def from_torch(
    tensor,
    dtype: DataType = None,
    *,
    spec: TensorSpec = None,
    tile=None,
    pad_value: float = None,
    layout: Layout = None,
    device=None,
    memory_config: MemoryConfig = None,
    mesh_mapper=None,
    cq_id: int = None,
    preserve_nan_values: bool = False,
    col_tilize: bool = False,
    enable_bfloat_opt: bool = False,
):
    """A Tensor with the values of a torch tensor, rounded to `dtype`; on the mesh if `device` is given.

    Without `dtype` it follows from the torch dtype; without `layout` it is ROW_MAJOR, for block floats TILE.
    Without `mesh_mapper` every device gets the whole tensor. Meta tensors give tensors without values.
    """
    if tensor is None:
        return None
    if tile is not None or col_tilize:
        raise ValueError("from_torch: the emulator has 32x32 tiles only; leave tile and col_tilize out")
    if spec is not None:
        dtype, layout, memory_config = spec.dtype, spec.layout, spec.memory_config
    dtype = dtype_from_torch(tensor.dtype) if dtype is None else dtype
    if layout is None:
        layout = Layout.TILE if dtype in BLOCK_FLOAT else Layout.ROW_MAJOR
    if dtype in BLOCK_FLOAT and layout is not Layout.TILE:
        raise RuntimeError(f"from_torch: {dtype} must be in TILE layout, got {layout}")
    if memory_config is not None and memory_config.is_sharded() and memory_config.shard_spec is None:
        raise RuntimeError(f"from_torch: memory_config needs a shard_spec, got {memory_config}")

    if mesh_mapper is None:
        shards = Replicated((_convert(tensor, dtype),))
    else:
        mapper = mesh_mapper.unwrap() if isinstance(mesh_mapper, ReplicateTensorToMeshWrapper) else mesh_mapper
        if not isinstance(mapper, CppTensorToMesh):
            raise TypeError(f"from_torch: mesh_mapper must be made by a mapper function, got {mesh_mapper!r}")
        parts = mapper.split(tensor.detach())
        converted = {id(part): _convert(part, dtype) for part in parts}
        shards = type(parts)([converted[id(part)] for part in parts])
    host = Tensor(TensorSpec(tuple(shards[0].shape), dtype, layout, memory_config), Storage(shards))
    if device is None:
        return host
    tensor = to_device(host, device, memory_config)
    # Nobody else has seen the host tensor.
    tensor.storage.aliased = False
    return tensor


def _convert(tensor, dtype):
    """A copy of a torch tensor in `dtype`'s storage, rounded to it. Integers are cut to the dtype's bits."""
    tensor = tensor.detach()
    target = storage_dtype(dtype)
    if tensor.is_meta:
        return torch.empty(tensor.shape, dtype=target, device="meta")
    if dtype in BLOCK_FLOAT:
        rounded = rounding(dtype)(tensor if tensor.dtype in (torch.bfloat16, torch.float32) else tensor.float())
        return rounded.clone() if rounded is tensor else rounded
    if dtype is DataType.UINT16:
        values = tensor.to(torch.int64)
        return (values.clamp(0, 0xFFFF) if tensor.is_floating_point() else values & 0xFFFF).to(target)
    if dtype in (DataType.UINT32, DataType.INT32, DataType.UINT8) and not tensor.dtype == target:
        return tensor.to(torch.int64).to(target).contiguous()
    return tensor.to(target, copy=True, memory_format=torch.contiguous_format)


@op("ttnn.to_torch")
def to_torch(
    tensor: Tensor,
    dtype: torch.dtype = None,
    *,
    torch_rank: int = None,
    mesh_composer: CppMeshToTensor = None,
    device=None,
    cq_id: int = None,
) -> torch.Tensor:
    """A torch tensor with a copy of the values; block floats come as float32.

    A tensor on more than one device needs a `mesh_composer` (or `get_device_tensors`): RuntimeError without.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"to_torch: expected a ttnn.Tensor, got {type(tensor).__name__}")
    check_readable("to_torch", tensor)
    shards = tensor.shards
    if mesh_composer is not None:
        if not isinstance(mesh_composer, CppMeshToTensor):
            raise TypeError(f"to_torch: mesh_composer must be made by a composer function, got {mesh_composer!r}")
        value = mesh_composer.join(shards)
    elif len(shards) == 1:
        value = shards[0]
    else:
        raise RuntimeError(f"to_torch: {tensor._describe()} lies on {len(shards)} devices; give a mesh_composer")
    wanted = ttnn_dtype_to_torch_dtype(tensor.dtype) if dtype is None else dtype
    if tensor.dtype is DataType.UINT32 and not value.is_meta:
        value = value.contiguous().view(torch.uint32)
    value = value.to(wanted, copy=True, memory_format=torch.contiguous_format)
    if torch_rank is None:
        return value
    while value.dim() > torch_rank:
        if value.shape[0] != 1:
            raise RuntimeError(f"to_torch: shape {list(value.shape)} cannot be squeezed to rank {torch_rank}")
        value = value.squeeze(0)
    return value


@op("ttnn.as_tensor")
def as_tensor(
    tensor: torch.Tensor,
    dtype: DataType = None,
    *,
    layout: Layout = Layout.ROW_MAJOR,
    device=None,
    memory_config: MemoryConfig = None,
    preprocess=None,
    mesh_mapper=None,
) -> Tensor:
    """`from_torch` of `preprocess(tensor)`. `memory_config` is required with a device."""
    if device is not None and memory_config is None:
        raise RuntimeError("as_tensor: memory_config must be given with a device")
    tensor = tensor if preprocess is None else preprocess(tensor)
    return from_torch(
        tensor, dtype, layout=layout, device=device, memory_config=memory_config, mesh_mapper=mesh_mapper
    )


@op("ttnn.allocate_tensor_on_device")
def allocate_tensoron_device(*args, **kwargs) -> Tensor:
    """A zeroed tensor from (spec, mesh_device) or (shape, dtype, layout, mesh_device, memory_config=None)."""
    if args and isinstance(args[0], TensorSpec) or "tensor_spec" in kwargs:
        return _allocate_spec(*args, **kwargs)
    return _allocate_shape(*args, **kwargs)


def _allocate_spec(tensor_spec, mesh_device):
    return _filled(tensor_spec, mesh_device, 0)


def _allocate_shape(shape, dtype, layout, mesh_device, memory_config=None):
    return _filled(TensorSpec(shape, dtype, layout, memory_config), mesh_device, 0)


def _filled(spec, device, value) -> Tensor:
    """A tensor full of `value`, on the host if `device` is None. The same object serves all devices."""
    storage = Storage(())
    # The buffer first: what does not fit on the card must not be made here either.
    tensor = Tensor(spec, storage) if device is None else on_device(spec, device, storage)
    where = "meta" if device is not None and device.shape_only else "cpu"
    shape, storage_type = tuple(spec.shape), storage_dtype(spec.dtype)
    if value == 0 and where == "cpu":
        shard = lazy_zeros(shape, storage_type)
        storage.zeroed = True
    else:
        shard = rounding(spec.dtype)(torch.full(shape, value, dtype=storage_type, device=where))
    storage.shards = Replicated((shard,) * (1 if device is None else device.num_devices))
    return tensor


def _creation_spec(shape, dtype, layout, memory_config):
    dtype = DataType.BFLOAT16 if dtype is None else dtype
    layout = (Layout.TILE if dtype in BLOCK_FLOAT else Layout.ROW_MAJOR) if layout is None else layout
    return TensorSpec(shape, dtype, layout, memory_config)


@op("ttnn.full")
def full(
    shape,
    fill_value,
    dtype: DataType = None,
    layout: Layout = None,
    device=None,
    memory_config: MemoryConfig = None,
) -> Tensor:
    """A tensor full of `fill_value`; BFLOAT16 and ROW_MAJOR unless said otherwise."""
    if device is not None:
        check_writable("full", device)
    return _filled(_creation_spec(shape, dtype, layout, memory_config), device, fill_value)


@op("ttnn.zeros")
def zeros(shape, dtype: DataType = None, layout: Layout = None, device=None, memory_config=None) -> Tensor:
    """A tensor full of zeros; BFLOAT16 and ROW_MAJOR unless said otherwise."""
    return full(shape, 0, dtype, layout, device, memory_config)


@op("ttnn.ones")
def ones(shape, dtype: DataType = None, layout: Layout = None, device=None, memory_config=None) -> Tensor:
    """A tensor full of ones; BFLOAT16 and ROW_MAJOR unless said otherwise."""
    return full(shape, 1, dtype, layout, device, memory_config)


@op("ttnn.empty")
def empty(
    shape,
    dtype: DataType = DataType.BFLOAT16,
    layout: Layout = Layout.ROW_MAJOR,
    device=None,
    memory_config: MemoryConfig = DRAM_MEMORY_CONFIG,
) -> Tensor:
    """A device tensor without defined values (here zeros)."""
    if device is None:
        raise TypeError("empty: a device is required")
    return _filled(TensorSpec(shape, dtype, layout, memory_config), device, 0)


@op("ttnn.full_like")
def full_like(
    tensor: Tensor,
    fill_value,
    dtype: DataType = None,
    layout: Layout = None,
    device=None,
    memory_config: MemoryConfig = None,
) -> Tensor:
    """`full` with shape, dtype, layout, device and memory config of `tensor` where not given."""
    return full(
        tensor.shape,
        fill_value,
        tensor.dtype if dtype is None else dtype,
        tensor.layout if layout is None else layout,
        tensor._device if device is None else device,
        tensor.memory_config() if memory_config is None else memory_config,
    )


@op("ttnn.zeros_like")
def zeros_like(tensor: Tensor, dtype=None, layout=None, device=None, memory_config=None) -> Tensor:
    """`zeros` with what is not given taken from `tensor`."""
    return full_like(tensor, 0, dtype, layout, device, memory_config)


@op("ttnn.ones_like")
def ones_like(tensor: Tensor, dtype=None, layout=None, device=None, memory_config=None) -> Tensor:
    """`ones` with what is not given taken from `tensor`."""
    return full_like(tensor, 1, dtype, layout, device, memory_config)


@op("ttnn.empty_like")
def empty_like(tensor: Tensor, *, dtype=None, layout=None, device=None, memory_config=None) -> Tensor:
    """`empty` with what is not given taken from `tensor`."""
    return full_like(tensor, 0, dtype, layout, device, memory_config)


@op("ttnn.arange")
def arange(
    start: int,
    end: int = None,
    step: int = 1,
    *,
    dtype: DataType = DataType.BFLOAT16,
    device=None,
    memory_config: MemoryConfig = DRAM_MEMORY_CONFIG,
    layout: Layout = Layout.ROW_MAJOR,
) -> Tensor:
    """The numbers from `start` (0 if only one is given) up to, not including, `end`: shape [n]."""
    start, end = (0, start) if end is None else (start, end)
    return from_torch(
        torch.arange(start, end, step), dtype, layout=layout, device=device, memory_config=memory_config
    )


@op("ttnn.to_dtype")
def to_dtype(tensor: Tensor, dtype: DataType) -> Tensor:
    """A host tensor rounded to another dtype."""
    if tensor._device is not None:
        raise RuntimeError("to_dtype: takes a host tensor; use typecast on a device")
    converted = {id(shard): _convert(shard, dtype) for shard in tensor.shards}
    layout = Layout.TILE if dtype in BLOCK_FLOAT else tensor.layout
    spec = TensorSpec(tensor.shape, dtype, layout, tensor._memory_config)
    return Tensor(spec, Storage(type(tensor.shards)([converted[id(shard)] for shard in tensor.shards])))
