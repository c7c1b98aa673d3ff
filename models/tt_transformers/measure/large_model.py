"""A large model on the emulator: time of a first start, which fills the weight cache, and of a second; decode; memory.

    python -m models.tt_transformers.measure.large_model [--num_layers N] [--output FILE]

Llama-3.1-8B in performance mode on an emulated N150. Each start is a process of its own. Random weights are made tensor
by tensor and kept in a weight cache in a temporary folder (TMPDIR chooses its disk), like a checkpoint's. The second
start finds the cache's files in the memory that the operating system keeps files in, as far as they fit.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import models  # noqa: F401
from models.common import backend, benchmark_record, console, whole_file
from models.common.benchmark_record import measurement
from models.common.mesh import open_mesh
from models.tt_transformers.measure import counts, machine_limits, plain_hugging_face
from models.tt_transformers.measure.benchmarks import BLOCK, Workload, random_prompts, wait_policy
from models.tt_transformers.tt.checkpoints.weights import Weights
from models.tt_transformers.tt.generator import Generator
from models.tt_transformers.tt.model_args import ModelArgs

MODEL = "meta-llama/Llama-3.1-8B"
LAYERS = 32
MODE = "performance"
WORKLOAD = Workload(users=1, prompt=128, steps=16)
STARTS = ("cold", "warm")
MEMORY_AIM = 7500  # MB
NAME = "large-model"


class TimedStateDict(counts.CountingStateDict):
    """A state dict that adds up the seconds in which it makes weights."""

    seconds = 0.0

    def read(self, names):
        weights = super().read(names)
        while True:
            start = time.perf_counter()
            made = next(weights, None)
            self.seconds += time.perf_counter() - start
            if made is None:
                return
            yield made
            del made  # or it would be held while the next one is made


def start_alone(num_layers: int, model: str = MODEL) -> dict:
    """Loads, prefills and decodes -> the answer of a start's process; times in seconds. TT_CACHE_PATH has to be set."""
    length = -(-(WORKLOAD.prompt + WORKLOAD.steps + 1) // BLOCK) * BLOCK
    pages = {"block_size": BLOCK, "max_num_blocks": length // BLOCK}
    settings = {"hf_model": model, "dummy_weights": True, "num_layers": num_layers, "optimizations": MODE}
    with open_mesh("N150") as mesh_device:
        args = ModelArgs(mesh_device, max_seq_len=length, page_params=pages, **settings)
        state_dict = TimedStateDict(args.load_state_dict())
        weights = Weights(mesh_device, args.placement, state_dict, args.weight_cache)
        with Generator.build(args, weights) as generator:
            tokens = generator.prefill(random_prompts(args.arch.vocab_size, WORKLOAD)).argmax(-1).tolist()
            answer = {"first_token": time.time(), "making weights": state_dict.seconds, "weights made": state_dict.reads}
            tokens = generator.decode(tokens).argmax(-1).tolist()
            start = time.perf_counter()
            for _ in range(WORKLOAD.steps - 1):
                tokens = generator.decode(tokens).argmax(-1).tolist()
            seconds = time.perf_counter() - start
            peak = plain_hugging_face.peak_memory()
            weight_bytes = counts.decode_step_costs(generator, WORKLOAD.prompt).weight_bytes
    return {**answer, "decode": (WORKLOAD.steps - 1) / seconds, "peak_bytes": peak, "weight_bytes": weight_bytes}


def measure(num_layers: int, report=print) -> tuple[list[dict], int]:
    """Measurements `<cold or warm>/<what>`, the machine's limits; and the bytes of weights that a decode step reads.

    Raises RuntimeError if the weight cache was not kept.
    """
    found = []
    with tempfile.TemporaryDirectory() as cache:
        for index, kind in enumerate(STARTS):
            found += machine_limits.measure(index)
            command = [sys.executable, "-m", __spec__.name, "--num_layers", str(num_layers), "--alone"]
            environment = {**os.environ, "TT_CACHE_PATH": cache}
            start = time.time()
            result = subprocess.run(command, cwd=benchmark_record.ROOT, env=environment, check=True, stdout=subprocess.PIPE)
            answer = json.loads(result.stdout.splitlines()[-1])
            figures = {
                "start-up": (answer["first_token"] - start, "s"),
                "making weights": (answer["making weights"], "s"),
                "decode": (answer["decode"], "t/s"),
                "peak memory": (answer["peak_bytes"] / 1e6, "MB"),
            }
            found += [measurement(f"{kind}/{name}", value, unit) for name, (value, unit) in figures.items()]
            if kind == "warm" and answer["weights made"]:
                raise RuntimeError(f"the second start made {answer['weights made']} weights: is there room in {cache} (TMPDIR)?")
            report(f"{kind} start: {', '.join(f'{name} {value:.4g} {unit}' for name, (value, unit) in figures.items())}")
        cached = sum(file.stat().st_size for file in Path(cache).rglob("*.tensorbin")) / 1e6
    return [*found, measurement("weight cache", cached, "MB")], answer["weight_bytes"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_layers", type=int, default=LAYERS, metavar="N", help="run the first layers only")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the benchmark record there")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        print(json.dumps(start_alone(given.num_layers)))
        return
    if backend.name() != "emulator":
        parser.error(f"memory is measured on the emulator; TT_BACKEND is {backend.name()}")
    try:
        if not 1 <= given.num_layers <= LAYERS:
            raise ValueError(f"--num_layers {given.num_layers} is outside 1 to {LAYERS}, the layers of {MODEL}")
        if given.output is not None:
            whole_file.check_writable(given.output, "--output")
    except ValueError as error:
        parser.error(str(error))
    measurements, weight_bytes = measure(given.num_layers)
    record = benchmark_record.make(
        mesh="N150",
        model=MODEL.split("/")[1],
        precision=MODE,
        case=NAME,
        measurements=measurements,
        layers=given.num_layers,
        workload=vars(WORKLOAD),
        weight_bytes=weight_bytes,
        threads=torch.get_num_threads(),
        load_average=round(os.getloadavg()[1], 1),
        wait_policy=wait_policy(),
    )
    print(f"wrote {os.path.relpath(benchmark_record.keep(record, given.output))}")


if __name__ == "__main__":
    console.run(main)
