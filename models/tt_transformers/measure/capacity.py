"""The DRAM that a model needs for a context, and the largest context that fits, found without values or a card.

    python -m models.tt_transformers.measure.capacity --mesh N300 --context 131072 --largest

On the emulator the whole model runs shape-only: a prefill of all but one token of the context, and one decode step.
Chunks have the model's default size or MAX_PREFILL_CHUNK_SIZE. With TT_BACKEND=mock the vendor's allocator lays out
weights and caches instead. It does not report peaks, so activations are left out.
"""

import argparse
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import models  # noqa: F401
import torch
import ttnn

from models.common import backend, benchmark_record, console, whole_file
from models.common.mesh import dram_capacity, open_mesh, without_values
from models.common.mesh_names import MESHES
from models.tt_transformers.tt.checkpoints.state_dict import DummyStateDict
from models.tt_transformers.tt.checkpoints.weights import Weights
from models.tt_transformers.tt.config.precision import MODES
from models.tt_transformers.tt.config.program_configs import TILE
from models.tt_transformers.tt.generator import Generator
from models.tt_transformers.tt.model_args import ModelArgs
from models.tt_transformers.tt.placement import Placement
from models.tt_transformers.tt.runtime.kv_cache import make_kv_caches
from models.tt_transformers.tt.runtime.page_table import BATCH_SIZES
from models.tt_transformers.tt.vision.images import UserImages

MODEL = "microsoft/Phi-3-mini-128k-instruct"
BLOCK_SIZE = 64
# The largest context is searched in steps of this number of tokens.
STEP = 1024
DRAM = ttnn.BufferType.DRAM


@dataclass(frozen=True)
class Usage:
    """DRAM of one device, in bytes, for `users` users with `context` tokens each.

    weights: with the embedding and RoPE tables. activations: the peak beyond weights and caches; None if the backend
    does not report it. capacity: all banks together, without the trace region.
    """

    context: int
    chunk: int
    weights: int
    kv_cache: int
    activations: int | None
    capacity: int
    users: int = 1

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + (self.activations or 0)

    @property
    def fits(self) -> bool:
        return self.total <= self.capacity


class AllocatedWeights(Weights):
    """Weights that take memory on the devices but have no values."""

    def __init__(self, args):
        super().__init__(args.mesh_device, args.placement, DummyStateDict(args.arch, device="meta"), cache=None)

    def load(self) -> None:
        """Leaves the tensors as they are."""


def allocate(shape, *, dtype, layout, device, memory_config):
    """Used in place of `ttnn.zeros`: takes memory without writing values."""
    return ttnn.allocate_tensor_on_device(ttnn.Shape(list(shape)), dtype, layout, device, memory_config)


def allocated_bytes(mesh_device) -> int:
    """Bytes that are allocated on each device."""
    view = ttnn.get_memory_view(mesh_device, DRAM)
    return view.total_bytes_allocated_per_bank * view.num_banks


def measure(
    mesh_name: str, context: int, *, users: int = 1, chunks: int | None = None, model: str = MODEL, **precision
) -> Usage:
    """Lays the model out for `users` users of `context` tokens each, and runs a prompt of all but one token, or of `chunks`
    chunks, of one user, then a decode step of all.

    `precision`: `optimizations` and its related arguments of `ModelArgs`, and `max_images`, all of which the prompt has. On the emulator the model runs even if it
    does not fit, so that the result shows how much memory is missing. On the mock device the allocator raises
    RuntimeError.
    """
    on_emulator = backend.name() == "emulator"
    with ExitStack() as stack:
        if on_emulator:
            stack.enter_context(without_values())
        mesh_device = stack.enter_context(open_mesh(mesh_name))
        capacity, before = dram_capacity(mesh_device), allocated_bytes(mesh_device)
        if on_emulator:
            mesh_device.allocator.capacity[DRAM] = 1 << 60
        pages = Placement.of(mesh_device).users(users) * -(-context // BLOCK_SIZE)
        args = ModelArgs(
            mesh_device,
            max_batch_size=users,
            max_seq_len=context,
            hf_model=model,
            dummy_weights=True,
            page_params={"block_size": BLOCK_SIZE, "max_num_blocks": pages},
            **precision,
        )
        kv_caches = make_kv_caches(args, allocate)
        with_caches = allocated_bytes(mesh_device)
        with Generator.build(args, AllocatedWeights(args), kv_caches) as generator:
            laid_out = allocated_bytes(mesh_device)
            prompt = context - 1 if chunks is None else min(context - 1, chunks * args.prefill_chunk_size)
            activations = _run(generator, prompt) if on_emulator else None
        return Usage(
            context, args.prefill_chunk_size, laid_out - with_caches, with_caches - before, activations, capacity, users
        )


def _run(generator: Generator, prompt: int) -> int:
    """Prefill of `prompt` tokens and a decode step -> the peak of allocated bytes, less the bytes allocated before."""
    allocator = generator.args.mesh_device.allocator
    start = allocator.peak[DRAM] = allocator.used[DRAM]
    images = _images(generator.args)
    tokens = [] if images is None else [generator.args.arch.vision.image_token] * len(images)
    generator.prefill([tokens + [0] * (prompt - len(tokens))], [images])
    generator.decode([0])
    return (allocator.peak[DRAM] - start) * allocator.banks[DRAM]


def _images(args) -> UserImages | None:
    """As many images as a user may have, with content in all tiles; None for a model of text."""
    if not args.max_images:
        return None
    vision = args.arch.vision
    pixels = torch.zeros(args.max_images, vision.max_tiles, vision.channels, vision.image_size, vision.image_size)
    ratio = vision.tile_counts.index(vision.max_tiles) + 1
    return UserImages(pixels, (ratio,) * args.max_images, (vision.max_tiles,) * args.max_images)


def largest(mesh_name: str, limit: int, **options) -> Usage | None:
    """The largest context up to `limit`, in steps of 1024 tokens, that fits; None if not even the smallest does.

    Memory grows with the context, so it is found by bisection. Activations reach their peak within two chunks, so only
    two chunks of the prompt run.
    """
    best, low, high = None, 0, limit // STEP
    while low < high:
        middle = (low + high + 1) // 2
        found = measure(mesh_name, middle * STEP, chunks=2, **options)
        if found.fits:
            best, low = found, middle
        else:
            high = middle - 1
    return best


def describe(usage: Usage) -> str:
    activations = "" if usage.activations is None else f" + activations {_gb(usage.activations)}"
    verdict = "fits" if usage.fits else "does not fit"
    of_users = f"{usage.users} users, " if usage.users > 1 else ""
    return (
        f"{of_users}context {usage.context}, chunks of {usage.chunk}: weights {_gb(usage.weights)} + KV cache {_gb(usage.kv_cache)}"
        f"{activations} = {_gb(usage.total)} of {_gb(usage.capacity)} GB a device: {verdict}"
    )


def _gb(count: int) -> str:
    return f"{count / 1e9:.3f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mesh", choices=MESHES, default="N150")
    parser.add_argument("--context", type=int, default=131072, metavar="N", help="tokens, prompt and generated together")
    parser.add_argument("--users", type=int, choices=BATCH_SIZES, default=1, help="users with such a context each")
    parser.add_argument("--mode", choices=MODES, default="performance")
    parser.add_argument("--optimizations", metavar="TEXT", help="changes to the mode, as the demo takes them")
    parser.add_argument("--max_images", type=int, default=0, metavar="N", help="images of the user, for a model that reads images")
    parser.add_argument("--model", default=MODEL, help="org/name or directory; only its config.json is read")
    parser.add_argument("--largest", action="store_true", help="also find the largest context that fits, up to N")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the figures as JSON")
    given = parser.parse_args()
    options = dict(model=given.model, users=given.users, optimizations=given.optimizations, optimizations_base=given.mode)
    options = dict(model=given.model, optimizations=given.optimizations, optimizations_base=given.mode)
    if given.max_images:
        options["max_images"] = given.max_images
    if given.largest and backend.name() != "emulator":
        parser.error(f"--largest is found on the emulator, which counts activations; TT_BACKEND is {backend.name()}")
    if given.largest and given.context < STEP:
        parser.error(f"--largest is found in steps of {STEP} tokens, up to --context {given.context}, which is less than one")
    try:
        if given.output is not None:
            whole_file.check_writable(given.output, "--output")
        record = run(given.mesh, given.context, given.largest, options)
    except (ValueError, OSError, RuntimeError) as error:
        parser.exit(1, f"{error}\n")
    if given.output is not None:
        with whole_file.printed_if_not_written(record, "--output"):
            whole_file.write_json(given.output, record, indent=2)


def run(mesh_name: str, context: int, find_largest: bool, options: dict) -> dict:
    """Prints the figures and returns them as a record."""
    print(f"{options['model']} on {mesh_name}, {options['optimizations_base']} {options['optimizations'] or ''}".rstrip())
    start = time.perf_counter()
    usage = measure(mesh_name, context, **options)
    seconds = round(time.perf_counter() - start, 1)
    print(f"{describe(usage)} ({seconds} s)")
    record = {**benchmark_record.origin(), "mesh": mesh_name, **options, "seconds": seconds, **asdict(usage)}
    if find_largest:
        best = usage if usage.fits else largest(mesh_name, context, **options)
        record["largest"] = None if best is None else asdict(best)
        print("largest: " + (f"not even {STEP} tokens fit" if best is None else describe(best)))
    return record


if __name__ == "__main__":
    console.run(main)
