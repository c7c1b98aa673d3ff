"""How ops are declared: a call is bound to the signature, and no argument of any op is ignored."""

from collections.abc import Sequence

import pytest
import torch
import ttnn

from models.common.ttnn_emulator import oplog
from models.common.ttnn_emulator.declaration import NoEffect, NotEmulated
from models.common.ttnn_emulator.op import FUNCTIONS, REGISTRY, op
from models.common.ttnn_emulator.program import Program


def even(value) -> bool:
    """an even number"""
    return isinstance(value, int) and value % 2 == 0


@pytest.fixture
def scale():
    """An op of two forms, declared outside of the emulator's registry."""
    registry = {}

    @op("ttnn.toy.scale", registry=registry)
    def scale(
        input_tensor: ttnn.Tensor,
        factor: float,
        *,
        rounds: NoEffect[even] = 2,
        memory_config: ttnn.MemoryConfig = None,
        sub_device_id: NotEmulated = None,
    ) -> ttnn.Tensor:
        """`factor` times the tensor."""
        spec = ttnn.TensorSpec(input_tensor.shape, input_tensor.dtype, input_tensor.layout, memory_config)
        return Program(lambda values: values * factor, [input_tensor], spec)

    @scale.overload
    def _scale_by_all(input_tensor: ttnn.Tensor, factors: Sequence[int]) -> ttnn.Tensor:
        return registry["ttnn.toy.scale"](input_tensor, float(torch.tensor(factors).prod()))

    return registry["ttnn.toy.scale"]


@pytest.fixture
def x(device):
    return ttnn.ones((32, 32), layout=ttnn.TILE_LAYOUT, device=device)


def test_declared_op_runs_and_logs_all_its_arguments(scale, x):
    with oplog.recording() as log:
        output = scale(x, 3)
    assert ttnn.to_torch(output).unique().tolist() == [3]
    assert log[0].name == "ttnn.toy.scale" and log[0].outputs == (output.spec,)
    assert log[0].arguments == {
        "input_tensor": x.spec, "factor": 3, "rounds": 2, "memory_config": None, "sub_device_id": None,
    }  # fmt: skip


def test_first_form_that_takes_the_arguments_is_called(scale, x):
    assert ttnn.to_torch(scale(x, [2, 3])).unique().tolist() == [6]
    assert ttnn.to_torch(scale(x, factors=(2, 5))).unique().tolist() == [10]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"factor": "2"}, r"ttnn.toy.scale: as \(input_tensor, factor, .*factor takes a number, not '2'"),
        ({"factors": [1, "2"]}, r"factors takes a sequence, each item a whole number, not \[1, '2'\]"),
        ({"factor": 2.0, "rounds": 3}, "rounds takes an even number, not 3"),
        ({"factor": 2.0, "memory_config": "L1"}, "memory_config takes MemoryConfig or None, not 'L1'"),
        ({"factor": 2.0, "bogus": 1}, "there is no argument 'bogus'; there are input_tensor, factor, rounds"),
        ({"factor": 2.0, "input_tensor": 1}, "input_tensor is given twice"),
        ({}, "factor is missing"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(scale, x, arguments, message):
    with pytest.raises(TypeError, match=message):
        scale(x, **arguments)


def test_argument_that_is_not_emulated_must_be_left_out(scale, x):
    with pytest.raises(NotImplementedError, match="sub_device_id=7 is not emulated; leave it out"):
        scale(x, 2.0, sub_device_id=7)


def test_errors_inside_an_op_and_in_a_trace_of_it_have_its_name(device, x):
    @op("ttnn.toy.fail", registry={})
    def fail(input_tensor: ttnn.Tensor) -> ttnn.Tensor:
        """Fails where it runs."""

        def kernel(values):
            raise RuntimeError("the kernel fails")

        return Program(kernel, [input_tensor], in_place=input_tensor)

    with pytest.raises(RuntimeError, match="^ttnn.toy.fail: the kernel fails$"):
        fail(x)
    trace_id = ttnn.begin_trace_capture(device)
    fail(x)
    ttnn.end_trace_capture(device, trace_id)
    with pytest.raises(RuntimeError, match="ttnn.toy.fail: the kernel fails$"):
        ttnn.execute_trace(device, trace_id)


def _ignores(input_tensor: ttnn.Tensor, dim: int):
    return input_tensor


def _reads(input_tensor: ttnn.Tensor, dim: NoEffect[int] = 0):
    return ttnn.squeeze(input_tensor, dim)


def _reads_inside(input_tensor: ttnn.Tensor, dim: NotEmulated = None):
    return Program(lambda values: values.sum(dim), [input_tensor], input_tensor.spec)


def _has_no_annotation(input_tensor):
    return input_tensor


def _takes_anything(*tensors: ttnn.Tensor):
    return tensors


@pytest.mark.parametrize(
    "function, message",
    [
        (_ignores, "does not read dim"),
        (_reads, "reads dim, which is declared to have no effect"),
        (_reads_inside, "reads dim, which is declared to have no effect"),
        (_has_no_annotation, "input_tensor must have an annotation"),
        (_takes_anything, "tensors.* must have an annotation and a name of its own"),
    ],
)
def test_op_that_does_otherwise_than_it_declares_is_refused(function, message):
    with pytest.raises(TypeError, match=message):
        op("ttnn.toy", registry={})(function)


@pytest.mark.parametrize("name", [*REGISTRY, *FUNCTIONS])
def test_no_argument_takes_nonsense(name):
    function = {**REGISTRY, **FUNCTIONS}[name]
    for form in function.forms:
        for parameter in form.signature.parameters:
            with pytest.raises((TypeError, NotImplementedError), match=rf"\b{parameter}(=| takes ).*object at"):
                function(**{parameter: object()})
