"""The op log, which has every op call with all arguments and tensor specs; and a profile of the time per op."""

import time
from contextlib import contextmanager
from dataclasses import dataclass

from . import allocator
from .shapes import MeshShape
from .tensor import Tensor

active = False
profile = None
_entries = []


@dataclass(frozen=True)
class OpRecord:
    """One op call, with everything needed to predict what a card would do for it.

    Attributes:
        name: the op's public name, such as "ttnn.linear".
        inputs: a TensorSpec (shape, dtype, layout, memory config with its shards) per tensor that the op's kernel
            takes, in the order of the op's arguments. A tensor that the call left out is None. An output tensor that
            the call passed comes last.
        outputs: a TensorSpec per output. For an op that works in place, those of the tensors that it changes.
        arguments: every argument by name, including program and compute kernel configs: the passed value, or the
            default. A tensor is replaced by its TensorSpec. If the call left out the topology of a collective, this is
            the topology that the op chose.
        mesh_shape: rows and columns of the mesh that the op ran on. TensorSpecs are those of one device.
        is_view: whether the output is the input's memory, so that no kernel runs.
        is_captured: whether the call was captured in a trace.
        input_buffers, output_buffers: the numbers of the tensors' buffers, None where there is no tensor.
    """

    name: str
    inputs: tuple
    outputs: tuple
    arguments: dict
    mesh_shape: MeshShape
    is_view: bool
    is_captured: bool
    input_buffers: tuple
    output_buffers: tuple


class OpLog(list):
    """The `OpRecord`s of a recording. `freed`: (how many ops had been recorded, the number of a buffer freed then)."""

    def __init__(self):
        self.freed = []


@contextmanager
def recording():
    """Context manager: yields an `OpLog` that gets one OpRecord per op call. A traced op counts once, when captured."""
    global active, _entries
    if active:
        raise RuntimeError("oplog.recording: a recording is already on")
    log = OpLog()
    active, _entries = True, log
    allocator.on_free = lambda number: log.freed.append((len(log), number))
    try:
        yield log
    finally:
        active, allocator.on_free = False, None


def add(name, program, outputs, arguments: dict, device) -> None:
    """Appends a call to the recording. `arguments` may hold Tensors, whose specs are kept."""
    arguments = {**arguments, **(program.chosen or {})}
    _entries.append(
        OpRecord(
            name,
            tuple(map(_spec, program.inputs)),
            tuple(map(_spec, outputs)),
            {name: _spec(value) for name, value in arguments.items()},
            device.shape,
            program.view,
            device.capture is not None,
            tuple(map(_buffer, program.inputs)),
            tuple(map(_buffer, outputs)),
        )
    )


def _buffer(tensor) -> int | None:
    return None if tensor is None else tensor._buffer.number


def _spec(value):
    """An argument without tensor values: each Tensor, also inside lists and tuples, becomes its spec."""
    if isinstance(value, Tensor):
        return value.spec
    if type(value) in (list, tuple):
        return type(value)(map(_spec, value))
    return value


@contextmanager
def profiling():
    """Context manager: measures ops, also those in traces. Yields the dict that it fills: name -> [calls, seconds]."""
    global profile
    if profile is not None:
        raise RuntimeError("oplog.profiling: a profile is already on")
    profile = {}
    try:
        yield profile
    finally:
        profile = None


def timed(name, step) -> None:
    """Runs `step` and adds its time to the profile of `name`."""
    start = time.perf_counter()
    step()
    entry = profile.setdefault(name, [0, 0.0])
    entry[0] += 1
    entry[1] += time.perf_counter() - start
