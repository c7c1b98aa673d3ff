"""Time from start-up to the first token and peak memory of a process of each system, in turn.

Hugging Face's process imports nothing of this project. The emulator's finds its weights in a weight cache, which a first
process fills.

    python -m models.tt_transformers.measure.start_up bundled performance

is the emulator's process: it prints the time of its first token and its peak memory as JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import torch

import models  # noqa: F401
from models.common import benchmark_record
from models.common.benchmark_record import measurement
from models.common.mesh import open_mesh
from models.tt_transformers.measure import plain_hugging_face
from models.tt_transformers.measure.benchmarks import (
    BENCHMARKS, SYSTEMS, Benchmark, Workload, make_args, random_prompts,
)  # fmt: skip
from models.tt_transformers.tt.config.precision import MODES
from models.tt_transformers.tt.generator import Generator
from models.tt_transformers.tt.model_args import ModelArgs


def measure(model: str, mode: str, rounds: int, report=print) -> list[dict]:
    """Measurements `batch-1/<start-up or peak memory>/<system or ratio>` for each round."""
    benchmark = BENCHMARKS[model]
    with open_mesh("N150") as mesh_device:
        args = make_args(mesh_device, benchmark, benchmark.workloads[0], mode)
    found = []
    with tempfile.TemporaryDirectory() as cache:
        emulator_alone(model, mode, cache)
        for iteration in range(rounds):
            alone = {}
            for system in SYSTEMS:
                start = time.time()
                if system == "emulator":
                    answer = emulator_alone(model, mode, cache)
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


def emulator_alone(model: str, mode: str, cache: str) -> dict:
    """The answer of a process that only runs `run_alone`, with its weight cache in the folder `cache`."""
    command = [sys.executable, "-m", __spec__.name, model, mode]
    environment = {**os.environ, "TT_CACHE_PATH": cache}
    result = subprocess.run(command, cwd=benchmark_record.ROOT, env=environment, check=True, stdout=subprocess.PIPE)
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=BENCHMARKS)
    parser.add_argument("mode", choices=MODES)
    options = parser.parse_args()
    print(json.dumps(run_alone(BENCHMARKS[options.model], options.mode)))


if __name__ == "__main__":
    main()
