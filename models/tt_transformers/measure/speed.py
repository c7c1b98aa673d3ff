"""Benchmark of the emulator against Hugging Face transformers (bf16): same checkpoint, prompts and torch threads.

    python -m models.tt_transformers.measure.speed [--model bundled] [--mode bf16] [--avx2] [--rounds 9] [--output FOLDER]

Both run in turn in every round, in one process, so that other work on the machine affects both. The report has medians
over the rounds and the median of the rounds' ratios. At full width a process of llama.cpp takes its turn too, with one
user and random weights of the same widths. The memory and matmul speed of the machine are measured before, between and
after the workloads. Start-up and peak memory are measured in a process for each system.
"""

import argparse
import os
import statistics
import sys
from contextlib import ExitStack
from dataclasses import replace
from math import prod
from pathlib import Path

import torch

import models  # noqa: F401
from models.common import benchmark_record, console, cpu, whole_file
from models.common.benchmark_record import measurement
from models.common.mesh import open_mesh
from models.tt_transformers.measure import counts, machine_limits, start_up
from models.tt_transformers.measure.benchmarks import (
    BENCHMARKS, SYSTEMS, Benchmark, Workload, make_args, random_prompts, record_name, wait_policy,
)  # fmt: skip
from models.tt_transformers.measure.systems import HuggingFace, check_llama_cpp, interleaved, llama_cpp
from models.tt_transformers.tt.checkpoints.state_dict import shapes
from models.tt_transformers.tt.config.architecture import Architecture
from models.tt_transformers.tt.config.precision import MODES
from models.tt_transformers.tt.generator import Generator
from models.tt_transformers.tt.model_args import ModelArgs
from models.tt_transformers.tt.reference import model_identity

HUGGING_FACE_BYTES = 2  # of a weight in bf16


def measure_speed(benchmark: Benchmark, mode: str, rounds: int, report=print) -> tuple[ModelArgs, list[dict], dict]:
    """Prefill and decode tokens/s of all systems in every round, their ratios, and the machine's limits.

    Returns also the facts of the systems' work: see `facts_of_work`.
    """
    found = machine_limits.measure(0)
    weight_bytes, llamas, hugging_face = {}, {}, None
    with open_mesh("N150") as mesh_device:
        for index, workload in enumerate(benchmark.workloads, start=1):
            args = make_args(mesh_device, benchmark, workload, mode)
            hugging_face = hugging_face or HuggingFace(args.reference_transformer())
            prompts = random_prompts(args.arch.vocab_size, workload)
            with ExitStack() as stack:
                generator = stack.enter_context(Generator.build(args))
                systems = dict(zip(SYSTEMS, (generator, hugging_face)))
                for kind in benchmark.llama_cpp if workload.users == 1 else ():
                    llamas[f"llama.cpp {kind}"] = stack.enter_context(llama_cpp(args, kind, torch.get_num_threads()))
                systems |= llamas if workload.users == 1 else {}
                results = interleaved(systems, prompts, workload.steps, rounds)
                weight_bytes["emulator"] = counts.decode_step_costs(generator, workload.prompt).weight_bytes
            weight_bytes |= {name: llama.facts["weight_bytes"] for name, llama in llamas.items()}
            found += speeds(workload, results, weight_bytes)
            found += machine_limits.measure(index)
            for name in ("prefill", "decode"):
                ratio = statistics.median(m["value"] for m in found if m["name"] == f"{workload.name}/{name}/ratio")
                report(f"{args.model_name} {workload.name} {name}: {ratio:.2f} x Hugging Face (median of {rounds} rounds)")
    return args, found, facts_of_work(args.arch, weight_bytes, llamas)


def facts_of_work(arch: Architecture, weight_bytes: dict, llamas: dict) -> dict:
    """`weight_bytes`: those that a decode step reads, of each system; `parameters`: of the layers' linears, of the head."""
    linears = [shape for name, shape in shapes(arch).items() if name.startswith("layers.") and len(shape) == 2]
    parameters = {"layers": sum(map(prod, linears)), "head": arch.vocab_size * arch.dim}
    work = {"parameters": parameters}
    work["weight_bytes"] = {**weight_bytes, "hugging_face": HUGGING_FACE_BYTES * sum(parameters.values())}
    if llamas:
        work["llama_cpp"] = {name: next(iter(llamas.values())).facts[name] for name in ("version", "system_info")}
    return work


def speeds(workload: Workload, results: list[dict], weight_bytes: dict) -> list[dict]:
    """Measurements `<batch>/<prefill or decode>/<system or ratio>` for each round.

    A decode ratio to llama.cpp is at equal `weight_bytes` (system -> those of a step): of bytes a second, not of tokens.
    """
    found = []
    for iteration, round_ in enumerate(results):
        for index, (name, tokens) in enumerate((("prefill", workload.prompt), ("decode", workload.steps))):
            rates = {system: workload.users * tokens / seconds[index] for system, seconds in round_.items()}
            for system, rate in rates.items():
                found.append(measurement(f"{workload.name}/{name}/{system}", rate, "t/s", iteration))
            ratio = rates["emulator"] / rates["hugging_face"]
            found.append(measurement(f"{workload.name}/{name}/ratio", ratio, "x", iteration))
            for system in rates.keys() - set(SYSTEMS):
                ratio = rates["emulator"] / rates[system]
                if name == "decode":
                    ratio *= weight_bytes["emulator"] / weight_bytes[system]
                found.append(measurement(f"{workload.name}/{name}/ratio to {system}", ratio, "x", iteration))
    return found


def run_benchmark(model: str, benchmark: Benchmark, mode: str, rounds: int, report=print) -> dict:
    """The benchmark record of one model."""
    args, found, work = measure_speed(benchmark, mode, rounds, report)
    found += start_up.measure(model, mode, min(rounds, 3), report)
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
        wait_policy=wait_policy(),
        workloads=[vars(workload) for workload in benchmark.workloads],
        hugging_face="transformers, bf16, sdpa",
        **work,
    )


def with_avx2_only() -> None:
    """Runs this command again in an environment that keeps it to AVX2. Does nothing if it is in one."""
    if cpu.limits() != cpu.AVX2_ONLY:
        command = [sys.executable, "-m", __spec__.name, *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **cpu.AVX2_ONLY})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=BENCHMARKS, action="append", help="default: all")
    parser.add_argument("--mode", choices=MODES, default="performance")
    parser.add_argument("--avx2", action="store_true", help="use no wider instructions than AVX2, in all systems")
    parser.add_argument("--rounds", type=int, help="at least 1 (default: 9, or 5 of the full width)")
    parser.add_argument("--users", type=int, choices=(1, 32), nargs="+", default=(1, 32), help="default: 1 and 32")
    parser.add_argument("--without_llama_cpp", action="store_true", help="leave llama.cpp out")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="also write bench-<model>-<mode>.json there")
    options = parser.parse_args()
    if options.avx2:
        if not cpu.has_more_than_avx2(cpu.features()):
            print("--avx2: this processor has nothing wider than AVX2, so it is measured without --avx2 already")
            return
        with_avx2_only()
    chosen = {}
    for model in options.model or BENCHMARKS:
        benchmark = BENCHMARKS[model]
        workloads = tuple(workload for workload in benchmark.workloads if workload.users in options.users)
        llamas = () if options.without_llama_cpp else benchmark.llama_cpp
        chosen[model] = replace(benchmark, workloads=workloads, llama_cpp=llamas)
    outputs = {}
    try:
        if options.rounds is not None and options.rounds < 1:
            raise ValueError(f"--rounds {options.rounds} has to be at least 1")
        if any(benchmark.llama_cpp for benchmark in chosen.values()):
            check_llama_cpp()
        if options.output is not None:
            whole_file.make_folder(options.output, "--output")
            for model in chosen:
                name = record_name(model, options.mode, cpu.limits(), wait_policy())
                outputs[model] = options.output / f"{name}.json"
                whole_file.check_writable(outputs[model], "--output")
    except ValueError as error:
        parser.error(str(error))
    for model, benchmark in chosen.items():
        record = run_benchmark(model, benchmark, options.mode, options.rounds or benchmark.rounds)
        print(f"wrote {os.path.relpath(benchmark_record.keep(record, outputs.get(model)))}")


if __name__ == "__main__":
    console.run(main)
