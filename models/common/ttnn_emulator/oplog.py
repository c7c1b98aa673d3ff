"""The op log: what ran, with every argument and the specs of all tensors; and a profile of where time goes."""

import time
from contextlib import contextmanager
from dataclasses import dataclass

from .shapes import MeshShape
from .tensor import Tensor

active = False
profile = None
_entries = []


@dataclass(frozen=True)
class OpRecord:
    """One op call: all that is needed to say what a card would do for it.

    Attributes:
        name: the op's public name, such as "ttnn.linear".
        inputs: a TensorSpec (shape, dtype, layout, memory config with its shards) per tensor that the op's kernel
            takes, in the order of the op's arguments. One that the call left out is None; an output tensor that the
            call gave comes last.
        outputs: a TensorSpec per output; of an op that works in place, those of the tensors it changes.
        arguments: every argument by its name, program and compute kernel configs among them, as passed or as the
            default is. Tensors are there as their TensorSpecs. The topology that a collective chooses where the call
            leaves it out is there as chosen.
        mesh_shape: rows and columns of the mesh that the op ran on; tensors are one device's.
    """

    name: str
    inputs: tuple
    outputs: tuple
    arguments: dict
    mesh_shape: MeshShape


@contextmanager
def recording():
    """Collects an OpRecord per op call into the list it yields; a captured op counts once, when captured."""
    global active, _entries
    if active:
        raise RuntimeError("oplog.recording: a recording is already on")
    active, _entries = True, []
    try:
        yield _entries
    finally:
        active = False


def add(name, program, outputs, arguments: dict, mesh_shape) -> None:
    """Appends a call to the recording. `arguments` may hold Tensors, whose specs are kept."""
    arguments = {**arguments, **(program.chosen or {})}
    _entries.append(
        OpRecord(
            name,
            tuple(map(_spec, program.inputs)),
            tuple(map(_spec, outputs)),
            {name: _spec(value) for name, value in arguments.items()},
            mesh_shape,
        )
    )


def _spec(value):
    """An argument without values: the spec of a Tensor, also inside of lists and tuples."""
    if isinstance(value, Tensor):
        return value.spec
    if type(value) in (list, tuple):
        return type(value)(map(_spec, value))
    return value


@contextmanager
def profiling():
    """Measures ops, traced ones included, into the dict it yields: name -> [calls, seconds]."""
    global profile
    if profile is not None:
        raise RuntimeError("oplog.profiling: a profile is already on")
    profile = {}
    try:
        yield profile
    finally:
        profile = None


def timed(name, step) -> None:
    """Runs `step` and books its time under `name`."""
    start = time.perf_counter()
    step()
    entry = profile.setdefault(name, [0, 0.0])
    entry[0] += 1
    entry[1] += time.perf_counter() - start
