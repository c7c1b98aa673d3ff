"""Reductions, softmax, argmax and topk. Sums and exponentials are computed in float32 and rounded once."""

import torch

from ..dtypes import BLOCK_FLOAT, FLOATS, DataType, Layout
from ..memory import MemoryConfig
from ..op import op, run
from ..tensor import Tensor, TensorSpec
from .common import check_tensor, config_for, normalise_dim, run_to


@op("ttnn.argmax")
def argmax(
    input_tensor: Tensor,
    dim: int = None,
    keepdim: bool = False,
    *,
    sub_core_grids=None,
    memory_config: MemoryConfig = None,
    output_tensor: Tensor = None,
    enable_secondary_dm: bool = None,
) -> Tensor:
    """Index of the (first) largest element along `dim`, or of the whole tensor: UINT32, ROW_MAJOR.

    TILE inputs must be BFLOAT16 or FLOAT32.
    """
    check_tensor("argmax", input_tensor)
    if input_tensor.dtype in BLOCK_FLOAT:
        raise RuntimeError(f"argmax: {input_tensor.dtype} is not supported; typecast to BFLOAT16 first")
    shape = list(input_tensor.shape)
    if dim is None:
        shape = [1] * len(shape) if keepdim else []
    else:
        dim = normalise_dim("argmax", dim, len(shape))
        shape[dim : dim + 1] = [1] if keepdim else []
    config = input_tensor.memory_config() if memory_config is None else memory_config
    spec = TensorSpec(shape, DataType.UINT32, Layout.ROW_MAJOR, config)

    def kernel(value):
        if value.dtype is torch.bfloat16 and dim is not None and dim % value.dim() == value.dim() - 1:
            # torch's argmax of bfloat16 takes several times longer than of float32.
            value = value.float()
        return torch.argmax(value, dim, keepdim).to(torch.int32).reshape(shape)

    attributes = {"dim": dim, "keepdim": keepdim, "memory_config": config}
    return run_to("ttnn.argmax", kernel, [input_tensor], spec, output_tensor, attributes)


@op("ttnn.topk")
def topk(
    input_tensor: Tensor,
    k: int = 32,
    dim: int = -1,
    largest: bool = True,
    sorted: bool = True,
    *,
    memory_config: MemoryConfig = None,
    sub_core_grids=None,
    indices_tensor: Tensor = None,
    output_tensor=None,
    stable: bool = False,
) -> list:
    """[values, indices] of the `k` largest (or smallest) elements along `dim`, in TILE layout.

    Indices are UINT16 where they fit and the input is not FLOAT32, else UINT32.
    """
    check_tensor("topk", input_tensor)
    if input_tensor.layout is not Layout.TILE:
        raise RuntimeError(f"topk: the input must be in TILE layout, got {input_tensor.layout}")
    if indices_tensor is not None or output_tensor is not None:
        raise RuntimeError("topk: the emulator takes no indices_tensor and no output_tensor")
    shape = list(input_tensor.shape)
    dim = normalise_dim("topk", dim, len(shape))
    if not 0 < k <= shape[dim]:
        raise RuntimeError(f"topk: k must be in [1, {shape[dim]}], got {k}")
    config = input_tensor.memory_config() if memory_config is None else memory_config
    if config.is_sharded():
        raise RuntimeError(f"topk: outputs must be interleaved, got {config}")
    narrow = shape[dim] < 1 << 16 and input_tensor.dtype is not DataType.FLOAT32
    shape[dim] = k
    specs = [
        TensorSpec(shape, input_tensor.dtype, Layout.TILE, config),
        TensorSpec(shape, DataType.UINT16 if narrow else DataType.UINT32, Layout.TILE, config),
    ]
    attributes = {"k": k, "dim": dim, "largest": largest, "sorted": sorted, "memory_config": config}
    kernel = lambda value: torch.topk(value, k, dim, largest, sorted)  # noqa: E731
    return list(run("ttnn.topk", kernel, [input_tensor], specs, attributes))


@op("ttnn.softmax")
def softmax(
    input_tensor: Tensor,
    dim: int = -1,
    *,
    memory_config: MemoryConfig = None,
    compute_kernel_config=None,
    numeric_stable: bool = True,
) -> Tensor:
    """Softmax along `dim`, in the input's dtype and TILE layout."""
    check_tensor("softmax", input_tensor)
    dim = normalise_dim("softmax", dim, len(input_tensor.shape))
    if input_tensor.dtype not in FLOATS:
        raise RuntimeError(f"softmax: {input_tensor.dtype} is not supported")
    config = config_for("softmax", input_tensor, input_tensor.shape, memory_config)
    spec = TensorSpec(input_tensor.shape, input_tensor.dtype, Layout.TILE, config)
    kernel = lambda value: torch.softmax(value, dim, dtype=torch.float32)  # noqa: E731
    return run("ttnn.softmax", kernel, [input_tensor], [spec], {"dim": dim, "memory_config": config})


def _reduced_dims(name, tensor, dim):
    rank = len(tensor.shape)
    if dim is None:
        return tuple(range(rank))
    dims = (dim,) if isinstance(dim, int) else tuple(dim)
    return tuple(normalise_dim(name, one, rank) for one in dims)


def _reduce(name, function, input_tensor, dim, keepdim, memory_config, scalar, layout=None):
    check_tensor(name, input_tensor)
    dims = _reduced_dims(name, input_tensor, dim)
    shape = [1 if at in dims else size for at, size in enumerate(input_tensor.shape)]
    if not keepdim:
        shape = [size for at, size in enumerate(input_tensor.shape) if at not in dims]
    layout = input_tensor.layout if layout is None else layout
    config = memory_config
    if config is None:
        config = input_tensor.memory_config()
        if config.is_sharded():
            raise RuntimeError(f"{name}: give a memory_config for the reduction of a sharded tensor")
    spec = TensorSpec(shape, input_tensor.dtype, layout, config)

    def kernel(value):
        result = function(value.float() if value.is_floating_point() else value, dims)
        return (result if scalar == 1.0 else result * scalar).reshape(shape)

    attributes = {"dim": dims, "keepdim": keepdim, "scalar": scalar, "memory_config": config}
    return run(name, kernel, [input_tensor], [spec], attributes)


@op("ttnn.sum")
def sum(input_tensor: Tensor, dim=None, keepdim: bool = False, *, memory_config: MemoryConfig = None,
        compute_kernel_config=None, scalar: float = 1.0) -> Tensor:
    """`scalar` times the sum along `dim` (an int, several, or all), in the input's dtype."""
    return _reduce("ttnn.sum", lambda value, dims: value.sum(dims), input_tensor, dim, keepdim, memory_config, scalar)


@op("ttnn.mean")
def mean(input_tensor: Tensor, dim=None, keepdim: bool = False, *, memory_config: MemoryConfig = None,
         compute_kernel_config=None, scalar: float = 1.0) -> Tensor:
    """`scalar` times the mean along `dim` (an int, several, or all), in the input's dtype. Floats only."""
    check_tensor("mean", input_tensor)
    if input_tensor.dtype not in FLOATS:
        raise RuntimeError(f"mean: {input_tensor.dtype} is not supported")
    return _reduce("ttnn.mean", lambda value, dims: value.mean(dims), input_tensor, dim, keepdim, memory_config, scalar)


@op("ttnn.max")
def max(input_tensor: Tensor, dim=None, keepdim: bool = False, *, memory_config: MemoryConfig = None,
        compute_kernel_config=None, scalar: float = 1.0) -> Tensor:
    """`scalar` times the largest element along `dim` (an int, several, or all), in TILE layout."""
    function = lambda value, dims: value.amax(dims)  # noqa: E731
    return _reduce("ttnn.max", function, input_tensor, dim, keepdim, memory_config, scalar, Layout.TILE)


@op("ttnn.min")
def min(input_tensor: Tensor, dim=None, keepdim: bool = False, *, memory_config: MemoryConfig = None,
        compute_kernel_config=None, scalar: float = 1.0) -> Tensor:
    """`scalar` times the smallest element along `dim` (an int, several, or all), in TILE layout."""
    function = lambda value, dims: value.amin(dims)  # noqa: E731
    return _reduce("ttnn.min", function, input_tensor, dim, keepdim, memory_config, scalar, Layout.TILE)
