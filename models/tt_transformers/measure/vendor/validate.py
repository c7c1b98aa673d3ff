"""Validates the models on the vendor's mock device and rewrites the records and the README's table.

    python -m models.tt_transformers.measure.vendor.validate

Prints the ops whose answers differ from the committed records, for example after a change of the ttnn version.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from models.common import console
from models.common.mesh_names import LINES
from models.common.vendor import watching as validation
from models.tt_transformers.measure.vendor import table

# Program of this package -> the backend that it runs on.
PROGRAMS = {"full_width": "mock", "whole_demo": "lockstep"}


def run(program: str, mesh: str, output: Path) -> None:
    """Runs one program on one mesh, in a process of its own; CalledProcessError if it fails."""
    environment = {**os.environ, "TT_BACKEND": PROGRAMS[program], "MESH_DEVICE": mesh}
    for variable in ("FAKE_DEVICE", "HF_MODEL", "LLAMA_DIR", "MAX_PREFILL_CHUNK_SIZE", "PAD_MLP_CORES"):
        environment.pop(variable, None)
    command = [sys.executable, "-m", f"{__package__}.{program}", "--output", str(output.resolve())]
    subprocess.run(command, env=environment, cwd=table.README.parent, check=True)


def committed(program: str, mesh: str) -> Path:
    """Where the record of a program on a mesh is kept."""
    return table.RECORDS / f"{program}-{mesh}.json"


def main() -> int:
    refused = 0
    for program in PROGRAMS:
        for mesh in LINES:
            path = committed(program, mesh)
            before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
            run(program, mesh, path)
            after = json.loads(path.read_text(encoding="utf-8"))
            if before is not None:
                for line in validation.changes(before, after):
                    print(f"{program} on {mesh}: {line}")
            refused += sum(case["outcome"] != "pass" for case in after["cases"])
    table.main()
    print(f"{refused} case(s) refused; records in {table.RECORDS}, table in {table.README}")
    return 1 if refused else 0


if __name__ == "__main__":
    console.run(main)
