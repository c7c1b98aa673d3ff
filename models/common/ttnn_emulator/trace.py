"""Traces: ops captured once and replayed without their Python; and command queues, which do nothing here.

As on a card, capturing runs nothing: outputs have no values until `execute_trace`, which writes to the same
output tensors every time. Tensors that lived only during the capture are dropped after their last use.
"""

import itertools
import weakref

from . import oplog
from .device import MeshDevice
from .op import name_in
from .tensor import meta_shards

_ids = itertools.count()


class MeshTraceId(int):
    """Names a captured trace."""


class Trace:
    """The captured steps of one mesh."""

    def __init__(self):
        self.steps = []
        self._calls = []
        self._outputs = []

    def add(self, name, step, inputs, outputs) -> None:
        """Takes an op's step instead of running it; its outputs get shapes without values."""
        for output in outputs:
            output.storage.shards = meta_shards(output.shape, output.dtype, output._device.num_devices)
            output.storage.pending = True
            self._outputs.append((output.storage, weakref.ref(output._buffer)))
        self._calls.append((name, step, inputs, [output.storage for output in outputs]))

    def finish(self) -> None:
        """Turns the calls into steps, with the drop of each tensor that did not outlive the capture."""
        dying, self._lasting = {}, []
        for storage, buffer in self._outputs:
            owner = buffer()
            if owner is None or not owner.allocated:
                dying[id(storage)] = storage
            else:
                self._lasting.append(storage)
        drops = [[] for _ in self._calls]
        for index in reversed(range(len(self._calls))):
            _, _, inputs, outputs = self._calls[index]
            for storage in (*inputs, *outputs):
                if dying.pop(id(storage), None) is not None:
                    drops[index].append(storage.drop)
        for (name, step, _, _), dropping in zip(self._calls, drops):
            self.steps.append((name, step))
            self.steps += [("drop", drop) for drop in dropping]
        self._calls = self._outputs = None

    def execute(self) -> None:
        profiled = oplog.profile is not None
        try:
            for name, step in self.steps:
                if profiled:
                    oplog.timed(name, step)
                else:
                    step()
        except Exception as error:
            name_in(error, name)
            raise
        for storage in self._lasting:
            storage.pending = False


def begin_trace_capture(mesh_device: MeshDevice, *, cq_id: int = None) -> MeshTraceId:
    """From here on ops are recorded, not run. RuntimeError if a capture is already going on."""
    _check_queue("begin_trace_capture", cq_id)
    if mesh_device.capture is not None:
        raise RuntimeError("begin_trace_capture: a capture is already going on")
    trace_id = MeshTraceId(next(_ids))
    mesh_device.traces[trace_id] = mesh_device.capture = Trace()
    return trace_id


def end_trace_capture(mesh_device: MeshDevice, trace_id: MeshTraceId, *, cq_id: int = None) -> None:
    """Ends the capture that `begin_trace_capture` began."""
    _check_queue("end_trace_capture", cq_id)
    trace = _find("end_trace_capture", mesh_device, trace_id)
    if mesh_device.capture is not trace:
        raise RuntimeError(f"end_trace_capture: trace {trace_id} is not being captured")
    mesh_device.capture = None
    trace.finish()


def execute_trace(mesh_device: MeshDevice, trace_id: MeshTraceId, *, cq_id: int = None, blocking: bool = True) -> None:
    """Replays a trace on the values that its input tensors hold now."""
    _check_queue("execute_trace", cq_id)
    trace = _find("execute_trace", mesh_device, trace_id)
    if mesh_device.capture is not None:
        raise RuntimeError("execute_trace: a capture is going on; end it first")
    trace.execute()


def release_trace(mesh_device: MeshDevice, trace_id: MeshTraceId) -> None:
    """Forgets a trace. It cannot be executed afterwards."""
    _find("release_trace", mesh_device, trace_id)
    del mesh_device.traces[trace_id]


def is_trace_capture_active(mesh_device: MeshDevice) -> bool:
    return mesh_device.capture is not None


def _find(name, mesh_device, trace_id) -> Trace:
    if trace_id not in mesh_device.traces:
        raise RuntimeError(f"{name}: there is no trace {trace_id} on {mesh_device}; it was released or never captured")
    return mesh_device.traces[trace_id]


def _check_queue(name, cq_id) -> None:
    if cq_id not in (None, 0, 1):
        raise RuntimeError(f"{name}: cq_id must be 0 or 1, got {cq_id!r}")


class MeshEvent:
    """A point in a command queue. Here everything before it has already happened."""


def record_event(mesh_device: MeshDevice, cq_id: int = None, sub_device_ids=(), device_range=None) -> MeshEvent:
    _check_queue("record_event", cq_id)
    return MeshEvent()


def wait_for_event(cq_id: int = None, mesh_event: MeshEvent = None) -> None:
    """Nothing to wait for: queues run in the order of the calls."""
    _check_queue("wait_for_event", cq_id)


def event_synchronize(mesh_event: MeshEvent) -> None:
    """Nothing to wait for: the event is in the past."""
