"""Elementwise ops of one tensor."""

from ..cores import CoreRangeSet
from ..declaration import NoEffect, NotEmulated
from ..dtypes import FLOATS, DataType, Layout
from ..memory import MemoryConfig
from ..op import op
from ..program import Program
from ..program_config import UnaryOpType, UnaryWithParam
from ..tensor import Tensor, TensorSpec
from .activation import activation_function
from .checks import check_sub_core_grids, worker_cores
from .common import config_for, into

_ON_INTEGERS = (UnaryOpType.ABS, UnaryOpType.NEG, UnaryOpType.RELU, UnaryOpType.SQUARE, UnaryOpType.IDENTITY)


def _unary(kind, input_tensor, memory_config, output_tensor, sub_core_grids):
    if input_tensor.dtype not in FLOATS and (
        kind not in _ON_INTEGERS or input_tensor.dtype not in (DataType.INT32, DataType.UINT32)
    ):
        raise RuntimeError(f"{input_tensor.dtype} is not supported")
    check_sub_core_grids(sub_core_grids, input_tensor)
    config = config_for(input_tensor, input_tensor.shape, memory_config)
    spec = TensorSpec(input_tensor.shape, input_tensor.dtype, input_tensor.layout, config)
    # torch's bfloat16 kernels of these functions compute in float32 and round once.
    kernel = activation_function(UnaryWithParam(kind))
    return into(output_tensor, kernel, [input_tensor], spec, memory_config=memory_config)


def _declare(name, kind):
    def unary(
        input_tensor: Tensor,
        *,
        memory_config: MemoryConfig = None,
        output_tensor: Tensor = None,
        sub_core_grids: worker_cores = None,
    ) -> Tensor:
        return _unary(kind, input_tensor, memory_config, output_tensor, sub_core_grids)

    unary.__doc__ = f"{kind.name} of every element, in the input's dtype."
    return op(f"ttnn.{name}")(unary)


def _declare_with_mode(name, kind):
    def unary(
        input_tensor: Tensor,
        *,
        fast_and_approximate_mode: NoEffect[bool] = False,
        memory_config: MemoryConfig = None,
        output_tensor: Tensor = None,
        sub_core_grids: worker_cores = None,
    ) -> Tensor:
        return _unary(kind, input_tensor, memory_config, output_tensor, sub_core_grids)

    unary.__doc__ = f"{kind.name} of every element, in the input's dtype. The approximate mode is exact here."
    return op(f"ttnn.{name}")(unary)


for _name, _kind in {
    "silu": UnaryOpType.SILU,
    "swish": UnaryOpType.SILU,
    "relu": UnaryOpType.RELU,
    "neg": UnaryOpType.NEG,
    "abs": UnaryOpType.ABS,
    "square": UnaryOpType.SQUARE,
    "reciprocal": UnaryOpType.RECIP,
}.items():
    _declare(_name, _kind)

for _name in ("exp", "sqrt", "rsqrt", "tanh"):
    _declare_with_mode(_name, UnaryOpType[_name.upper()])

gelu = _declare_with_mode("gelu", UnaryOpType.GELU)


@gelu.overload
def _gelu_variant(
    input_tensor: Tensor,
    *,
    variant: NotEmulated = ...,
    memory_config: MemoryConfig = None,
    output_tensor: Tensor = None,
    sub_core_grids: worker_cores = None,
) -> Tensor:
    return _unary(UnaryOpType.GELU, input_tensor, memory_config, output_tensor, sub_core_grids)


@op("ttnn.sigmoid")
def sigmoid(
    input_tensor: Tensor,
    *,
    vector_mode: NotEmulated = 4,
    mode: NotEmulated = ...,
    memory_config: MemoryConfig = None,
    output_tensor: Tensor = None,
    sub_core_grids: worker_cores = None,
) -> Tensor:
    """The sigmoid of every element, in the input's dtype."""
    return _unary(UnaryOpType.SIGMOID, input_tensor, memory_config, output_tensor, sub_core_grids)


@op("ttnn.plus_one")
def plus_one(
    input_tensor: Tensor,
    sub_core_grids: NoEffect[CoreRangeSet] = None,
    skip_negative_entries: bool = False,
) -> Tensor:
    """Adds 1 to every element, in place. With `skip_negative_entries`, negative elements stay.

    The tensor must be INT32 or UINT32 in ROW_MAJOR layout.
    """
    if input_tensor.dtype not in (DataType.INT32, DataType.UINT32):
        raise RuntimeError(f"the input must be INT32 or UINT32, got {input_tensor.dtype}")
    if input_tensor.layout is not Layout.ROW_MAJOR:
        raise RuntimeError(f"the input must be in ROW_MAJOR layout, got {input_tensor.layout}")
    skips = skip_negative_entries and input_tensor.dtype is DataType.INT32

    def kernel(value):
        value.add_(value >= 0) if skips else value.add_(1)

    return Program(kernel, [input_tensor], in_place=input_tensor)
