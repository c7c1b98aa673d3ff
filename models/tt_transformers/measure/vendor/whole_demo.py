"""Runs the demo with the bundled checkpoint in lockstep, and records the cases on which emulator and vendor agreed.

    TT_BACKEND=lockstep MESH_DEVICE=T3K python -m models.tt_transformers.measure.vendor.whole_demo --output FILE

The first disagreement ends it with a LockstepError.
"""

import argparse
import os
import tempfile
from functools import partial
from pathlib import Path

import models  # noqa: F401
import pytest
import ttnn

from models.common import backend, console, mesh, whole_file
from models.common.mesh_names import is_line
from models.common.vendor import watching as validation
from models.tt_transformers.measure.vendor.prompts import write_prompts
from models.tt_transformers.tt.checkpoints.location import BUNDLED

UNPAGED = "--paged_attention=false"
# Mode, case and the demo's options. A mesh that has paged caches only runs without `UNPAGED`.
RUNS = (
    ("performance", "batch-1", ()),
    ("performance", "batch-32", (UNPAGED,)),
    ("accuracy", "batch-1", (UNPAGED,)),
    ("accuracy", "batch-32", ()),
    # A prompt of two chunks, of which the second attends to pages; a text that crosses the LongRoPE switch in decode.
    ("performance", "batch-1", ("--input_prompts={prompts}", "--repeat_batches=2")),
)
PROMPT_TOKENS = (1500, 510)
CHUNK_THOUSANDS = "1"
GENERATED_TOKENS = 4
# The ops that run must not depend on the values, whose last bits differ between computers.
_FIXED = ("--stop_at_eos=false",)


class DemoFailed(RuntimeError):
    """The demo's pytest run failed; its output says why."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the record, as JSON")
    output = parser.parse_args().output
    if backend.name() != "lockstep":
        parser.error(f"set TT_BACKEND=lockstep (it is {backend.name()})")
    try:
        whole_file.make_folder(output.parent, "--output")
        whole_file.check_writable(output, "--output")
    except ValueError as error:
        parser.error(str(error))
    os.environ["MAX_PREFILL_CHUNK_SIZE"] = CHUNK_THOUSANDS
    cases, mesh_name = [], mesh.mesh_name_from_environment()
    with validation.watching(ttnn.vendor) as watch, tempfile.TemporaryDirectory() as folder:
        prompts = Path(folder) / "prompts.json"
        write_prompts(prompts, PROMPT_TOKENS)
        for mode, name, options in RUNS:
            options = [option for option in options if option != UNPAGED or is_line(mesh_name)]
            case = {"mode": mode, "case": name, "options": options, "generated_tokens": GENERATED_TOKENS}
            given = [option.format(prompts=prompts) for option in options]
            cases.append(validation.run_case(watch, case, partial(run_demo, mode, name, given)))
    facts = {"mesh": mesh_name, "model": BUNDLED.name, "layers": "all", "weights": "trained"}
    validation.write_json(output, validation.make_record(watch, facts, cases))


def run_demo(mode: str, name: str, options) -> dict:
    demo = Path(__file__).resolve().parents[2] / "demo/simple_text_demo.py"
    status = pytest.main(
        [str(demo), "-k", f"{mode} and {name}", f"--max_generated_tokens={GENERATED_TOKENS}", *_FIXED, *options]
    )
    if status != pytest.ExitCode.OK:
        raise DemoFailed(f"{mode} and {name} {' '.join(options)}: {status!r}")
    return {"outcome": "pass"}


if __name__ == "__main__":
    console.run(main)
