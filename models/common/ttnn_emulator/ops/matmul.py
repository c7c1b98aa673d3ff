"""Matrix products."""

import torch

from ..cores import CoreGrid
from ..declaration import NotEmulated
from ..dtypes import MAGNITUDE_BITS, DataType
from ..memory import MemoryConfig
from ..op import op
from ..packed import PackedMatrix
from ..program import rounding
from ..program_config import (
    DeviceComputeKernelConfig,
    MatmulMultiCoreReuseMultiCast1DProgramConfig,
    MatmulMultiCoreReuseMultiCastDRAMShardedProgramConfig,
    MatmulMultiCoreReuseMultiCastProgramConfig,
    MatmulMultiCoreReuseProgramConfig,
)
from ..tensor import Tensor, TensorSpec
from .activation import Activation, activation_function, parse_activation
from .checks import check_dtype, check_grid, check_tiled
from .common import into
from .matmul_config import check_matmul_config, matmul_memory_config
from .memory_order import store_transposed

_ProgramConfig = (
    MatmulMultiCoreReuseMultiCastDRAMShardedProgramConfig
    | MatmulMultiCoreReuseMultiCastProgramConfig
    | MatmulMultiCoreReuseMultiCast1DProgramConfig
    | MatmulMultiCoreReuseProgramConfig
)


@op("ttnn.linear")
def linear(
    input_tensor_a: Tensor,
    input_tensor_b: Tensor,
    *,
    bias: Tensor = None,
    transpose_a: bool = False,
    transpose_b: bool = False,
    memory_config: MemoryConfig = None,
    dtype: DataType = None,
    program_config: _ProgramConfig = None,
    activation: str | Activation = None,
    compute_kernel_config: DeviceComputeKernelConfig = None,
    core_grid: CoreGrid = None,
    output_tile: NotEmulated = None,
    optional_output_tensor: Tensor = None,
    global_cb: NotEmulated = None,
    sub_device_id: NotEmulated = None,
    prefetcher_pipes: NotEmulated = (),
    in0_column_offset: NotEmulated = None,
) -> Tensor:
    """activation(a @ b + bias) of `[..., M, K]` and `[..., K, N]`; accumulated in fp32, rounded to bf16, then `dtype`.

    Leading dimensions work as in `torch.matmul`. `dtype` defaults to a's. Raises RuntimeError for shapes, layouts,
    dtypes and shardings that do not fit `program_config`.
    """
    return _matmul(
        input_tensor_a, input_tensor_b, bias, transpose_a, transpose_b, memory_config, dtype, program_config,
        activation, compute_kernel_config, core_grid, optional_output_tensor,
    )  # fmt: skip


@op("ttnn.matmul")
def matmul(
    input_tensor_a: Tensor,
    input_tensor_b: Tensor,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    memory_config: MemoryConfig = None,
    dtype: DataType = None,
    program_config: _ProgramConfig = None,
    activation: str | Activation = None,
    compute_kernel_config: DeviceComputeKernelConfig = None,
    core_grid: CoreGrid = None,
    output_tile: NotEmulated = None,
    optional_output_tensor: Tensor = None,
    global_cb: NotEmulated = None,
    sub_device_id: NotEmulated = None,
    prefetcher_pipes: NotEmulated = (),
) -> Tensor:
    """activation(a @ b): `linear` without a bias."""
    return _matmul(
        input_tensor_a, input_tensor_b, None, transpose_a, transpose_b, memory_config, dtype, program_config,
        activation, compute_kernel_config, core_grid, optional_output_tensor,
    )  # fmt: skip


def _matmul(
    a, b, bias, transpose_a, transpose_b, memory_config, dtype, program_config,
    activation, compute_kernel_config, core_grid, output,
):  # fmt: skip
    for argument, tensor in (("input_tensor_a", a), ("input_tensor_b", b), ("bias", bias)):
        if tensor is not None:
            check_tiled(argument, tensor)
            check_dtype(argument, tensor.dtype)
    if core_grid is not None:
        check_grid("core_grid", core_grid)
        if program_config is not None:
            raise RuntimeError("core_grid and program_config cannot both be given")
    shape = _product_shape(a.shape, b.shape, transpose_a, transpose_b)
    _check_bias(bias, shape)
    if activation is not None:
        activation = parse_activation(activation)
    if activation is not None and (a.memory_config().is_sharded() or (memory_config and memory_config.is_sharded())):
        raise RuntimeError("with sharded tensors an activation goes into program_config's fused_activation")
    config = memory_config if output is None or memory_config is not None else output.memory_config()
    own_dtype = a.dtype if dtype is None else dtype
    check_dtype("dtype", own_dtype)
    check_matmul_config(a, b, shape, own_dtype, config, program_config, compute_kernel_config)
    fused = getattr(program_config, "fused_activation", None)
    if activation is not None and fused is not None:
        raise RuntimeError(f"activation {activation} and program_config's fused_activation {fused} cannot both be given")
    activation = fused if activation is None else activation

    spec = TensorSpec(shape, own_dtype, a.layout, matmul_memory_config(shape, config, program_config))
    kept_as = own_dtype if output is None else output.dtype
    kernel = _kernel(spec, kept_as, a.shape, b.shape, transpose_a, transpose_b, activation)
    if _is_matrix(b.shape) and not transpose_b:
        store_transposed(b)
    return into(output, kernel, [a, b, bias], spec, dtype, memory_config, rounds=True)


def _product_shape(a, b, transpose_a, transpose_b):
    a, b = tuple(a), tuple(b)
    if transpose_a and len(a) > 1:
        a = a[:-2] + (a[-1], a[-2])
    if transpose_b and len(b) > 1:
        b = b[:-2] + (b[-1], b[-2])
    if not a or not b:
        raise RuntimeError(f"tensors need at least one dimension, got {list(a)} and {list(b)}")
    inner = b[-2] if len(b) > 1 else b[0]
    if a[-1] != inner:
        raise RuntimeError(f"the width of {list(a)} must equal the height of {list(b)}: {a[-1]} is not {inner}")
    batch_a, batch_b = a[:-2], b[:-2]
    if set(batch_a) - {1} and set(batch_b) - {1} and batch_a != batch_b:
        raise RuntimeError(f"leading dimensions must be equal or all 1, got {list(a)} and {list(b)}")
    batch = batch_a if set(batch_a) - {1} or len(batch_a) >= len(batch_b) and not set(batch_b) - {1} else batch_b
    return batch + (() if len(a) == 1 else (a[-2],)) + (() if len(b) == 1 else (b[-1],))


def _is_matrix(shape):
    return len(shape) >= 2 and not set(tuple(shape)[:-2]) - {1}


def _check_bias(bias, shape):
    if bias is None:
        return
    sizes = tuple(bias.shape)
    rows = 1 if len(sizes) == 1 else sizes[-2]
    if sizes[-1] != shape[-1] or set(sizes[:-2]) - {1} or rows not in (1, shape[-2]):
        raise RuntimeError(f"bias must be [1, {shape[-1]}] or [{shape[-2]}, {shape[-1]}], got {list(sizes)}")


def _kernel(spec, kept_as, a_shape, b_shape, transpose_a, transpose_b, activation):
    """The kernel of the product: a plain matrix product if the second operand has no batch, else a batched one.

    It rounds the product to the dtype `kept_as`.
    """
    shape = tuple(spec.shape)
    full_precision = spec.dtype is DataType.FLOAT32
    flat = _is_matrix(b_shape) and len(a_shape) >= 2 and not transpose_a
    width = shape[-1] if shape else 1
    function = None if activation is None else activation_function(activation)
    round_to, magnitude_bits = rounding(kept_as), MAGNITUDE_BITS.get(kept_as, 0)
    from_packed = flat and not transpose_b and not full_precision

    def kernel(a, b, bias):
        if from_packed and type(b) is PackedMatrix and a.dtype is b.dtype:
            if bias is function is None and magnitude_bits:
                return shaped(b.multiply(a, magnitude_bits))
            product = shaped(b.multiply(a))
        else:
            product = unpacked(a, b)
        if bias is not None:
            product = product.float() + bias.reshape(-1, width).float()
        if function is not None:
            product = function(product)
        return round_to(product if full_precision else product.bfloat16())

    def shaped(product):
        return product if product.shape == shape else product.view(shape)

    def unpacked(a, b):
        if transpose_b and b.dim() > 1:
            b = b.mT
        if transpose_a and a.dim() > 1:
            a = a.mT
        if full_precision or a.dtype is not b.dtype:
            a, b = a.float(), b.float()
        if flat:
            return _rows_by_matrix(a.reshape(-1, a.shape[-1]), b.reshape(b.shape[-2:]).t()).view(shape)
        return torch.matmul(a, b).reshape(shape)

    return kernel


def _rows_by_matrix(rows, weight):
    """`rows @ weight.t()` for `[M, K]` and `[N, K]`. A row's result does not depend on the number of rows."""
    if rows.shape[0] == 1 and not _may_be_alone(weight):
        return torch.nn.functional.linear(torch.cat((rows, rows)), weight)[:1]
    return torch.nn.functional.linear(rows, weight)


_alone = {}


def _may_be_alone(weight) -> bool:
    """Whether a single row times this weight gives the same bits as the row among other rows.

    The CPU's matmul may take another path for one row and add in another order. torch does so in bf16 for rows of more
    than 1024 elements. For shorter rows this is tested once per shape and number of threads.
    """
    n, k = weight.shape
    if k > 1024 or weight.dtype is not torch.bfloat16 or weight.is_meta:
        return False
    case = (n, k, torch.get_num_threads())
    if case not in _alone:
        rows = torch.randn(32, k, generator=torch.Generator().manual_seed(0)).bfloat16()
        together = torch.nn.functional.linear(rows, weight)
        apart = [torch.nn.functional.linear(row, weight) for row in rows.split(1)]
        _alone[case] = torch.equal(together, torch.cat(apart))
    return _alone[case]
