"""Elementwise ops of two tensors, or of a tensor and a number.

Sizes of 1 (and missing leading sizes) are broadcast. The output takes its dtype from the first tensor unless
`dtype` or `output_tensor` says otherwise, and its memory config from the first sharded one.
"""

import operator

import torch

from ..dtypes import FLOATS, BufferType, DataType, Layout
from ..memory import MemoryConfig
from ..op import op
from ..tensor import Tensor, TensorSpec
from .common import check_tensor, run_to
from .unary import chained


def _broadcast(name, a, b):
    rank = max(len(a), len(b))
    a, b = (1,) * (rank - len(a)) + tuple(a), (1,) * (rank - len(b)) + tuple(b)
    for left, right in zip(a, b):
        if left != right and 1 not in (left, right):
            raise RuntimeError(f"{name}: shapes {list(a)} and {list(b)} cannot be broadcast")
    return tuple(right if left == 1 else left for left, right in zip(a, b))


def _output_config(a, b, memory_config):
    if memory_config is not None:
        return memory_config
    first, second = a.memory_config(), b.memory_config()
    if not first.is_sharded() and second.is_sharded() and first.buffer_type is BufferType.DRAM:
        return second
    return first


def _checked_number(name, tensor, number):
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise TypeError(f"{name}: expected a ttnn.Tensor or a number, got {type(number).__name__}")
    if tensor.dtype in FLOATS:
        return float(number)
    if number != int(number):
        raise RuntimeError(f"{name}: a {tensor.dtype} tensor takes whole numbers only, got {number}")
    return int(number)


def _check_dtypes(name, a, b):
    if a.dtype is not b.dtype and not (a.dtype in FLOATS and b.dtype in FLOATS):
        raise RuntimeError(f"{name}: {a.dtype} and {b.dtype} cannot be mixed")


def _kernel(function, before_a, before_b, after):
    """`function` with activations on its operands and its result."""
    if before_a is before_b is after is None:
        return function

    def kernel(a, b):
        result = function(a if before_a is None else before_a(a), b if before_b is None else before_b(b))
        return result if after is None else after(result)

    return kernel


def _run_binary(name, function, a, b, dtype, memory_config, output_tensor, activations, on_a, on_b):
    kernel = _kernel(function, *(chained(name, some) for some in (on_a, on_b, activations)))
    attributes = {"activations": activations, "input_tensor_a_activations": on_a, "input_tensor_b_activations": on_b}
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        _check_dtypes(name, a, b)
        inputs, source = [a, b], a
        shape = a.shape if a.shape == b.shape else _broadcast(name, a.shape, b.shape)
        layout = a.layout if a.layout is b.layout else Layout.TILE
        config = _output_config(a, b, memory_config)
    else:
        source, number = (a, b) if isinstance(a, Tensor) else (b, a)
        check_tensor(name, source)
        number = _checked_number(name, source, number)
        if on_b if source is a else on_a:
            raise RuntimeError(f"{name}: activations on a number are not supported")
        inputs, shape, layout = [source], source.shape, source.layout
        config = source.memory_config() if memory_config is None else memory_config
        attributes["number"] = number
        both = kernel
        kernel = (lambda value: both(value, number)) if source is a else (lambda value: both(number, value))
    if output_tensor is not None:
        config = output_tensor.memory_config()
    if dtype is None:
        dtype = DataType.FLOAT32 if function is _divide and source.dtype not in FLOATS else source.dtype
    attributes.update(dtype=dtype, memory_config=config)
    return run_to(name, kernel, inputs, TensorSpec(shape, dtype, layout, config), output_tensor, attributes)


def _divide(a, b):
    # torch computes a number over a bfloat16 tensor as number * (1 / tensor), rounded twice.
    return a / b if isinstance(a, torch.Tensor) else a / b.float()


def _as_number(compare):
    return lambda a, b: compare(a, b).to(torch.bfloat16)


def _register(names, function, doc):
    def binary(
        input_tensor_a,
        input_tensor_b,
        *,
        fast_and_approximate_mode: bool = False,
        dtype: DataType = None,
        memory_config: MemoryConfig = None,
        output_tensor: Tensor = None,
        activations=(),
        input_tensor_a_activations=(),
        input_tensor_b_activations=(),
        sub_core_grids=None,
    ) -> Tensor:
        return _run_binary(
            f"ttnn.{names[0]}",
            function,
            input_tensor_a,
            input_tensor_b,
            dtype,
            memory_config,
            output_tensor,
            activations,
            input_tensor_a_activations,
            input_tensor_b_activations,
        )

    binary.__name__ = binary.__qualname__ = names[0]
    binary.__doc__ = doc
    for name in names:
        op(f"ttnn.{name}")(binary)
    return binary


def _register_comparison(name, function):
    def comparison(
        input_tensor_a,
        input_tensor_b,
        *,
        dtype: DataType = None,
        memory_config: MemoryConfig = None,
        output_tensor: Tensor = None,
        activations=(),
        input_tensor_a_activations=(),
        input_tensor_b_activations=(),
        sub_core_grids=None,
    ) -> Tensor:
        return _run_binary(
            f"ttnn.{name}",
            _as_number(function),
            input_tensor_a,
            input_tensor_b,
            dtype,
            memory_config,
            output_tensor,
            activations,
            input_tensor_a_activations,
            input_tensor_b_activations,
        )

    comparison.__name__ = comparison.__qualname__ = name
    comparison.__doc__ = f"1 where a is {name} b, else 0, in a's dtype."
    return op(f"ttnn.{name}")(comparison)


add = _register(("add",), operator.add, "a + b, with optional activations on a, b and the result.")
subtract = _register(("subtract", "sub"), operator.sub, "a - b, with optional activations on a, b and the result.")
multiply = _register(("multiply", "mul"), operator.mul, "a * b, with optional activations on a, b and the result.")
divide = _register(("divide", "div"), _divide, "a / b, with optional activations on a, b and the result.")
rsub = _register(("rsub",), lambda a, b: b - a, "b - a, with optional activations on a, b and the result.")

for _name in ("eq", "ne", "gt", "ge", "lt", "le"):
    globals()[_name] = _register_comparison(_name, getattr(operator, _name))


def _in_place(name, function, a, b, activations, on_a, on_b):
    check_tensor(name, a)
    return _run_binary(name, function, a, b, None, None, a, activations, on_a, on_b)


@op("ttnn.add_")
def add_(input_tensor_a: Tensor, input_tensor_b, *, activations=(), input_tensor_a_activations=(),
         input_tensor_b_activations=(), fast_and_approximate_mode: bool = True, sub_core_grids=None) -> Tensor:
    """`add` written into `input_tensor_a`."""
    lists = (activations, input_tensor_a_activations, input_tensor_b_activations)
    return _in_place("ttnn.add_", operator.add, input_tensor_a, input_tensor_b, *lists)


@op("ttnn.subtract_")
def subtract_(input_tensor_a: Tensor, input_tensor_b, *, activations=(), input_tensor_a_activations=(),
              input_tensor_b_activations=(), fast_and_approximate_mode: bool = True, sub_core_grids=None) -> Tensor:
    """`subtract` written into `input_tensor_a`."""
    lists = (activations, input_tensor_a_activations, input_tensor_b_activations)
    return _in_place("ttnn.subtract_", operator.sub, input_tensor_a, input_tensor_b, *lists)


@op("ttnn.multiply_")
def multiply_(input_a: Tensor, input_b, *, activations=(), input_tensor_a_activations=(),
              input_tensor_b_activations=(), fast_and_approximate_mode: bool = False, sub_core_grids=None) -> Tensor:
    """`multiply` written into `input_a`."""
    lists = (activations, input_tensor_a_activations, input_tensor_b_activations)
    return _in_place("ttnn.multiply_", operator.mul, input_a, input_b, *lists)
