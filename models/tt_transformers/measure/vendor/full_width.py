"""Runs the demo at a model's full width on the vendor's mock device, and records what the vendor accepted.

    TT_BACKEND=mock MESH_DEVICE=T3K HF_MODEL=Qwen/Qwen3-32B \\
        python -m models.tt_transformers.measure.vendor.full_width --output FILE

2 of the layers, with weights that take memory but have no values. Each case is one run of the demo, with prompts of 128
and of 2048 tokens. A model that reads images has a layer of text, one that attends to images, and two layers in each part
of its vision model; the long prompts have images, of one tile and of four.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import models  # noqa: F401
import ttnn

from models.common import backend, console, mesh, whole_file
from models.common.mesh_names import is_line
from models.common.vendor import watching as validation
from models.tt_transformers.demo.case import SAMPLE_PROMPTS, Case
from models.tt_transformers.demo.run import run
from models.tt_transformers.measure.capacity import AllocatedWeights
from models.tt_transformers.measure.vendor.prompts import write_prompts
from models.tt_transformers.tt.checkpoints.location import locate
from models.tt_transformers.tt.config.architecture import Architecture, read_config
from models.tt_transformers.tt.config.precision import DEMO_MODES

LAYERS = 2
PROMPT_TOKENS = (128, 2048)
MAX_SEQ_LEN = 2560
IMAGES = [SAMPLE_PROMPTS / "images" / name for name in ("shapes.png", "clock_9.png")]


def main():
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--data_parallel", type=int, default=1, metavar="N", help="cut the mesh into N groups, each with a model of its own"
    )
    write_record(parser, lambda model, given: make_record(model, given.modes, given.data_parallel))


def argument_parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the record, as JSON")
    parser.add_argument("--modes", nargs="+", choices=DEMO_MODES, default=DEMO_MODES, help="the precision modes to run")
    return parser


def write_record(parser: argparse.ArgumentParser, make: Callable[[str, argparse.Namespace], dict]) -> None:
    """Writes what `make` gives for the environment's model and the arguments, if backend, model and file are right."""
    given, model = parser.parse_args(), os.environ.get("HF_MODEL")
    if backend.name() != "mock":
        parser.error(f"the vendor's mock device is what validates: set TT_BACKEND=mock (it is {backend.name()})")
    if model is None:
        parser.error("set HF_MODEL to the model, as org/name")
    try:
        whole_file.make_folder(given.output.parent, "--output")
        whole_file.check_writable(given.output, "--output")
    except ValueError as error:
        parser.error(str(error))
    validation.write_json(given.output, make(model, given))


def make_record(model: str, modes, data_parallel: int = 1) -> dict:
    """Runs all cases of a model on the mesh of the environment; `README.md` of this folder describes the record."""
    cases, name = [], mesh.mesh_name_from_environment()
    with validation.watching(ttnn) as watch, tempfile.TemporaryDirectory() as parent:
        folder = Path(parent)
        reads_images = shortened_vision_model(model, folder)
        prompts = prompt_files(folder, reads_images)
        groups = {} if data_parallel == 1 else {"data_parallel": data_parallel}
        for mode, users, paged in product(modes, (1, 32), paging(name)):
            case = {"mode": mode, "users": users, "paged": paged, "prompt_tokens": list(PROMPT_TOKENS)}
            chosen = settings(users, paged, prompts[users], reads_images).with_options(groups)
            demo = partial(run, chosen, mode, AllocatedWeights)
            cases.append(validation.run_case(watch, case, partial(validation.outcome_of, watch, demo)))
    facts = {"mesh": name, "model": model.split("/")[1], "layers": LAYERS, "weights": "no values", **groups}
    return validation.make_record(watch, facts, cases)


def paging(mesh_name: str) -> tuple[bool, ...]:
    """The kinds of KV caches that a mesh has: paged ones and, on a line, others."""
    return (True, False) if is_line(mesh_name) else (True,)


def shortened_vision_model(model: str, folder: Path) -> bool:
    """Whether a model reads images. If so, the environment's HF_MODEL is changed to a config in `folder`, of which the first
    layers are of every kind."""
    config = read_config(locate(model, dummy_weights=True).directory / "config.json")
    if Architecture.from_hf_config(config).vision is None:
        return False
    config["text_config"]["cross_attention_layers"] = [1]
    width = config["vision_config"]["hidden_size"]
    config["vision_config"] |= {
        "num_hidden_layers": 2, "num_global_layers": 2, "intermediate_layers_indices": [0, 1], "vision_output_dim": 3 * width
    }  # fmt: skip
    directory = folder / model.split("/")[1]
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    os.environ["HF_MODEL"] = str(directory)
    return True


def settings(users: int, paged: bool, prompts: Path, reads_images: bool) -> Case:
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
        max_images=len(IMAGES) if reads_images else 0,
        dummy_weights=True,
    )


def prompt_files(folder: Path, with_images: bool) -> dict[int, Path]:
    """Prompt files for 1 and 32 users. Of 32 users, all but the two named in `PROMPT_TOKENS` have short prompts, without
    images."""
    short = (4,) * (32 - len(PROMPT_TOKENS))
    files = {1: folder / "1.json", 32: folder / "32.json"}
    images = [list(map(str, IMAGES)) for _ in PROMPT_TOKENS] if with_images else []
    write_prompts(files[1], PROMPT_TOKENS, images)
    write_prompts(files[32], PROMPT_TOKENS + short, images)
    return files


if __name__ == "__main__":
    console.run(main)
