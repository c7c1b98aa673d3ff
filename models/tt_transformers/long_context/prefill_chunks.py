"""Which prefill chunk sizes the vendor's checks accept for Phi-3-mini at full width, 2 of its 32 layers.

    TT_BACKEND=mock MESH_DEVICE=N300 python -m models.tt_transformers.long_context.prefill_chunks --output FILE

Every size that MAX_PREFILL_CHUNK_SIZE takes is tried with a prompt of two chunks, up to the model's context, so that both the
first chunk's attention and a later one's are checked. Weights take their place and have no values.
"""

import argparse
import json
import os
from pathlib import Path
from unittest.mock import patch

import models  # noqa: F401
import ttnn

from models.common import backend
from models.common.mesh import open_mesh
from models.tt_transformers.scripts.capacity import BLOCK_SIZE, MODEL, AllocatedWeights, allocate
from models.tt_transformers.tt import model as model_module
from models.tt_transformers.tt.generator import Generator
from models.tt_transformers.tt.load_checkpoints import DummyStateDict
from models.tt_transformers.tt.model_args import ModelArgs
from models.tt_transformers.tt.precision import ModelOptimizations
from models.tt_transformers.tt.prefill_chunks import SIZES, VARIABLE, prefill_chunk_size

LAYERS = 2
MODES = ("performance", "accuracy")
CONTEXT = 131072


def try_chunk(mesh_device, thousands: int, mode: str) -> str:
    """Prefill in chunks of `thousands` * 1024 tokens -> "pass", or the first line of the vendor's refusal."""
    context = min(2 * thousands * 1024, CONTEXT)
    with patch.dict(os.environ, {VARIABLE: str(thousands)}):
        args = ModelArgs(
            mesh_device,
            max_seq_len=context,
            hf_model=MODEL,
            dummy_weights=True,
            num_layers=LAYERS,
            optimizations=getattr(ModelOptimizations, mode)(),
            page_params={"block_size": BLOCK_SIZE, "max_num_blocks": context // BLOCK_SIZE},
        )
    with patch.object(model_module, "Weights", AllocatedWeights), patch.object(ttnn, "zeros", allocate):
        transformer = model_module.Transformer(args, DummyStateDict(args.arch, device="meta"))
    try:
        # All but one token, which a step of decode would take.
        Generator(transformer).prefill([[1] * (context - 1)])
    except (RuntimeError, ValueError) as error:
        return str(error).strip().splitlines()[0]
    finally:
        transformer.deallocate()
    return "pass"


def search() -> dict:
    """The record of the mesh of the environment: each size's answer by mode, and the largest that both modes pass."""
    with open_mesh() as mesh_device:
        answers = {mode: {str(size): try_chunk(mesh_device, size, mode) for size in SIZES} for mode in MODES}
        name = {1: "N150", 2: "N300", 8: "T3K"}[mesh_device.get_num_devices()]
    accepted = [size for size in SIZES if all(answers[mode][str(size)] == "pass" for mode in MODES)]
    return {
        "backend": backend.name(),
        "ttnn": backend.versions()["ttnn"],
        "model": MODEL.split("/")[1],
        "layers": LAYERS,
        "mesh": name,
        "default": prefill_chunk_size(MODEL.split("/")[1], name, paged=True, max_seq_len=1024) // 1024,
        "largest": max(accepted, default=None),
        "answers": answers,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the record, as JSON")
    output = parser.parse_args().output
    os.environ.pop(VARIABLE, None)
    record = search()
    output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"{record['model']} on {record['mesh']}: default {record['default']}k, largest accepted {record['largest']}k")


if __name__ == "__main__":
    main()
