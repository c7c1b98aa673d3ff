"""Runs one user's prompt of a model's whole context on the vendor's mock device, in prefill chunks of every size.

    TT_BACKEND=mock MESH_DEVICE=TG HF_MODEL=meta-llama/Llama-3.3-70B-Instruct \\
        python -m models.tt_transformers.measure.vendor.full_context --output FILE

As `full_width`, but for the cases: chunks of the model's size for the mesh and of every smaller size, so that chunks start
at all positions up to the context's last one.
"""

import os
import tempfile
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import models  # noqa: F401
import ttnn

from models.common import console, mesh
from models.common.vendor import watching as validation
from models.tt_transformers.demo.run import run
from models.tt_transformers.measure.capacity import AllocatedWeights
from models.tt_transformers.measure.vendor import full_width
from models.tt_transformers.measure.vendor.prompts import write_prompts
from models.tt_transformers.tt.checkpoints.location import locate
from models.tt_transformers.tt.config import prefill_chunks
from models.tt_transformers.tt.config.architecture import Architecture, read_config
from models.tt_transformers.tt.config.model_params import Limits


def main():
    parser = full_width.argument_parser(__doc__)
    full_width.write_record(parser, lambda model, given: make_record(model, given.modes))


def make_record(model: str, modes) -> dict:
    """Runs all cases of a model on the mesh of the environment; `README.md` of this folder describes the record."""
    cases, name = [], mesh.mesh_name_from_environment()
    config = read_config(locate(model, dummy_weights=True).directory / "config.json")
    context = Architecture.from_hf_config(config).max_context_len
    with validation.watching(ttnn) as watch, tempfile.TemporaryDirectory() as folder:
        prompts = Path(folder) / "prompts.json"
        write_prompts(prompts, [context - 1])
        chosen = settings(context, prompts)
        for mode, size in product(modes, sizes(model.split("/")[1], config, name)):
            os.environ[prefill_chunks.VARIABLE] = str(size)
            case = {"mode": mode, "users": 1, "prompt_tokens": [context - 1], "prefill_chunk_size": size}
            demo = partial(run, chosen, mode, AllocatedWeights)
            cases.append(validation.run_case(watch, case, partial(validation.outcome_of, watch, demo)))
    facts = {"mesh": name, "model": model.split("/")[1], "layers": full_width.LAYERS, "weights": "no values", "context": context}
    return validation.make_record(watch, facts, cases)


def sizes(model_name: str, config: dict, mesh_name: str) -> list[int]:
    """Chunk sizes, in thousands of tokens, up to the model's own for the mesh, which is the last one."""
    own = Limits.of(model_name, config).prefill_chunk_size.get(mesh_name, prefill_chunks.FALLBACK)
    return [size for size in prefill_chunks.SIZES if size <= own]


def settings(context: int, prompts: Path):
    case = full_width.settings(users=1, paged=True, prompts=prompts, reads_images=False)
    pages = {"block_size": 64, "max_num_blocks": context // 64}
    return replace(case, name="full context", max_seq_len=context, repeat_batches=1, max_generated_tokens=1, page_params=pages)


if __name__ == "__main__":
    console.run(main)
