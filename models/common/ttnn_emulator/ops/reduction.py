"""Reductions, softmax, argmax and topk. Sums and exponentials are computed in float32 and rounded once."""

from collections.abc import Sequence

import torch

from ..declaration import NoEffect, NotEmulated
from ..dtypes import BLOCK_FLOAT, DataType, Layout
from ..memory import MemoryConfig
from ..op import op
from ..program import Program
from ..program_config import DeviceComputeKernelConfig
from ..tensor import Tensor, TensorSpec
from .checks import check_dtype, check_tiled, worker_cores
from .common import config_for, into, normalise_dim


@op("ttnn.argmax")
def argmax(
    input_tensor: Tensor,
    dim: int = None,
    keepdim: bool = False,
    *,
    sub_core_grids: NoEffect[worker_cores] = None,
    memory_config: MemoryConfig = None,
    output_tensor: Tensor = None,
    enable_secondary_dm: bool = None,
) -> Tensor:
    """The index of the (first) largest element along `dim`, or of the whole tensor, as UINT32 in ROW_MAJOR layout.

    TILE inputs must be BFLOAT16 or FLOAT32. `enable_secondary_dm` reads a ROW_MAJOR input's rows with more bandwidth.
    """
    if input_tensor.dtype in BLOCK_FLOAT:
        raise RuntimeError(f"{input_tensor.dtype} is not supported; typecast to BFLOAT16 first")
    shape = list(input_tensor.shape)
    if dim is None:
        shape = [1] * len(shape) if keepdim else []
    else:
        dim = normalise_dim(dim, len(shape))
        shape[dim : dim + 1] = [1] if keepdim else []
    by_rows = dim is None or dim == len(input_tensor.shape) - 1
    if enable_secondary_dm and not (by_rows and input_tensor.layout is Layout.ROW_MAJOR):
        raise RuntimeError("enable_secondary_dm is for ROW_MAJOR inputs and the last dimension only")
    config = input_tensor.memory_config() if memory_config is None else memory_config
    spec = TensorSpec(shape, DataType.UINT32, Layout.ROW_MAJOR, config)

    def kernel(value):
        if value.dtype is torch.bfloat16 and dim is not None and dim % value.dim() == value.dim() - 1:
            # torch's argmax takes several times longer for bfloat16 than for float32.
            value = value.float()
        return torch.argmax(value, dim, keepdim).to(torch.int32).reshape(shape)

    return into(output_tensor, kernel, [input_tensor], spec, spec.dtype, memory_config)


@op("ttnn.topk")
def topk(
    input_tensor: Tensor,
    k: int = 32,
    dim: int = -1,
    largest: bool = True,
    sorted: bool = True,
    *,
    memory_config: MemoryConfig = None,
    sub_core_grids: NoEffect[worker_cores] = None,
    indices_tensor: NotEmulated = None,
    output_tensor: NotEmulated = None,
    stable: NotEmulated = False,
) -> list:
    """[values, indices] of the `k` largest (or smallest) elements along `dim`, in TILE layout.

    Indices are UINT16 if they fit and the input is not FLOAT32. Otherwise they are UINT32.
    """
    check_tiled("the input", input_tensor)
    shape = list(input_tensor.shape)
    dim = normalise_dim(dim, len(shape))
    if not 0 < k <= shape[dim]:
        raise RuntimeError(f"k must be in [1, {shape[dim]}], got {k}")
    config = input_tensor.memory_config() if memory_config is None else memory_config
    if config.is_sharded():
        raise RuntimeError(f"outputs must be interleaved, got {config}")
    narrow = shape[dim] < 1 << 16 and input_tensor.dtype is not DataType.FLOAT32
    shape[dim] = k
    specs = [
        TensorSpec(shape, input_tensor.dtype, Layout.TILE, config),
        TensorSpec(shape, DataType.UINT16 if narrow else DataType.UINT32, Layout.TILE, config),
    ]
    return Program(lambda value: torch.topk(value, k, dim, largest, sorted), [input_tensor], specs)


@op("ttnn.softmax")
def softmax(
    input_tensor: Tensor,
    dim: int = -1,
    *,
    memory_config: MemoryConfig = None,
    compute_kernel_config: NoEffect[DeviceComputeKernelConfig] = None,
    numeric_stable: NoEffect[bool] = True,
) -> Tensor:
    """Softmax along `dim`, in the input's dtype and TILE layout. Here it is always numerically stable."""
    dim = normalise_dim(dim, len(input_tensor.shape))
    check_dtype("the input", input_tensor.dtype)
    config = config_for(input_tensor, input_tensor.shape, memory_config)
    spec = TensorSpec(input_tensor.shape, input_tensor.dtype, Layout.TILE, config)
    return Program(lambda value: torch.softmax(value, dim, dtype=torch.float32), [input_tensor], spec)


def _reduce(function, input_tensor, dim, keepdim, memory_config, scalar, layout=None):
    rank = len(input_tensor.shape)
    dims = range(rank) if dim is None else (dim,) if isinstance(dim, int) else dim
    dims = tuple(normalise_dim(one, rank) for one in dims)
    shape = [1 if at in dims else size for at, size in enumerate(input_tensor.shape)]
    if not keepdim:
        shape = [size for at, size in enumerate(input_tensor.shape) if at not in dims]
    layout = input_tensor.layout if layout is None else layout
    config = memory_config
    if config is None:
        config = input_tensor.memory_config()
        if config.is_sharded():
            raise RuntimeError("give a memory_config for the reduction of a sharded tensor")
    spec = TensorSpec(shape, input_tensor.dtype, layout, config)

    def kernel(value):
        result = function(value.float() if value.is_floating_point() else value, dims)
        return (result if scalar == 1.0 else result * scalar).reshape(shape)

    return Program(kernel, [input_tensor], spec)


@op("ttnn.sum")
def sum(
    input_tensor: Tensor,
    dim: int | Sequence[int] = None,
    keepdim: bool = False,
    *,
    memory_config: MemoryConfig = None,
    compute_kernel_config: NoEffect[DeviceComputeKernelConfig] = None,
    scalar: float = 1.0,
    correction: NotEmulated = None,
    sub_core_grids: NoEffect[worker_cores] = None,
    fast_and_approximate_mode: NoEffect[bool] = False,
    output_layout: NotEmulated = None,
) -> Tensor:
    """`scalar` times the sum along `dim` (an int, several, or all), in the input's dtype."""
    return _reduce(lambda value, dims: value.sum(dims), input_tensor, dim, keepdim, memory_config, scalar)


@op("ttnn.mean")
def mean(
    input_tensor: Tensor,
    dim: int | Sequence[int] = None,
    keepdim: bool = False,
    *,
    memory_config: MemoryConfig = None,
    compute_kernel_config: NoEffect[DeviceComputeKernelConfig] = None,
    scalar: float = 1.0,
    correction: NotEmulated = None,
    sub_core_grids: NoEffect[worker_cores] = None,
    fast_and_approximate_mode: NoEffect[bool] = False,
    output_layout: NotEmulated = None,
) -> Tensor:
    """`scalar` times the mean along `dim` (an int, several, or all), in the input's dtype. Floats only."""
    check_dtype("the input", input_tensor.dtype)
    return _reduce(lambda value, dims: value.mean(dims), input_tensor, dim, keepdim, memory_config, scalar)


def _declare_extreme(name, function, what):
    def extreme(
        input_tensor: Tensor,
        dim: int | Sequence[int] = None,
        keepdim: bool = False,
        *,
        memory_config: MemoryConfig = None,
        compute_kernel_config: NoEffect[DeviceComputeKernelConfig] = None,
        scalar: float = 1.0,
        correction: NotEmulated = None,
        sub_core_grids: NoEffect[worker_cores] = None,
        fast_and_approximate_mode: NoEffect[bool] = False,
    ) -> Tensor:
        return _reduce(function, input_tensor, dim, keepdim, memory_config, scalar, Layout.TILE)

    extreme.__doc__ = f"`scalar` times the {what} element along `dim` (an int, several, or all), in TILE layout."
    op(f"ttnn.{name}")(extreme)


_declare_extreme("max", lambda value, dims: value.amax(dims), "largest")
_declare_extreme("min", lambda value, dims: value.amin(dims), "smallest")
