"""The README's table of the vendor's checks, made from the records in `records/`.

    python -m models.tt_transformers.measure.vendor.table
"""

import json
from pathlib import Path

from models.common import whole_file
from models.common.mesh_names import MESH_SHAPES

RECORDS = Path(__file__).parent / "records"
README = Path(__file__).resolve().parents[4] / "README.md"
BEGIN = "<!-- validation table: written by `make validate`, do not edit -->"
END = "<!-- end of validation table -->"

_HEADER = ("model", "mesh", "mode", "backend", "vendor's checks", "op calls", "peak DRAM a device", "peak L1 a device")


def read_records() -> list[dict]:
    """All committed records, by model, then from the smallest mesh to the largest."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in RECORDS.glob("*.json")]
    return sorted(records, key=lambda record: (record["model"], record["backend"], list(MESH_SHAPES).index(record["mesh"])))


def markdown(records: list[dict]) -> str:
    """One row for each model, mesh and mode: "pass" with the number of cases, or what the vendor refused."""
    rows = [_HEADER, ("---",) * len(_HEADER)]
    for record in records:
        for mode in dict.fromkeys(case["mode"] for case in record["cases"]):
            rows.append(_row(record, mode, [case for case in record["cases"] if case["mode"] == mode]))
    versions = ", ".join(sorted({record["ttnn"] for record in records}))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([f"Checked by ttnn {versions}:", "", *lines])


def _row(record: dict, mode: str, cases: list[dict]) -> tuple:
    layers = "" if record["layers"] == "all" else f", {record['layers']} layers"
    refused = [f"{case['op']}: {case['message']}" for case in cases if case["outcome"] != "pass"]
    answer = "; ".join(dict.fromkeys(refused)).replace("|", "\\|") or f"pass ({len(cases)} case{'s' * (len(cases) > 1)})"
    dram, l1 = (max(case[f"peak_{kind}_bytes"] for case in cases) / 1e6 for kind in ("dram", "l1"))
    calls = sum(case["op_calls"] for case in cases)
    return f"{record['model']}{layers}", record["mesh"], mode, record["backend"], answer, str(calls), f"{dram:.0f} MB", f"{l1:.1f} MB"


def with_table(text: str, table: str, begin: str = BEGIN, end: str = END) -> str:
    """`text` with the part between its two markers replaced. ValueError if it does not have each marker once."""
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"the text needs one line {begin} and one line {end}")
    before, rest = text.split(begin)
    return f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}"


def main():
    whole_file.write(README, with_table(README.read_text(encoding="utf-8"), markdown(read_records())))


if __name__ == "__main__":
    main()
