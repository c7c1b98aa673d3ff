"""The emulator's cost of many devices: the same model and users on a mesh and on one device, in turn.

    python -m models.tt_transformers.measure.devices [--mesh TG] [--rounds 7] [--output FILE]

Llama-3.1-8B's width, 2 layers, random weights: 32 users, of which one joins with a prompt of 2048 tokens, then decode
steps of all. Both meshes are open in one process and run in turn in every round, so other work on the machine affects
both. The figures are the medians of the rounds' ratios, the mesh's time divided by the one device's. CPU time counts all
threads. Other work on the machine changes it less than elapsed time.
"""

import argparse
import os
import statistics
import time
from contextlib import ExitStack
from pathlib import Path

import torch

import models  # noqa: F401
from models.common import benchmark_record, console, whole_file
from models.common.benchmark_record import measurement
from models.common.mesh import open_mesh
from models.common.mesh_names import MESHES
from models.tt_transformers.tt.generator import Generator
from models.tt_transformers.tt.model_args import ModelArgs

MODEL = "meta-llama/Llama-3.1-8B"
LAYERS = 2
USERS = 32
PROMPT = 2048
# The other users' prompts.
SHORT = 16
STEPS = 12
BLOCK = 32
ONE_DEVICE = "N150"


def make_args(mesh_device) -> ModelArgs:
    return ModelArgs(
        mesh_device,
        hf_model=MODEL,
        dummy_weights=True,
        num_layers=LAYERS,
        max_batch_size=USERS,
        max_seq_len=2 * PROMPT,
        page_params={"block_size": BLOCK, "max_num_blocks": USERS * 2 * PROMPT // BLOCK},
    )


class Batch:
    """A full batch of users on one mesh, of which the last leaves and joins again for every measurement."""

    def __init__(self, generator: Generator):
        self.generator = generator
        vocab_size = generator.args.arch.vocab_size
        self.prompt = random_prompt(vocab_size, PROMPT)
        self.tokens = generator.prefill([random_prompt(vocab_size, SHORT)] * USERS).argmax(-1).tolist()

    def timed(self) -> dict[str, float]:
        """Seconds, and seconds of CPU time, of the prefill and of the decode steps, by name."""
        self.generator.remove(USERS - 1)
        started = _clocks()
        self.generator.add(USERS - 1, self.prompt)
        prefilled = _clocks()
        for _ in range(STEPS):
            self.tokens = self.generator.decode(self.tokens).argmax(-1).tolist()
        spans = {"prefill": (started, prefilled), "decode": (prefilled, _clocks())}
        return {
            f"{phase}{kind}": after[kind] - before[kind] for phase, (before, after) in spans.items() for kind in after
        }


def _clocks() -> dict[str, float]:
    return {"": time.perf_counter(), " CPU": time.process_time()}


def random_prompt(vocab_size: int, tokens: int) -> list[int]:
    return torch.randint(3, vocab_size, (tokens,), generator=torch.Generator().manual_seed(tokens)).tolist()


def measure(mesh: str, rounds: int, report=print) -> list[dict]:
    """Measurements `<prefill or decode>[ CPU]/<mesh or ratio>` of every round, after one round that does not count."""
    found = []
    with ExitStack() as stack:
        batches = {}
        # The mesh first: its links are set up while no mesh is open.
        for name in (mesh, ONE_DEVICE):
            mesh_device = stack.enter_context(open_mesh(name))
            batches[name] = Batch(stack.enter_context(Generator.build(make_args(mesh_device))))
            batches[name].timed()
        for iteration in range(rounds):
            seconds = {name: batches[name].timed() for name in sorted(batches, reverse=iteration % 2 == 1)}
            for phase in seconds[mesh]:
                for name, times in seconds.items():
                    found.append(measurement(f"{phase}/{name}", times[phase], "s", iteration))
                ratio = seconds[mesh][phase] / seconds[ONE_DEVICE][phase]
                found.append(measurement(f"{phase}/ratio", ratio, "x", iteration))
    for phase in seconds[mesh]:
        ratio = statistics.median(entry["value"] for entry in found if entry["name"] == f"{phase}/ratio")
        report(f"{phase}: {mesh} takes {ratio:.2f} x {ONE_DEVICE} (median of {rounds} rounds)")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mesh", choices=[name for name in MESHES if name != ONE_DEVICE], default="TG")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the benchmark record there")
    given = parser.parse_args()
    try:
        if given.rounds < 1:
            raise ValueError(f"--rounds {given.rounds} has to be at least 1")
        if given.output is not None:
            whole_file.check_writable(given.output, "--output")
    except ValueError as error:
        parser.error(str(error))
    record = benchmark_record.make(
        mesh=given.mesh,
        model=MODEL.split("/")[1],
        precision="performance",
        case="devices",
        measurements=measure(given.mesh, given.rounds),
        layers=LAYERS,
        users=USERS,
        prompt=PROMPT,
        steps=STEPS,
        threads=torch.get_num_threads(),
        rounds=given.rounds,
        load_average=round(os.getloadavg()[1], 1),
    )
    print(f"wrote {os.path.relpath(benchmark_record.keep(record, given.output))}")


if __name__ == "__main__":
    console.run(main)
