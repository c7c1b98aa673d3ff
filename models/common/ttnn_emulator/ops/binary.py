"""Elementwise ops of two tensors, or of a tensor and a number.

Sizes of 1 and missing leading sizes are broadcast. The output has the dtype of the first tensor, unless `dtype` or
`output_tensor` gives another one. Its memory config is that of the first sharded tensor.
"""

import operator
from collections.abc import Sequence

import torch

from ..declaration import NoEffect, NotEmulated
from ..dtypes import FLOATS, BufferType, DataType, Layout
from ..memory import MemoryConfig
from ..op import op
from ..tensor import Tensor, TensorSpec
from .activation import Activation, chained
from .checks import check_sub_core_grids, worker_cores
from .common import into
from .gated import gated


def _broadcast(a, b):
    rank = max(len(a), len(b))
    a, b = (1,) * (rank - len(a)) + tuple(a), (1,) * (rank - len(b)) + tuple(b)
    for left, right in zip(a, b):
        if left != right and 1 not in (left, right):
            raise RuntimeError(f"shapes {list(a)} and {list(b)} cannot be broadcast")
    return tuple(right if left == 1 else left for left, right in zip(a, b))


def _output_config(a, b, memory_config):
    if memory_config is not None:
        return memory_config
    first, second = a.memory_config(), b.memory_config()
    if not first.is_sharded() and second.is_sharded() and first.buffer_type is BufferType.DRAM:
        return second
    return first


def _number_for(tensor, number):
    if tensor.dtype in FLOATS:
        return float(number)
    if number != int(number):
        raise RuntimeError(f"a {tensor.dtype} tensor takes whole numbers only, got {number}")
    return int(number)


def _check_dtypes(a, b):
    if a.dtype is not b.dtype and not (a.dtype in FLOATS and b.dtype in FLOATS):
        raise RuntimeError(f"{a.dtype} and {b.dtype} cannot be mixed")


def _kernel(function, before_a, before_b, after):
    """A kernel: `function` with activations on its operands and its result."""
    if before_a is before_b is after is None:
        return function

    def kernel(a, b):
        result = function(a if before_a is None else before_a(a), b if before_b is None else before_b(b))
        return result if after is None else after(result)

    return kernel


def _binary(
    function, a, b, activations, on_a, on_b, sub_core_grids, dtype=None, memory_config=None, output_tensor=None
):
    kernel = _kernel(function, *map(chained, (on_a, on_b, activations)))
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        _check_dtypes(a, b)
        inputs, source = [a, b], a
        shape = a.shape if a.shape == b.shape else _broadcast(a.shape, b.shape)
        layout = a.layout if a.layout is b.layout else Layout.TILE
        config = _output_config(a, b, memory_config)
    else:
        source, number = (a, b) if isinstance(a, Tensor) else (b, a)
        if not isinstance(source, Tensor):
            raise TypeError(f"one of the operands must be a Tensor, got {a!r} and {b!r}")
        number = _number_for(source, number)
        if on_b if source is a else on_a:
            raise RuntimeError("activations on a number are not supported")
        inputs, shape, layout = [source], source.shape, source.layout
        config = source.memory_config() if memory_config is None else memory_config
        both = kernel
        kernel = (lambda value: both(value, number)) if source is a else (lambda value: both(number, value))
    check_sub_core_grids(sub_core_grids, *inputs)
    default = DataType.FLOAT32 if function is _divide and source.dtype not in FLOATS else source.dtype
    spec = TensorSpec(shape, default if dtype is None else dtype, layout, config)
    gates = function is operator.mul and chained(on_a) is torch.nn.functional.silu and not (on_b or activations) and len(inputs) == 2
    if gates:
        kernel = gated(spec.dtype if output_tensor is None else output_tensor.dtype, kernel)
    return into(output_tensor, kernel, inputs, spec, dtype, memory_config, rounds=gates)


def _divide(a, b):
    # torch divides a number by a bfloat16 tensor as number * (1 / tensor), which rounds twice.
    return a / b if isinstance(a, torch.Tensor) else a / b.float()


def _reversed_subtract(a, b):
    return b - a


def _as_number(compare):
    return lambda a, b: compare(a, b).to(torch.bfloat16)


def _declare(names, function, approximate, formula):
    def binary(
        input_tensor_a: Tensor | float,
        input_tensor_b: Tensor | float,
        *,
        fast_and_approximate_mode: NoEffect[bool] = approximate,
        dtype: DataType = None,
        memory_config: MemoryConfig = None,
        output_tensor: Tensor = None,
        activations: Sequence[Activation] = (),
        input_tensor_a_activations: Sequence[Activation] = (),
        input_tensor_b_activations: Sequence[Activation] = (),
        sub_core_grids: worker_cores = None,
        sub_device_id: NotEmulated = None,
    ) -> Tensor:
        return _binary(
            function,
            input_tensor_a,
            input_tensor_b,
            activations,
            input_tensor_a_activations,
            input_tensor_b_activations,
            sub_core_grids,
            dtype,
            memory_config,
            output_tensor,
        )

    binary.__doc__ = f"{formula}, with optional activations on a, b and the result."
    return op(*[f"ttnn.{name}" for name in names])(binary)


def _declare_comparison(name):
    function = _as_number(getattr(operator, name))

    def comparison(
        input_tensor_a: Tensor,
        input_tensor_b: Tensor | float,
        *,
        dtype: DataType = None,
        memory_config: MemoryConfig = None,
        output_tensor: Tensor = None,
        activations: Sequence[Activation] = (),
        input_tensor_a_activations: Sequence[Activation] = (),
        input_tensor_b_activations: Sequence[Activation] = (),
        sub_core_grids: worker_cores = None,
        sub_device_id: NotEmulated = None,
    ) -> Tensor:
        return _binary(
            function,
            input_tensor_a,
            input_tensor_b,
            activations,
            input_tensor_a_activations,
            input_tensor_b_activations,
            sub_core_grids,
            dtype,
            memory_config,
            output_tensor,
        )

    comparison.__doc__ = f"1 where a is {name} b, else 0, in a's dtype."
    return op(f"ttnn.{name}")(comparison)


add = _declare(["add"], operator.add, True, "a + b")
subtract = _declare(["subtract", "sub"], operator.sub, True, "a - b")
multiply = _declare(["multiply", "mul"], operator.mul, False, "a * b")

for _name in ("eq", "ne", "gt", "ge", "lt", "le"):
    _declare_comparison(_name)


@op("ttnn.divide", "ttnn.div")
def divide(
    input_tensor_a: Tensor | float,
    input_tensor_b: Tensor,
    *,
    fast_and_approximate_mode: NoEffect[bool] = False,
    rounding_mode: NotEmulated = None,
    dtype: DataType = None,
    memory_config: MemoryConfig = None,
    output_tensor: Tensor = None,
    activations: Sequence[Activation] = (),
    input_tensor_a_activations: Sequence[Activation] = (),
    input_tensor_b_activations: Sequence[Activation] = (),
    sub_core_grids: worker_cores = None,
    sub_device_id: NotEmulated = None,
) -> Tensor:
    """a / b, with optional activations on a, b and the result."""
    lists = activations, input_tensor_a_activations, input_tensor_b_activations
    output = dtype, memory_config, output_tensor
    return _binary(_divide, input_tensor_a, input_tensor_b, *lists, sub_core_grids, *output)


@divide.overload
def _divide_by_number(
    input_tensor_a: Tensor,
    value: float,
    *,
    fast_and_approximate_mode: NoEffect[bool] = False,
    rounding_mode: NotEmulated = None,
    dtype: DataType = None,
    memory_config: MemoryConfig = None,
    output_tensor: Tensor = None,
    activations: Sequence[Activation] = (),
    input_tensor_a_activations: Sequence[Activation] = (),
    input_tensor_b_activations: Sequence[Activation] = (),
    sub_core_grids: worker_cores = None,
    sub_device_id: NotEmulated = None,
) -> Tensor:
    lists = activations, input_tensor_a_activations, input_tensor_b_activations
    return _binary(_divide, input_tensor_a, value, *lists, sub_core_grids, dtype, memory_config, output_tensor)


@op("ttnn.rsub")
def rsub(
    input_tensor_a: Tensor,
    input_tensor_b: Tensor,
    *,
    dtype: DataType = None,
    memory_config: MemoryConfig = None,
    output_tensor: Tensor = None,
    activations: Sequence[Activation] = (),
    input_tensor_a_activations: Sequence[Activation] = (),
    input_tensor_b_activations: Sequence[Activation] = (),
    fast_and_approximate_mode: NoEffect[bool | None] = True,
) -> Tensor:
    """b - a, with optional activations on a, b and the result."""
    lists = activations, input_tensor_a_activations, input_tensor_b_activations
    return _binary(
        _reversed_subtract, input_tensor_a, input_tensor_b, *lists, None, dtype, memory_config, output_tensor
    )


@rsub.overload
def _rsub_number(
    input_tensor_a: Tensor,
    input_b: float,
    *,
    dtype: DataType = None,
    memory_config: MemoryConfig = None,
    output_tensor: Tensor = None,
    activations: Sequence[Activation] = (),
    input_tensor_a_activations: Sequence[Activation] = (),
    input_tensor_b_activations: Sequence[Activation] = (),
    fast_and_approximate_mode: NoEffect[bool | None] = True,
) -> Tensor:
    lists = activations, input_tensor_a_activations, input_tensor_b_activations
    return _binary(_reversed_subtract, input_tensor_a, input_b, *lists, None, dtype, memory_config, output_tensor)


def _declare_in_place(name, function):
    def in_place(
        input_tensor_a: Tensor,
        input_tensor_b: Tensor | float,
        *,
        activations: Sequence[Activation] = (),
        input_tensor_a_activations: Sequence[Activation] = (),
        input_tensor_b_activations: Sequence[Activation] = (),
        fast_and_approximate_mode: NoEffect[bool | None] = True,
        sub_core_grids: worker_cores = None,
        sub_device_id: NotEmulated = None,
    ) -> Tensor:
        lists = activations, input_tensor_a_activations, input_tensor_b_activations
        return _binary(
            function, input_tensor_a, input_tensor_b, *lists, sub_core_grids, output_tensor=input_tensor_a
        )

    in_place.__doc__ = f"`{name[:-1]}` written into `input_tensor_a`."
    return op(f"ttnn.{name}")(in_place)


_declare_in_place("add_", operator.add)
_declare_in_place("subtract_", operator.sub)


@op("ttnn.multiply_")
def multiply_(
    input_a: Tensor,
    input_b: Tensor | float,
    *,
    activations: Sequence[Activation] = (),
    input_tensor_a_activations: Sequence[Activation] = (),
    input_tensor_b_activations: Sequence[Activation] = (),
    fast_and_approximate_mode: NoEffect[bool | None] = False,
    sub_core_grids: worker_cores = None,
    sub_device_id: NotEmulated = None,
) -> Tensor:
    """`multiply`, with the result written into `input_a`."""
    lists = activations, input_tensor_a_activations, input_tensor_b_activations
    return _binary(operator.mul, input_a, input_b, *lists, sub_core_grids, output_tensor=input_a)
