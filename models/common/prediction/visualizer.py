"""Writes an op log as a report that the vendor's `ttnn-visualizer` opens: a folder with `db.sqlite` and `config.json`.

The report has the operations with their arguments and predicted times, the tensors, and the buffers that are allocated
while each operation runs. Addresses are a first-fit allocator's, not a card's, because the emulator counts bytes only.
"""

import json
import os
import sqlite3
import tempfile
from pathlib import Path

from models.common.chip import Chip

from . import from_log
from .card import Card
from .cost import time_of
from .rules import work_of

SCHEMA = "2.1"
# Each operation has a row for every allocated buffer; more rows than this make the visualizer slow.
MAX_BUFFERS = 2_000_000
_TYPES = {"DRAM": 0, "L1": 1}
_LAYOUTS = {"INTERLEAVED": 0, "HEIGHT_SHARDED": 2, "WIDTH_SHARDED": 3, "BLOCK_SHARDED": 4}

# Table -> columns, as ttnn's graph_report.py creates them.
_TABLES = {
    "devices": "device_id int, num_y_cores int, num_x_cores int, num_y_compute_cores int, num_x_compute_cores int, "
    "worker_l1_size int, l1_num_banks int, l1_bank_size int, address_at_first_l1_bank int, address_at_first_l1_cb_buffer int, "
    "num_banks_per_storage_core int, num_compute_cores int, num_storage_cores int, total_l1_memory int, "
    "total_l1_for_tensors int, total_l1_for_interleaved_buffers int, total_l1_for_sharded_buffers int, cb_limit int",
    "operations": "operation_id int UNIQUE, name text, duration float",
    "operation_arguments": "operation_id int, name text, value text",
    "tensors": "tensor_id int UNIQUE, shape text, dtype text, layout text, memory_config text, device_id int, address int, "
    "buffer_type int, size int",
    "device_tensors": "tensor_id int, device_id int, address int",
    "buffers": "operation_id int, device_id int, address int, max_size_per_bank int, buffer_type int, buffer_layout int",
    "buffer_pages": "operation_id int, device_id int, address int, core_y int, core_x int, bank_id int, page_index int, "
    "page_address int, page_size int, buffer_type int",
    "input_tensors": "operation_id int, input_index int, tensor_id int",
    "output_tensors": "operation_id int, output_index int, tensor_id int",
    "captured_graph": "operation_id int, captured_graph text",
    "nodes": "operation_id int, unique_id int, node_operation_id int, name text",
    "edges": "operation_id int, source_unique_id int, sink_unique_id int, source_output_index int, sink_input_index int, key int",
    "report_metadata": "key text UNIQUE, value text",
    "errors": "operation_id int, operation_name text, error_type text, error_message text, stack_trace text, timestamp text",
    "source_files": "id int, path text, contents text",
    "stack_traces": "operation_id int, stack_trace text, source_file_id int",
    "local_tensor_comparison_records": "tensor_id int, golden_tensor_id int, matches bool, desired_pcc bool, actual_pcc float",
    "global_tensor_comparison_records": "tensor_id int, golden_tensor_id int, matches bool, desired_pcc bool, actual_pcc float",
}


def write(folder: Path, log, card: Card, context: float) -> None:
    """Writes the report of an `OpLog` to `folder`, which is made if it is not there.

    Raises ValueError, before anything is written, for a log that would make more than `MAX_BUFFERS` rows of buffers.
    """
    rows = _Rows(log, card, context)
    folder.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=folder, suffix=".tmp")
    os.close(handle)
    try:
        database = sqlite3.connect(partial)
        with database:
            for name, columns in _TABLES.items():
                database.execute(f"CREATE TABLE {name} ({columns})")
            for name, values in rows.tables.items():
                marks = ", ".join("?" for _ in _TABLES[name].split(","))
                database.executemany(f"INSERT INTO {name} VALUES ({marks})", values)
        database.close()
        os.chmod(partial, 0o644)
        os.replace(partial, folder / "db.sqlite")
    except BaseException:
        os.unlink(partial)
        raise
    config = {"report_name": "predicted decode step", "enable_graph_report": True, "enable_logging": True}
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


class _Rows:
    """The rows of every table."""

    def __init__(self, log, card: Card, context: float):
        self.tables = {name: [] for name in _TABLES}
        self.tables["devices"].append(_device(card.speed.chip))
        self.tables["report_metadata"] += [("schema_version", SCHEMA), ("what", "a prediction, not a measurement")]
        self._places = {
            kind: _Places(base)
            for kind, base in (("DRAM", card.speed.chip.dram_base), ("L1", _l1_base(card.speed.chip)))
        }
        self._live: dict[int, tuple] = {}
        self._tensors: dict[tuple, int] = {}
        frees = iter(sorted(log.freed))
        free = next(frees, None)
        for spec, number in _outside(log):
            self._take(spec, number)
        for operation, record in enumerate(log, start=1):
            while free is not None and free[0] < operation:
                self._give(free[1])
                free = next(frees, None)
            self._add(operation, record, card, context)
            if len(self.tables["buffers"]) > MAX_BUFFERS:
                raise ValueError(
                    f"a report of {len(log)} ops has over {MAX_BUFFERS} rows of buffers; give fewer layers (--num_layers)"
                )

    def _add(self, operation: int, record, card: Card, context: float) -> None:
        seconds = 0 if record.is_view else time_of(work_of(from_log.call_of(record, context), card), card).seconds
        self.tables["operations"].append((operation, record.name, seconds))
        self.tables["operation_arguments"] += [
            (operation, name, str(value)) for name, value in record.arguments.items() if value is not None
        ]
        for specs, numbers, table in (
            (record.inputs, record.input_buffers, "input_tensors"),
            (record.outputs, record.output_buffers, "output_tensors"),
        ):
            for index, (spec, number) in enumerate(zip(specs, numbers)):
                if spec is not None:
                    self._take(spec, number)
                    self.tables[table].append((operation, index, self._tensor(spec, number)))
        self.tables["captured_graph"].append((operation, "[]"))
        self.tables["buffers"] += [(operation, 0, *buffer) for buffer in self._live.values()]

    def _take(self, spec, number: int) -> None:
        if number not in self._live:
            config = spec.memory_config
            kind = config.buffer_type.name
            address = self._places[kind].take(spec.bank_bytes, number)
            self._live[number] = (address, spec.bank_bytes, _TYPES[kind], _LAYOUTS[config.memory_layout.name])

    def _give(self, number: int) -> None:
        if self._live.pop(number, None) is not None:
            for places in self._places.values():
                places.give(number)

    def _tensor(self, spec, number: int) -> int:
        """The id of a tensor: a buffer seen with a shape, such as that of a view."""
        key = (number, tuple(spec.shape))
        if key not in self._tensors:
            self._tensors[key] = identity = len(self._tensors) + 1
            address, size, kind, _ = self._live[number]
            self.tables["tensors"].append((
                identity, f"Shape({list(spec.shape)})", f"DataType.{spec.dtype.name}", f"Layout.{spec.layout.name}", _memory_config(spec.memory_config), 0,
                address, kind, size,
            ))  # fmt: skip
            self.tables["device_tensors"].append((identity, 0, address))
        return self._tensors[key]


def _outside(log):
    """(spec, buffer) of tensors that were allocated before the log began: weights, caches, inputs."""
    made = set()
    for record in log:
        for spec, number in zip(record.inputs, record.input_buffers):
            if spec is not None and number not in made:
                made.add(number)
                yield spec, number
        made.update(record.output_buffers)


class _Places:
    """First-fit addresses in one kind of memory: [address, end) of each buffer, in order."""

    def __init__(self, base: int):
        self._base, self._taken = base, []

    def take(self, size: int, number: int) -> int:
        address, place = self._base, 0
        for place, (start, end, _) in enumerate(self._taken):
            if start - address >= size:
                break
            address = end
        else:
            place = len(self._taken)
        self._taken.insert(place, (address, address + size, number))
        return address

    def give(self, number: int) -> None:
        self._taken = [taken for taken in self._taken if taken[2] != number]


def _l1_base(chip: Chip) -> int:
    return chip.l1_bytes - chip.l1_bank_bytes


def _device(chip: Chip) -> tuple:
    x, y = chip.grid
    cores, l1 = x * y, chip.l1_bank_bytes
    return (
        0,
        y,
        x,
        y,
        x,
        chip.l1_bytes,
        cores,
        l1,
        _l1_base(chip),
        _l1_base(chip),
        1,
        cores,
        0,
        chip.l1_bytes,
        l1,
        l1,
        l1,
        l1,
    )


def _memory_config(config) -> str:
    """A memory config as the vendor's package prints it, which the visualizer parses."""
    spec = config.shard_spec
    shards = "std::nullopt"
    if spec is not None:
        ranges = " ".join(f"[(x={r.start.x},y={r.start.y}) - (x={r.end.x},y={r.end.y})]" for r in spec.grid.ranges())
        shards = f"ShardSpec(grid={{{ranges}}},shape={{{spec.shape[0]}, {spec.shape[1]}}},orientation=ShardOrientation::{spec.orientation.name},halo=0)"
    return (
        f"MemoryConfig(memory_layout=TensorMemoryLayout::{config.memory_layout.name},buffer_type=BufferType::{config.buffer_type.name},"
        f"shard_spec={shards})"
    )
