"""Writes the predicted ops of a step as the CSV that the vendor's `tt-perf-report` reads."""

import csv
import io
from pathlib import Path

from models.common import whole_file

from .call import Call, Operand
from .card import Card
from .ops import Ops
from .step import HOST, HostRates

_DIMS = ("W", "Z", "Y", "X")
_TENSORS = ("INPUT_0", "INPUT_1", "OUTPUT_0")
_COLUMNS = [
    "OP CODE", "OP TYPE", "GLOBAL CALL COUNT", "DEVICE ID", "DEVICE ARCH", "AVAILABLE WORKER CORE COUNT", "ATTRIBUTES", "MATH FIDELITY",
    "CORE COUNT", "HOST START TS", "OP TO OP LATENCY [ns]", "DEVICE KERNEL DURATION [ns]",
    *(f"{tensor}_{dim}_PAD[LOGICAL]" for tensor in _TENSORS for dim in _DIMS),
    *(f"{tensor}_{what}" for tensor in _TENSORS for what in ("LAYOUT", "DATATYPE", "MEMORY")),
]  # fmt: skip
# The program configs by the names that `Call.settings` has for them.
_CONFIGS = {
    "dram_sharded": "MatmulMultiCoreReuseMultiCastDRAMShardedProgramConfig",
    "prefetched": "MatmulMultiCoreReuseMultiCast1DProgramConfig",
    "mcast_2d": "MatmulMultiCoreReuseMultiCastProgramConfig",
    "mcast_1d": "MatmulMultiCoreReuseMultiCast1DProgramConfig",
    "height_sharded": "MatmulMultiCoreReuseMultiCast1DProgramConfig",
    "reuse": "MatmulMultiCoreReuseProgramConfig",
    "minimal": "MinimalMatmulConfig",
}


def write(path: Path, ops: Ops, card: Card, host: HostRates = HOST) -> None:
    """One row per kernel, in the step's order, with predicted kernel times and the gap of a traced step, in nanoseconds.

    The file is written whole or not at all; OSError if it cannot be.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for number, index in enumerate(ops.order):
        call, seconds = ops.calls[index], ops.times[index].seconds
        writer.writerow({
            "OP CODE": call.op, "OP TYPE": "tt_dnn_device", "GLOBAL CALL COUNT": number + 1, "DEVICE ID": 0,
            "DEVICE ARCH": card.speed.chip.arch, "AVAILABLE WORKER CORE COUNT": card.speed.cores, "ATTRIBUTES": _attributes(call),
            "MATH FIDELITY": call.fidelity, "CORE COUNT": _cores(call, card), "HOST START TS": number,
            "OP TO OP LATENCY [ns]": round(host.gap * 1e9), "DEVICE KERNEL DURATION [ns]": round(seconds * 1e9), **_tensors(call),
        })  # fmt: skip
    whole_file.write(path, text.getvalue())


def _attributes(call: Call) -> str:
    entries = {"prediction": "true", **call.settings}
    if "program" in call.settings:
        entries["program_config"] = f"{_CONFIGS[call.settings['program']]}()"
    return "{" + "; ".join(f"'{name}': '{value}'" for name, value in entries.items()) + "}"


def _cores(call: Call, card: Card) -> int:
    if call.cores is not None:
        return call.cores
    placed = [
        tensor.shards
        for tensor in (*call.outputs, *call.inputs)
        if tensor is not None and tensor.shards and not tensor.in_dram
    ]
    return max(placed, default=card.speed.cores)


def _tensors(call: Call) -> dict:
    tensors = [*[tensor for tensor in call.inputs if tensor is not None][:2], None, None][:2] + [
        call.outputs[0] if call.outputs else None
    ]
    row = {}
    for name, tensor in zip(_TENSORS, tensors):
        if tensor is None:
            continue
        for dim, padded, logical in zip(_DIMS, _four(tensor.shape), _four(tensor.logical or tensor.shape)):
            row[f"{name}_{dim}_PAD[LOGICAL]"] = f"{padded}[{logical}]"
        row |= {f"{name}_LAYOUT": tensor.layout, f"{name}_DATATYPE": tensor.dtype, f"{name}_MEMORY": _memory(tensor)}
    return row


def _four(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1,) * (4 - len(shape)) + tuple(shape)


def _memory(tensor: Operand) -> str:
    return f"DEV_0_{tensor.place}_{tensor.sharding}"
