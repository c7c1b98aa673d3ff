"""Traces, which replay captured ops without running their Python code; and command queues, which do nothing here.

As on a card, capturing runs nothing. Outputs have no values until `execute_trace`, which writes to the same
output tensors every time. Tensors that were freed during the capture are dropped after their last use.
"""

import itertools
import weakref

from . import oplog
from .declaration import NoEffect, NotEmulated
from .device import MeshDevice
from .op import FUNCTIONS, name_in, op
from .tensor import meta_shards

_ids = itertools.count()


class MeshTraceId(int):
    """The id of a captured trace."""


class Trace:
    """The captured steps of one mesh."""

    def __init__(self):
        self.steps = []
        self._calls = []
        self._outputs = []

    def add(self, name, step, inputs, outputs) -> None:
        """Records an op's `step` instead of running it. The op's outputs get shapes without values."""
        for output in outputs:
            output.storage.shards = meta_shards(output.shape, output.dtype, output._device.num_devices)
            output.storage.pending = True
            self._outputs.append((output.storage, weakref.ref(output._buffer)))
        self._calls.append((name, step, inputs, [output.storage for output in outputs]))

    def finish(self) -> None:
        """Turns the recorded calls into steps, and adds steps that drop the tensors freed during the capture."""
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


@op("ttnn.begin_trace_capture", registry=FUNCTIONS)
def begin_trace_capture(mesh_device: MeshDevice, *, cq_id: int = None) -> MeshTraceId:
    """Starts a capture: from now on ops are recorded and not run. RuntimeError during another capture."""
    mesh_device.check_queue(cq_id)
    if mesh_device.capture is not None:
        raise RuntimeError("a capture is already going on")
    trace_id = MeshTraceId(next(_ids))
    mesh_device.traces[trace_id] = mesh_device.capture = Trace()
    return trace_id


@op("ttnn.end_trace_capture", registry=FUNCTIONS)
def end_trace_capture(mesh_device: MeshDevice, trace_id: MeshTraceId, *, cq_id: int = None) -> None:
    """Ends the capture that `begin_trace_capture` started."""
    mesh_device.check_queue(cq_id)
    trace = _find(mesh_device, trace_id)
    if mesh_device.capture is not trace:
        raise RuntimeError(f"trace {trace_id} is not being captured")
    mesh_device.capture = None
    trace.finish()


@op("ttnn.execute_trace", registry=FUNCTIONS)
def execute_trace(
    mesh_device: MeshDevice, trace_id: MeshTraceId, *, cq_id: int = None, blocking: NoEffect[bool] = True
) -> None:
    """Replays a trace on the present values of its input tensors."""
    mesh_device.check_queue(cq_id)
    trace = _find(mesh_device, trace_id)
    if mesh_device.capture is not None:
        raise RuntimeError("a capture is going on; end it first")
    trace.execute()


@op("ttnn.release_trace", registry=FUNCTIONS)
def release_trace(mesh_device: MeshDevice, trace_id: MeshTraceId) -> None:
    """Deletes a trace. It cannot be executed afterwards."""
    _find(mesh_device, trace_id)
    del mesh_device.traces[trace_id]


@op("ttnn.is_trace_capture_active", registry=FUNCTIONS)
def is_trace_capture_active(device: MeshDevice) -> bool:
    """Whether a trace of the mesh is being captured."""
    return device.capture is not None


def _find(mesh_device, trace_id) -> Trace:
    if trace_id not in mesh_device.traces:
        raise RuntimeError(f"there is no trace {trace_id} on {mesh_device}; it was released or never captured")
    return mesh_device.traces[trace_id]


class MeshEvent:
    """A point in a command queue of a mesh. On the emulator all earlier commands are already done."""

    def __init__(self, mesh_device: MeshDevice):
        self.mesh_device = mesh_device


@op("ttnn.record_event", registry=FUNCTIONS)
def record_event(
    mesh_device: MeshDevice, cq_id: int = None, sub_device_ids: NotEmulated = (), device_range: NotEmulated = None
) -> MeshEvent:
    """The present point in a command queue."""
    mesh_device.check_queue(cq_id)
    return MeshEvent(mesh_device)


@op("ttnn.wait_for_event", registry=FUNCTIONS)
def wait_for_event(cq_id: int = None, mesh_event: MeshEvent = None) -> None:
    """Has nothing to wait for: queues run in the order of the calls."""
    if mesh_event is None:
        raise TypeError("mesh_event is missing")
    mesh_event.mesh_device.check_queue(cq_id)


@op("ttnn.event_synchronize", registry=FUNCTIONS)
def event_synchronize(mesh_event: NoEffect[MeshEvent]) -> None:
    """Has nothing to wait for: the event is always in the past."""
