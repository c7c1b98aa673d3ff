"""Runs the demo at a model's full width on the vendor's mock device, and records what the vendor accepted.

    TT_BACKEND=mock MESH_DEVICE=T3K HF_MODEL=Qwen/Qwen3-32B \\
        python -m models.tt_transformers.measure.vendor.full_width --output FILE

2 of the layers, with weights that take memory but have no values. Each case is one run of the demo, with prompts of 128
and of 2048 tokens.
"""

import argparse
import os
import tempfile
from functools import partial
from itertools import product
from pathlib import Path

import models  # noqa: F401
import ttnn

from models.common import backend, console, mesh, whole_file
from models.common.mesh_names import is_line
from models.common.vendor import watching as validation
from models.tt_transformers.demo.case import Case
from models.tt_transformers.demo.run import run
from models.tt_transformers.measure.capacity import AllocatedWeights
from models.tt_transformers.measure.vendor.prompts import write_prompts
from models.tt_transformers.tt.config.precision import DEMO_MODES

LAYERS = 2
PROMPT_TOKENS = (128, 2048)
MAX_SEQ_LEN = 2560


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the record, as JSON")
    parser.add_argument("--modes", nargs="+", choices=DEMO_MODES, default=DEMO_MODES, help="the precision modes to run")
    arguments = parser.parse_args()
    output, model = arguments.output, os.environ.get("HF_MODEL")
    if backend.name() != "mock":
        parser.error(f"the vendor's mock device is what validates: set TT_BACKEND=mock (it is {backend.name()})")
    if model is None:
        parser.error("set HF_MODEL to the model, as org/name")
    try:
        whole_file.make_folder(output.parent, "--output")
        whole_file.check_writable(output, "--output")
    except ValueError as error:
        parser.error(str(error))
    validation.write_json(output, make_record(model, arguments.modes))


def make_record(model: str, modes) -> dict:
    """Runs all cases of a model on the mesh of the environment; `README.md` of this folder describes the record."""
    cases, name = [], mesh.mesh_name_from_environment()
    with validation.watching(ttnn) as watch, tempfile.TemporaryDirectory() as folder:
        prompts = prompt_files(Path(folder))
        for mode, users, paged in product(modes, (1, 32), paging(name)):
            case = {"mode": mode, "users": users, "paged": paged, "prompt_tokens": list(PROMPT_TOKENS)}
            demo = partial(run, settings(users, paged, prompts[users]), mode, AllocatedWeights)
            cases.append(validation.run_case(watch, case, partial(validation.outcome_of, watch, demo)))
    facts = {"mesh": name, "model": model.split("/")[1], "layers": LAYERS, "weights": "no values"}
    return validation.make_record(watch, facts, cases)


def paging(mesh_name: str) -> tuple[bool, ...]:
    """The kinds of KV caches that a mesh has: paged ones and, on a line, others."""
    return (True, False) if is_line(mesh_name) else (True,)


def settings(users: int, paged: bool, prompts: Path) -> Case:
    return Case(
        name=f"full width, batch-{users}, {'paged' if paged else 'unpaged'}",
        input_prompts=prompts,
        max_seq_len=MAX_SEQ_LEN,
        batch_size=users,
        max_generated_tokens=2,
        # One user runs the two prompts one after the other; 32 users have both in one batch.
        repeat_batches=2 if users == 1 else 1,
        paged_attention=paged,
        page_params={"block_size": 32, "max_num_blocks": 1024},
        sampling_params={"temperature": 0},
        instruct=False,
        num_layers=LAYERS,
        dummy_weights=True,
    )


def prompt_files(folder: Path) -> dict[int, Path]:
    """Prompt files for 1 and 32 users. Of 32 users, all but the two named in `PROMPT_TOKENS` have short prompts."""
    short = (4,) * (32 - len(PROMPT_TOKENS))
    files = {1: folder / "1.json", 32: folder / "32.json"}
    write_prompts(files[1], PROMPT_TOKENS)
    write_prompts(files[32], PROMPT_TOKENS + short)
    return files


if __name__ == "__main__":
    console.run(main)
