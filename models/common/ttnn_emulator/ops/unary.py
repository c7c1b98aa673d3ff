"""Elementwise ops of one tensor, and the same functions as activations of other ops."""

from ..dtypes import FLOATS, DataType, Layout
from ..memory import MemoryConfig
from ..op import op, run
from ..program_config import UnaryOpType, UnaryWithParam
from ..tensor import Tensor, TensorSpec
from .activation import activation_function, parse_activation
from .common import check_tensor, config_for, run_to


_ON_INTEGERS = (UnaryOpType.ABS, UnaryOpType.NEG, UnaryOpType.RELU, UnaryOpType.SQUARE, UnaryOpType.IDENTITY)


def chained(name: str, activations):
    """One torch function for a list of UnaryOpType or UnaryWithParam; None for an empty list."""
    functions = []
    for activation in activations:
        if not isinstance(activation, (UnaryOpType, UnaryWithParam)):
            raise TypeError(f"{name}: an activation must be a UnaryOpType or UnaryWithParam, got {activation!r}")
        functions.append(activation_function(parse_activation(name, activation)))
    if not functions:
        return None
    if len(functions) == 1:
        return functions[0]

    def chain(value):
        for function in functions:
            value = function(value)
        return value

    return chain


def _run_unary(name, kind, input_tensor, memory_config, output_tensor):
    check_tensor(name, input_tensor)
    if input_tensor.dtype not in FLOATS and (
        kind not in _ON_INTEGERS or input_tensor.dtype not in (DataType.INT32, DataType.UINT32)
    ):
        raise RuntimeError(f"{name}: {input_tensor.dtype} is not supported")
    if output_tensor is not None and memory_config is None:
        memory_config = output_tensor.memory_config()
    config = config_for(name, input_tensor, input_tensor.shape, memory_config)
    spec = TensorSpec(input_tensor.shape, input_tensor.dtype, input_tensor.layout, config)
    # torch's own bfloat16 kernels of these functions compute in float32 and round once.
    kernel = activation_function(UnaryWithParam(kind))
    return run_to(name, kernel, [input_tensor], spec, output_tensor, {"memory_config": config})


def _register(name, kind):
    def unary(input_tensor: Tensor, *, memory_config: MemoryConfig = None, output_tensor: Tensor = None,
              sub_core_grids=None) -> Tensor:
        return _run_unary(f"ttnn.{name}", kind, input_tensor, memory_config, output_tensor)

    unary.__name__ = unary.__qualname__ = name
    unary.__doc__ = f"{kind.name} of every element, in the input's dtype."
    return op(f"ttnn.{name}")(unary)


def _register_with_mode(name, kind):
    def unary(input_tensor: Tensor, *, fast_and_approximate_mode: bool = False, memory_config: MemoryConfig = None,
              output_tensor: Tensor = None, sub_core_grids=None) -> Tensor:
        return _run_unary(f"ttnn.{name}", kind, input_tensor, memory_config, output_tensor)

    unary.__name__ = unary.__qualname__ = name
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
    "sigmoid": UnaryOpType.SIGMOID,
}.items():
    globals()[_name] = _register(_name, _kind)

for _name, _kind in {
    "gelu": UnaryOpType.GELU,
    "exp": UnaryOpType.EXP,
    "sqrt": UnaryOpType.SQRT,
    "rsqrt": UnaryOpType.RSQRT,
    "tanh": UnaryOpType.TANH,
}.items():
    globals()[_name] = _register_with_mode(_name, _kind)


@op("ttnn.plus_one")
def plus_one(input_tensor: Tensor, sub_core_grids=None, skip_negative_entries: bool = False) -> Tensor:
    """Adds 1 to every element, in place; with `skip_negative_entries` only where it is not negative.

    INT32 or UINT32 in ROW_MAJOR layout.
    """
    check_tensor("plus_one", input_tensor)
    if input_tensor.dtype not in (DataType.INT32, DataType.UINT32):
        raise RuntimeError(f"plus_one: the input must be INT32 or UINT32, got {input_tensor.dtype}")
    if input_tensor.layout is not Layout.ROW_MAJOR:
        raise RuntimeError(f"plus_one: the input must be in ROW_MAJOR layout, got {input_tensor.layout}")
    skips = skip_negative_entries and input_tensor.dtype is DataType.INT32

    def kernel(value):
        value.add_(value >= 0) if skips else value.add_(1)

    attributes = {"skip_negative_entries": skip_negative_entries}
    return run("ttnn.plus_one", kernel, [input_tensor], [], attributes, in_place=input_tensor)
