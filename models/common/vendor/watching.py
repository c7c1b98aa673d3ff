"""Watches a run on the vendor's mock device: which ops the vendor accepts or refuses, and how much memory is used.

`watching` counts every outermost call of an op, hashes its inputs and outputs, and after each call asks the
vendor's allocator how much is allocated. Circular buffers are not tensors. A program whose circular buffers
exceed L1 is refused, but circular buffers do not count in the peaks.
"""

import hashlib
import inspect
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from models.common import backend, whole_file

SCHEMA_VERSION = 1


@dataclass
class OpSeen:
    """One op of a run. `specs` holds the input and output tensors of each different call."""

    signature: str
    calls: int = 0
    specs: set = field(default_factory=set)

    def as_json(self) -> dict:
        return {"calls": self.calls, "signature": self.signature, "specs": _digest("\n".join(sorted(self.specs)))}


class Watch:
    """The observations of `watching`. Peaks are bytes on one device, over all its banks or cores."""

    def __init__(self):
        self.ops: dict[str, OpSeen] = {}
        self.refused: str | None = None
        self.mesh_device = None
        self.peak = {"DRAM": 0, "L1": 0}

    @property
    def calls(self) -> int:
        return sum(seen.calls for seen in self.ops.values())


@contextmanager
def watching(vendor):
    """Yields a `Watch` of all op calls of `vendor`, the vendor's imported package."""
    watch = Watch()
    operation_class = type(vendor.linear)
    call, open_mesh, close_mesh = operation_class.__call__, vendor.open_mesh_device, vendor.close_mesh_device
    inside = False

    def watched_call(operation, *args, **kwargs):
        nonlocal inside
        if inside:
            return call(operation, *args, **kwargs)
        inside = True
        name = operation.python_fully_qualified_name
        # Described before the call, because the call may free its inputs.
        inputs = [_describe(value) for value in _tensors((args, kwargs), vendor)]
        try:
            output = call(operation, *args, **kwargs)
        except Exception:
            watch.refused = name
            raise
        finally:
            inside = False
        seen = watch.ops.setdefault(name, OpSeen(_signature(operation)))
        seen.calls += 1
        outputs = [_describe(value) for value in _tensors(output, vendor)]
        seen.specs.add(f"{'; '.join(inputs)} -> {'; '.join(outputs)}")
        if watch.mesh_device is not None:
            _sample(watch, vendor)
        return output

    def watched_open(*args, **kwargs):
        watch.mesh_device = open_mesh(*args, **kwargs)
        return watch.mesh_device

    def watched_close(mesh_device):
        watch.mesh_device = None
        close_mesh(mesh_device)

    operation_class.__call__ = watched_call
    vendor.open_mesh_device, vendor.close_mesh_device = watched_open, watched_close
    try:
        yield watch
    finally:
        operation_class.__call__ = call
        vendor.open_mesh_device, vendor.close_mesh_device = open_mesh, close_mesh


def run_case(watch: Watch, case: dict, run) -> dict:
    """Calls `run`. Returns `case` with the outcome (a dict) that `run` returns, the op calls and the memory peaks."""
    watch.peak = dict.fromkeys(watch.peak, 0)
    calls_before = watch.calls
    outcome = run()
    return {
        **case,
        **outcome,
        "op_calls": watch.calls - calls_before,
        "peak_dram_bytes": watch.peak["DRAM"],
        "peak_l1_bytes": watch.peak["L1"],
    }


def outcome_of(watch: Watch, run) -> dict:
    """Calls `run`. The outcome is "pass", or "refused" with the `op` and the vendor's `message`.

    An error that did not come from a vendor's op is raised again, because it says nothing about a card.
    """
    watch.refused = None
    try:
        run()
    except BaseException as error:
        if watch.refused is None:
            raise
        return {"outcome": "refused", "op": watch.refused, "message": vendor_message(error)}
    return {"outcome": "pass"}


def make_record(watch: Watch, facts: dict, cases: list[dict]) -> dict:
    """The record of a validation. `facts` describes the run (mesh, model, ...), `cases` come from `run_case`."""
    return {
        "schema_version": SCHEMA_VERSION,
        "ttnn": backend.versions()["ttnn"],
        "backend": backend.name(),
        **facts,
        "memory": "peaks of what the allocator holds on one device, asked after each op",
        "cases": cases,
        "ops": {name: seen.as_json() for name, seen in sorted(watch.ops.items())},
    }


def vendor_message(error: BaseException) -> str:
    """The vendor's error text, without source lines and backtrace."""
    text = str(error)
    if "info:" in text:
        text = text.split("info:", 1)[1]
    return " ".join(text.split("backtrace:")[0].split())


def write_json(path: Path, record: dict) -> None:
    """Writes `record` to `path`, whole or not at all. If that fails, prints the record and raises NotWritten."""
    with whole_file.printed_if_not_written(record, "--output"):
        whole_file.write_json(path, record)


def changes(before: dict, after: dict) -> list[str]:
    """Lines that say how `after` differs from `before`, for the same program and mesh: versions, cases, changed ops."""
    lines = [f"ttnn {before['ttnn']} -> {after['ttnn']}"] if before["ttnn"] != after["ttnn"] else []
    if before["cases"] != after["cases"]:
        lines.append(f"cases {before['cases']} -> {after['cases']}")
    ops_before, ops_after = before["ops"], after["ops"]
    for name in sorted(ops_before.keys() | ops_after.keys()):
        if name not in ops_after:
            lines.append(f"{name} is no longer called, or was refused")
        elif name not in ops_before:
            lines.append(f"{name} is called for the first time")
        else:
            differing = [key for key in ops_before[name] if ops_before[name][key] != ops_after[name][key]]
            if differing:
                lines.append(f"{name} has other {', '.join(differing)}")
    return lines


def _sample(watch: Watch, vendor) -> None:
    for kind in watch.peak:
        # A mesh's own allocator does not count what its submeshes hold.
        for mesh_device in (watch.mesh_device, *watch.mesh_device.get_submeshes()):
            view = vendor.get_memory_view(mesh_device, getattr(vendor.BufferType, kind))
            watch.peak[kind] = max(watch.peak[kind], view.num_banks * view.total_bytes_allocated_per_bank)


def _tensors(value, vendor) -> list:
    if isinstance(value, vendor.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for part in value for tensor in _tensors(part, vendor)]
    return []


def _describe(tensor) -> str:
    if not tensor.is_allocated():
        return "deallocated"
    place = tensor.memory_config() if tensor.storage_type().name == "DEVICE" else "host"
    return f"{tuple(tensor.shape)} {tuple(tensor.padded_shape)} {tensor.dtype} {tensor.layout} {place}"


def _signature(operation) -> str:
    function = operation.function
    if operation.is_cpp_operation:
        return _digest(type(function).__call__.__doc__)
    try:
        # Annotations are left out, because their text depends on the version of Python.
        return _digest(" ".join(inspect.signature(function).parameters))
    except ValueError:
        return _digest(function.__doc__)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
