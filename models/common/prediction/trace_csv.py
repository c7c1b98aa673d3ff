"""Reads calls from the CSV of a measured trace, in the columns of `tt-perf-report`."""

import csv
import re
from pathlib import Path

from .call import Call, Operand

_DIMS = ("W", "Z", "Y", "X")


def read(path: Path) -> list[tuple[Call, float]]:
    """(call, measured kernel seconds) of each row. The file's medians are in the column kernel_ns_median."""
    with open(path, encoding="utf-8", newline="") as file:
        return [(call_of(row), float(row["kernel_ns_median"]) * 1e-9) for row in csv.DictReader(file)]


def call_of(row: dict) -> Call:
    """The call that a row describes."""
    inputs = tuple(operand for index in range(3) if (operand := _operand(row, f"INPUT_{index}")) is not None)
    op = {"Matmul": "MatmulDeviceOperation"}.get(row["OP CODE"], row["OP CODE"])
    return Call(
        op,
        inputs,
        (_operand(row, "OUTPUT_0"),),
        row["MATH FIDELITY"] or "HiFi4",
        int(row["CORE COUNT"]),
        _settings(op, row),
    )


def _operand(row: dict, name: str) -> Operand | None:
    sizes = [re.fullmatch(r"(\d+)\[(\d+)\]", row[f"{name}_{dim}_PAD[LOGICAL]"]) for dim in _DIMS]
    if None in sizes:
        return None
    place = row[f"{name}_MEMORY"].split("_")[2]
    padded, logical = (tuple(int(size[group]) for size in sizes) for group in (1, 2))
    return Operand(padded, row[f"{name}_DATATYPE"], row[f"{name}_LAYOUT"], place, logical=logical)


def _settings(op: str, row: dict) -> dict:
    attributes = row["ATTRIBUTES"]
    if op == "MinimalMatmulOp":
        x, y = map(int, re.search(r"compute_with_storage_grid_size=\(x=(\d+);y=(\d+)\)", attributes).groups())
        return {"program": "minimal", "grid": (x, y)}
    if op == "MatmulDeviceOperation":
        # Without a program config, the op takes batched matrices one after the other, and a single one by columns.
        return {"program": "reuse" if "'bcast_batch': '0'" in attributes else "mcast_1d"}
    if op == "TransposeDeviceOperation":
        return {"dims": re.search(r"TransposeOpDim::(\w+)", attributes)[1]}
    if op == "BinaryNgDeviceOperation":
        return {"scalar": "'scalar': 'std::nullopt'" not in attributes}
    if op == "UnaryDeviceOperation":
        return {"activation": re.search(r"UnaryOpType::(\w+)", attributes)[1]}
    return {}
