"""Benchmark of the emulator against Hugging Face transformers (bf16): same checkpoint, prompts and torch threads.

    python -m models.tt_transformers.measure.speed [--model bundled] [--mode bf16] [--users 1 32] [--rounds 9] [--output FOLDER]

Both run in turn in every round, in one process, so that other work on the machine affects both. The report has medians
over the rounds and the median of the rounds' ratios. Start-up and peak memory are measured in a process for each
system; Hugging Face's imports nothing of this project.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import models  # noqa: F401
from models.common import benchmark_record, console, whole_file
from models.common.benchmark_record import measurement
from models.common.mesh import open_mesh
from models.tt_transformers.measure import plain_hugging_face
from models.tt_transformers.measure.systems import HuggingFace, interleaved
from models.tt_transformers.tt.checkpoints.location import BUNDLED
from models.tt_transformers.tt.config.precision import MODES
from models.tt_transformers.tt.generator import Generator
from models.tt_transformers.tt.model_args import ModelArgs
from models.tt_transformers.tt.reference import model_identity

SYSTEMS = ("emulator", "hugging_face")
BLOCK = 32


@dataclass(frozen=True)
class Workload:
    """Users, tokens of each prompt and decode steps of one measurement."""

    users: int
    prompt: int
    steps: int

    @property
    def name(self) -> str:
        return f"batch-{self.users}"


@dataclass(frozen=True)
class Benchmark:
    """A model and its workloads. `settings`: arguments of `ModelArgs`; `rounds`: enough for a stable median."""

    settings: dict
    workloads: tuple
    rounds: int = 9


BENCHMARKS = {
    "bundled": Benchmark({"hf_model": BUNDLED}, (Workload(1, 128, 64), Workload(32, 128, 16))),
    "full-width": Benchmark(
        {"hf_model": "microsoft/Phi-3-mini-128k-instruct", "dummy_weights": True, "num_layers": 8},
        (Workload(1, 128, 8), Workload(32, 128, 4)),
        rounds=5,
    ),
}


def make_args(mesh_device, benchmark: Benchmark, workload: Workload, mode: str) -> ModelArgs:
    longest = workload.prompt + workload.steps + 1
    pages = workload.users * -(-longest // BLOCK)
    return ModelArgs(
        mesh_device,
        max_batch_size=workload.users,
        max_seq_len=-(-longest // BLOCK) * BLOCK,
        optimizations=mode,
        page_params={"block_size": BLOCK, "max_num_blocks": pages},
        **benchmark.settings,
    )


def random_prompts(vocab_size: int, workload: Workload) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(3, vocab_size, (workload.users, workload.prompt), generator=generator).tolist()


def measure_speed(benchmark: Benchmark, mode: str, rounds: int, report=print) -> tuple[ModelArgs, list[dict]]:
    """Prefill and decode tokens/s of both systems in every round, and their ratios (the emulator's / Hugging Face's)."""
    found = []
    with open_mesh("N150") as mesh_device:
        hugging_face = None
        for workload in benchmark.workloads:
            args = make_args(mesh_device, benchmark, workload, mode)
            hugging_face = hugging_face or HuggingFace(args.reference_transformer())
            prompts = random_prompts(args.arch.vocab_size, workload)
            with Generator.build(args) as generator:
                systems = dict(zip(SYSTEMS, (generator, hugging_face)))
                results = interleaved(systems, prompts, workload.steps, rounds)
            found += speeds(workload, results)
            for name in ("prefill", "decode"):
                ratio = statistics.median(m["value"] for m in found if m["name"] == f"{workload.name}/{name}/ratio")
                report(f"{args.model_name} {workload.name} {name}: {ratio:.2f} x Hugging Face (median of {rounds} rounds)")
    return args, found


def speeds(workload: Workload, results: list[dict]) -> list[dict]:
    """Measurements `<batch>/<prefill or decode>/<system or ratio>` for each round."""
    found = []
    for iteration, round_ in enumerate(results):
        for index, (name, tokens) in enumerate((("prefill", workload.prompt), ("decode", workload.steps))):
            rates = {system: workload.users * tokens / seconds[index] for system, seconds in round_.items()}
            for system, rate in rates.items():
                found.append(measurement(f"{workload.name}/{name}/{system}", rate, "t/s", iteration))
            ratio = rates["emulator"] / rates["hugging_face"]
            found.append(measurement(f"{workload.name}/{name}/ratio", ratio, "x", iteration))
    return found


def measure_processes(model: str, mode: str, rounds: int, report=print) -> list[dict]:
    """Time from start-up to the first token and peak memory of a process of each system, in turn."""
    benchmark = BENCHMARKS[model]
    with open_mesh("N150") as mesh_device:
        args = make_args(mesh_device, benchmark, benchmark.workloads[0], mode)
    found = []
    for iteration in range(rounds):
        alone = {}
        for system in SYSTEMS:
            start = time.time()
            if system == "emulator":
                answer = emulator_alone(model, mode)
            else:
                answer = hugging_face_alone(args, benchmark.workloads[0])
            alone[system] = (answer["first_token"] - start, answer["peak_bytes"] / 1e6)
        for index, (name, unit) in enumerate((("start-up", "s"), ("peak memory", "MB"))):
            for system in SYSTEMS:
                found.append(measurement(f"batch-1/{name}/{system}", alone[system][index], unit, iteration))
            ratio = alone["emulator"][index] / alone["hugging_face"][index]
            found.append(measurement(f"batch-1/{name}/ratio", ratio, "x", iteration))
            report(f"{model} {name}: {ratio:.2f} x Hugging Face")
    return found


def emulator_alone(model: str, mode: str) -> dict:
    """The answer of a process that only runs `run_alone`."""
    command = [sys.executable, "-m", "models.tt_transformers.measure.speed", "--alone", "--model", model, "--mode", mode]
    result = subprocess.run(command, cwd=benchmark_record.ROOT, check=True, stdout=subprocess.PIPE)
    return json.loads(result.stdout.splitlines()[-1])


def hugging_face_alone(args: ModelArgs, workload: Workload) -> dict:
    """The answer of a `plain_hugging_face` process."""
    request = {"prompts": random_prompts(args.arch.vocab_size, workload), "steps": workload.steps}
    with plain_hugging_face.process(args, torch.get_num_threads()) as ask:
        return ask(request)


def run_alone(benchmark: Benchmark, mode: str) -> dict:
    """Loads, prefills and decodes -> the time of the first token, and the process's peak memory."""
    workload = benchmark.workloads[0]
    with open_mesh("N150") as mesh_device:
        args = make_args(mesh_device, benchmark, workload, mode)
        with Generator.build(args) as generator:
            tokens = generator.prefill(random_prompts(args.arch.vocab_size, workload)).argmax(-1).tolist()
            first_token = time.time()
            for _ in range(workload.steps):
                tokens = generator.decode(tokens).argmax(-1).tolist()
    return {"first_token": first_token, "peak_bytes": plain_hugging_face.peak_memory()}


def run_benchmark(model: str, mode: str, rounds: int, users: list[int], report=print) -> dict:
    """The benchmark record of one model, with its workloads for these numbers of `users`."""
    benchmark = BENCHMARKS[model]
    benchmark = replace(benchmark, workloads=tuple(w for w in benchmark.workloads if w.users in users))
    args, found = measure_speed(benchmark, mode, rounds, report)
    found += measure_processes(model, mode, min(rounds, 3), report)
    return benchmark_record.make(
        mesh=args.device_name,
        model=args.model_name,
        precision=mode,
        case=f"bench {model}",
        measurements=found,
        layers=args.arch.n_layers,
        random_weights=args.dummy_weights,
        identity=None if args.dummy_weights else model_identity(args),
        threads=torch.get_num_threads(),
        rounds=rounds,
        load_average=round(os.getloadavg()[1], 1),
        wait_policy=os.environ["OMP_WAIT_POLICY"],
        workloads=[vars(workload) for workload in benchmark.workloads],
        hugging_face="transformers, bf16, sdpa",
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=BENCHMARKS, action="append", help="default: all")
    parser.add_argument("--mode", choices=MODES, default="performance")
    parser.add_argument("--rounds", type=int, help="at least 1 (default: 9, or 5 of the full width)")
    parser.add_argument("--users", type=int, choices=(1, 32), nargs="+", default=(1, 32), help="default: 1 and 32")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="also write bench-<model>-<mode>.json there")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(run_alone(BENCHMARKS[options.model[0]], options.mode)))
        return
    if options.rounds is not None and options.rounds < 1:
        parser.error(f"--rounds {options.rounds} has to be at least 1")
    wait_policy = os.environ["OMP_WAIT_POLICY"].lower()
    suffix = "" if wait_policy == "passive" else f"-{wait_policy}"
    for model in options.model or BENCHMARKS:
        output = options.output and options.output / f"bench-{model}-{options.mode}{suffix}.json"
        if output is not None:
            try:
                whole_file.make_folder(options.output, "--output")
                whole_file.check_writable(output, "--output")
            except ValueError as error:
                parser.error(str(error))
        record = run_benchmark(model, options.mode, options.rounds or BENCHMARKS[model].rounds, options.users)
        print(f"wrote {os.path.relpath(benchmark_record.keep(record, output))}")


if __name__ == "__main__":
    console.run(main)
