"""The time and memory that it takes to convert a model's weights, on the emulator.

    python -m models.tt_transformers.measure.conversion --model meta-llama/Llama-3.1-8B --files

Weights are random. They are made tensor by tensor or, with `--files`, read from a sharded checkpoint that is written to
a temporary folder first (TMPDIR chooses its disk). The memory is the highest resident memory of this process, with
Python and torch. Checkpoints are read and not mapped, so no page of their files counts. The emulator holds 2 bytes an
element, in block formats too.
"""

import argparse
import json
import resource
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path

import models  # noqa: F401
import torch
from safetensors.torch import save_file

from models.common import backend, console
from models.common.mesh import open_mesh
from models.common.mesh_names import MESHES
from models.tt_transformers.tt.checkpoints.cache import WeightCache
from models.tt_transformers.tt.checkpoints.safetensors_files import INDEX
from models.tt_transformers.tt.checkpoints.state_dict import StateDict, hugging_face_shapes, shapes, sources
from models.tt_transformers.tt.checkpoints.weights import Weights
from models.tt_transformers.tt.config.architecture import Architecture
from models.tt_transformers.tt.generator import Generator
from models.tt_transformers.tt.model_args import ModelArgs

MODEL = "meta-llama/Llama-3.1-8B"
ELEMENT_BYTES = 2
SHARD_BYTES = 2 << 30  # a whole shard is in memory while it is written


@dataclass(frozen=True)
class Conversion:
    """`converted` and `peak` are bytes."""

    converted: int
    peak: int
    seconds: float

    def __str__(self):
        return (
            f"{self.converted / 1e9:.2f} GB of weights in {self.seconds:.0f} s, peak memory {self.peak / 1e9:.2f} GB: "
            f"{self.peak / self.converted:.2f} times as much"
        )


def measure(model: str = MODEL, mesh: str = "N150", num_layers: int | None = None, files: bool = False) -> Conversion:
    """Converts a model in performance mode. It should be the first thing that a process does, or the peak is another's."""
    with ExitStack() as stack:
        mesh_device = stack.enter_context(open_mesh(mesh))
        args = ModelArgs(mesh_device, hf_model=model, dummy_weights=True, num_layers=num_layers, max_seq_len=128)
        if files:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            write_checkpoint(directory, args.arch)
        state_dict = StateDict(directory, args.arch) if files else args.load_state_dict()
        start = time.perf_counter()
        stack.enter_context(Generator.build(args, Weights(mesh_device, args.placement, state_dict, WeightCache(None, {}))))
        return Conversion(
            converted=ELEMENT_BYTES * sum(map(prod, shapes(args.arch).values())),
            peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            seconds=time.perf_counter() - start,
        )


def write_checkpoint(directory: Path, arch: Architecture) -> None:
    """Random weights in bf16, in shards like Hugging Face's: in the order of the model, sorted by name within a shard."""
    all_shapes = hugging_face_shapes(sources(arch), arch)
    shards, room = [], 0
    for name, shape in all_shapes.items():
        size = ELEMENT_BYTES * prod(shape)
        if size > room:
            shards.append([])
            room = SHARD_BYTES
        shards[-1].append(name)
        room -= size
    weight_map = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weights = {name: torch.empty(all_shapes[name], dtype=torch.bfloat16).normal_(0.0, 0.02) for name in names}
        save_file(weights, directory / file)
        weight_map |= dict.fromkeys(names, file)
    (directory / INDEX).write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL, help="org/name or directory; only its config.json is read")
    parser.add_argument("--mesh", choices=MESHES, default="N150")
    parser.add_argument("--num_layers", type=int, metavar="N", help="convert the first layers only")
    parser.add_argument("--files", action="store_true", help="write a random checkpoint first, and read the weights from it")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    given = parser.parse_args()
    if backend.name() != "emulator":
        parser.error(f"memory is measured on the emulator; TT_BACKEND is {backend.name()}")
    try:
        result = measure(given.model, given.mesh, given.num_layers, given.files)
    except (ValueError, OSError, RuntimeError) as error:
        parser.exit(1, f"{error}\n")
    print(json.dumps(asdict(result)) if given.json else result)


if __name__ == "__main__":
    console.run(main)
