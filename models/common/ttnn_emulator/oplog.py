"""The op log: what ran, with every input and output spec and attribute; and a profile of where time goes."""

import time
from contextlib import contextmanager
from dataclasses import dataclass

active = False
profile = None
_entries = []


@dataclass(frozen=True)
class OpRecord:
    """One op call. `inputs` and `outputs` are TensorSpecs (an input may be None); attributes are the op's own."""

    name: str
    inputs: tuple
    outputs: tuple
    attributes: dict


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


def add(name, inputs, outputs, attributes, in_place) -> None:
    """Appends a call to the recording."""
    outputs = (in_place,) if in_place is not None else outputs
    _entries.append(
        OpRecord(
            name,
            tuple(None if tensor is None else tensor.spec for tensor in inputs),
            tuple(tensor.spec for tensor in outputs),
            dict(attributes or {}),
        )
    )


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
