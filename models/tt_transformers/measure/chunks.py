"""Finds the prefill chunk sizes that the vendor's checks accept for Phi-3-mini at full width, 2 of its 32 layers.

    TT_BACKEND=mock MESH_DEVICE=N300 python -m models.tt_transformers.measure.chunks --output FILE

It tries every size that MAX_PREFILL_CHUNK_SIZE accepts, in both modes and with the smallest KV cache. Each try runs a
prompt of two chunks, or of the model's context if that is shorter, and a decode step. This checks the attention of the
first chunk, of a later chunk and of decode. Weights take memory but have no values.
"""

import argparse
import os
from pathlib import Path

import models  # noqa: F401

from models.common import backend, benchmark_record, console, whole_file
from models.common.mesh import mesh_name_from_environment, open_mesh
from models.tt_transformers.measure.capacity import BLOCK_SIZE, MODEL, AllocatedWeights, allocate
from models.tt_transformers.tt.config.model_params import Limits
from models.tt_transformers.tt.config.precision import DEMO_MODES
from models.tt_transformers.tt.config.prefill_chunks import SIZES, VARIABLE, prefill_chunk_size
from models.tt_transformers.tt.generator import Generator
from models.tt_transformers.tt.model_args import ModelArgs
from models.tt_transformers.tt.runtime.kv_cache import make_kv_caches

LAYERS = 2
# Name -> the settings that a demo takes as --optimizations.
BFP4_CACHE = "performance, KV cache bfp4"
PRECISIONS = {mode: mode for mode in DEMO_MODES} | {BFP4_CACHE: "precision_cfg = {kv_cache: bfp4}"}
CONTEXT = 131072


def try_chunk(mesh_device, thousands: int, optimizations: str, model: str = MODEL) -> str:
    """Prefill in chunks of `thousands` * 1024 tokens and a decode step -> "pass", or the first line of the vendor's refusal."""
    context = min(2 * thousands * 1024, CONTEXT)
    args = ModelArgs(
        mesh_device,
        max_seq_len=context,
        hf_model=model,
        dummy_weights=True,
        num_layers=LAYERS,
        optimizations=optimizations,
        page_params={"block_size": BLOCK_SIZE, "max_num_blocks": context // BLOCK_SIZE},
    )
    args.prefill_chunk_size = thousands * 1024
    with Generator.build(args, AllocatedWeights(args), make_kv_caches(args, allocate)) as generator:
        try:
            generator.prefill([[1] * (context - 1)])
            generator.decode([1])
        except (RuntimeError, ValueError) as error:
            return str(error).strip().splitlines()[0]
    return "pass"


def search() -> dict:
    """The record of the environment's mesh: each size's answer by precision, and the largest that passes in all."""
    with open_mesh() as mesh_device:
        answers = {
            name: {str(size): try_chunk(mesh_device, size, optimizations) for size in SIZES}
            for name, optimizations in PRECISIONS.items()
        }
    name = mesh_name_from_environment()
    accepted = [size for size in SIZES if all(given[str(size)] == "pass" for given in answers.values())]
    model = MODEL.split("/")[1]
    return {
        **benchmark_record.origin(),
        "model": model,
        "layers": LAYERS,
        "mesh": name,
        "default": prefill_chunk_size(model, Limits.of(model), name, paged=True, max_seq_len=1024) // 1024,
        "largest": max(accepted, default=None),
        "answers": answers,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the record, as JSON")
    output = parser.parse_args().output
    if backend.name() != "mock":
        parser.error(f"the vendor's mock device is what accepts or refuses: set TT_BACKEND=mock (it is {backend.name()})")
    try:
        whole_file.check_writable(output, "--output")
    except ValueError as error:
        parser.error(str(error))
    os.environ.pop(VARIABLE, None)
    record = search()
    largest = "none is accepted" if record["largest"] is None else f"largest accepted {record['largest']}k"
    print(f"{record['model']} on {record['mesh']}: default {record['default']}k, {largest}")
    with whole_file.printed_if_not_written(record, "--output"):
        whole_file.write_json(output, record, indent=2)


if __name__ == "__main__":
    console.run(main)
