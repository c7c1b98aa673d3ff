"""Validates the models on the vendor's mock device and rewrites the records and the README's table.

    python -m models.tt_transformers.measure.vendor.validate [--models NAME ...] [--mesh NAME ...]

Prints the ops whose answers differ from the committed records, for example after a change of the ttnn version. With
`--models`, only the full widths and contexts of these models are run; with `--mesh`, only what runs on these meshes.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from models.common import console
from models.common.mesh_names import VALIDATED, is_line
from models.common.vendor import watching as validation
from models.tt_transformers.measure import compatible
from models.tt_transformers.measure.vendor import table
from models.tt_transformers.tt.checkpoints.location import locate
from models.tt_transformers.tt.config.architecture import Architecture, read_config

# Program of this package -> the backend that it runs on.
PROGRAMS = {"full_width": "mock", "full_context": "mock", "whole_demo": "lockstep"}
PHI3 = "microsoft/Phi-3-mini-128k-instruct"
# Models that are not in the vendor's list of verified ones, but run at full width too.
BESIDES = (
    "microsoft/Phi-3.5-mini-instruct", "microsoft/Phi-4-mini-instruct", "microsoft/phi-4", "Qwen/Qwen3-8B",
    "Qwen/Qwen2.5-0.5B",
)  # fmt: skip
# Data parallel: model, mesh and number of groups.
IN_GROUPS = (("meta-llama/Llama-3.1-8B", "TG", 4), ("Qwen/Qwen3-32B", "TG", 4))
# A prompt of the whole context: model and mesh.
FULL_CONTEXT = (("meta-llama/Llama-3.3-70B-Instruct", "TG"),)


def models() -> list[str]:
    """The models that run at full width: the text models of the verified list, and `BESIDES`."""
    verified = [name for name, entry in compatible.read_models().items() if entry["list"] == "verified" and "config" in entry]
    return [*verified, *BESIDES]


def meshes(model: str) -> list[str]:
    """The meshes that the whole model fits, by the count of its DRAM; of a model that reads images those that take them."""
    config = read_config(locate(model, dummy_weights=True).directory / "config.json")
    reads_images = Architecture.from_hf_config(config).vision is not None
    found = compatible.count(model, config)
    return [
        mesh for mesh, context in found.items()
        if isinstance(context, int) and context and (is_line(mesh) or not reads_images)
    ]  # fmt: skip


def run(program: str, mesh: str, output: Path, model: str | None = None, groups: int = 1) -> None:
    """Runs one program on one mesh, in a process of its own; CalledProcessError if it fails."""
    environment = {**os.environ, "TT_BACKEND": PROGRAMS[program], "MESH_DEVICE": mesh}
    for variable in ("FAKE_DEVICE", "HF_MODEL", "LLAMA_DIR", "MAX_PREFILL_CHUNK_SIZE", "PAD_MLP_CORES"):
        environment.pop(variable, None)
    if model is not None:
        environment["HF_MODEL"] = model
    command = [sys.executable, "-m", f"{__package__}.{program}", "--output", str(output.resolve())]
    if groups > 1:
        command += ["--data_parallel", str(groups)]
    subprocess.run(command, env=environment, cwd=table.README.parent, check=True)


def committed(program: str, mesh: str, model: str | None = None, groups: int = 1) -> Path:
    """Where the record of a program on a mesh is kept, for `model` or for the bundled one, in so many groups of devices."""
    name = ([] if model is None else [model.split("/")[1]]) + ([] if groups == 1 else [f"DP-{groups}"])
    return table.RECORDS / f"{'-'.join([program, *name, mesh])}.json"


def runs(names: list[str] | None, chosen: Sequence[str]) -> Iterator[tuple]:
    """(program, mesh, model, with data parallel the number of groups) of every run on the meshes `chosen`, or of the full
    widths and contexts of the models `names`."""
    for model in models():
        for mesh in meshes(model) if model in (names or [model]) else ():
            if mesh in chosen:
                yield "full_width", mesh, model
    for model, mesh, groups in IN_GROUPS:
        if model in (names or [model]) and mesh in chosen:
            yield "full_width", mesh, model, groups
    for model, mesh in FULL_CONTEXT:
        if model in (names or [model]) and mesh in chosen:
            yield "full_context", mesh, model
    for mesh in () if names else chosen:
        yield "whole_demo", mesh, None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=[*models(), *dict(FULL_CONTEXT)], metavar="NAME", help="only these: org/name")
    parser.add_argument("--mesh", nargs="+", choices=VALIDATED, default=VALIDATED, help="only these meshes")
    given, refused = parser.parse_args(), 0
    for program, mesh, *model in runs(given.models, given.mesh):
        path = committed(program, mesh, *model)
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        run(program, mesh, path, *model)
        after = json.loads(path.read_text(encoding="utf-8"))
        if before is not None:
            for line in validation.changes(before, after):
                print(f"{path.stem}: {line}")
        refused += sum(case["outcome"] != "pass" for case in after["cases"])
    table.main()
    print(f"{refused} case(s) refused; records in {table.RECORDS}, table in {table.README}")
    return 1 if refused else 0


if __name__ == "__main__":
    console.run(main)
