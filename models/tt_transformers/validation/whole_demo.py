"""Runs the demo with the bundled checkpoint in lockstep, and records on what emulator and vendor agreed.

    TT_BACKEND=lockstep MESH_DEVICE=T3K python -m models.tt_transformers.validation.whole_demo --output FILE

The first disagreement ends it with a LockstepError.
"""

import argparse
from pathlib import Path

import models  # noqa: F401
import pytest
import ttnn

from models.common import backend, mesh, validation
from models.tt_transformers.demo import simple_text_demo
from models.tt_transformers.tt.model_location import BUNDLED

# Mode, case and the demo's options.
RUNS = (
    ("performance", "batch-1", ()),
    ("accuracy", "batch-32", ("--paged_attention=false",)),
)
GENERATED_TOKENS = 4


class DemoFailed(RuntimeError):
    """The demo's pytest run failed; its output says why."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the record, as JSON")
    output = parser.parse_args().output
    if backend.name() != "lockstep":
        parser.error(f"set TT_BACKEND=lockstep (it is {backend.name()})")
    cases = []
    with validation.watching(ttnn.vendor) as watch:
        for mode, name, options in RUNS:
            case = {"mode": mode, "case": name, "options": list(options), "generated_tokens": GENERATED_TOKENS}
            cases.append(validation.run_case(watch, case, lambda: run_demo(mode, name, options)))
    facts = {"mesh": mesh.mesh_name_from_environment(), "model": BUNDLED.name, "layers": "all", "weights": "trained"}
    validation.write_json(output, validation.make_record(watch, facts, cases))


def run_demo(mode: str, name: str, options) -> dict:
    demo = Path(simple_text_demo.__file__)
    status = pytest.main(
        [str(demo), "-k", f"{mode} and {name}", f"--max_generated_tokens={GENERATED_TOKENS}", *options]
    )
    if status != pytest.ExitCode.OK:
        raise DemoFailed(f"{mode} and {name} {' '.join(options)}: {status!r}")
    return {"outcome": "pass"}


if __name__ == "__main__":
    main()
