"""The README's table of the vendor's checks, made from the records in `records/`.

    python -m models.tt_transformers.measure.vendor.table
"""

import json
from pathlib import Path

from models.common import whole_file
from models.common.mesh_names import MESHES, VALIDATED

RECORDS = Path(__file__).parent / "records"
README = Path(__file__).resolve().parents[4] / "README.md"
BEGIN = "<!-- validation table: written by `make validate`, do not edit -->"
END = "<!-- end of validation table -->"

_HEADER = ("model", "mode", "backend", *VALIDATED)


def read_records() -> list[dict]:
    """All committed records, by model, then from the smallest mesh to the largest."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in RECORDS.glob("*.json")]
    return sorted(records, key=lambda record: (record["model"], record["backend"], list(MESHES).index(record["mesh"])))


def markdown(records: list[dict]) -> str:
    """One row for each model and mode: for each mesh the peak of DRAM on a device, in MB, if every case was accepted,
    or what the vendor refused; "-" where the model was not run."""
    cells: dict[tuple, dict[str, str]] = {}
    for record in records:
        layers = "" if record["layers"] == "all" else f", {record['layers']} layers"
        layers += f", {record['data_parallel']} groups" if "data_parallel" in record else ""
        layers += f", {record['context'] // 1024}k tokens" if "context" in record else ""
        for mode in dict.fromkeys(case["mode"] for case in record["cases"]):
            row = cells.setdefault((f"{record['model']}{layers}", mode, record["backend"]), {})
            row[record["mesh"]] = _cell([case for case in record["cases"] if case["mode"] == mode])
    rows = [_HEADER, ("---",) * len(_HEADER)]
    rows += [(*row, *(meshes.get(mesh, "-") for mesh in VALIDATED)) for row, meshes in cells.items()]
    versions = ", ".join(sorted({record["ttnn"] for record in records}))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    meaning = "A number means that every case was accepted; it is the most DRAM of a device, in MB."
    return "\n".join([f"Checked by ttnn {versions}. {meaning}", "", *lines])


def _cell(cases: list[dict]) -> str:
    refused = [f"{case['op']}: {case['message']}" for case in cases if case["outcome"] != "pass"]
    peak = max(case["peak_dram_bytes"] for case in cases)
    return "; ".join(dict.fromkeys(refused)).replace("|", "\\|") or f"{peak / 1e6:.0f}"


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
