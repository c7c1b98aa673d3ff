"""Prefill time and peak memory of the emulator and of Hugging Face transformers (bf16, sdpa), from 1k to 16k tokens.

    python -m models.tt_transformers.measure.long_prefill [--rounds 3] [--output FOLDER]

Each system runs in its own process, so that its peak memory is measured alone. Hugging Face's process imports nothing
of this project. Both prefill the same random prompts with the bundled checkpoint and the same number of torch threads.
They run in turn, so that other work on the machine affects both. Lengths grow, so the peak after a length is that
length's peak. One token of the context is left for a generated token.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import torch

import models  # noqa: F401
from models.common import benchmark_record, console, whole_file
from models.common.benchmark_record import measurement
from models.common.mesh import open_mesh
from models.tt_transformers.measure import plain_hugging_face
from models.tt_transformers.tt.checkpoints.location import BUNDLED
from models.tt_transformers.tt.config.model_params import Limits
from models.tt_transformers.tt.config.precision import MODES
from models.tt_transformers.tt.config.prefill_chunks import prefill_chunk_size
from models.tt_transformers.tt.generator import Generator
from models.tt_transformers.tt.model_args import ModelArgs
from models.tt_transformers.tt.reference import model_identity

SYSTEMS = ("emulator", "hugging_face")
LENGTHS = (1024, 2048, 4096, 8192, 16384)
BLOCK_SIZE = 64
# For both processes: without these, glibc keeps up to 64 MB of freed blocks, by chance, which are not a prefill's memory.
RETURN_MEMORY = {name: str(128 << 10) for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")}


def serve(mode: str, threads: int) -> None:
    """The emulator's process: answers requests as `plain_hugging_face` does, without decoding."""
    torch.set_num_threads(threads)
    with open_mesh("N150") as mesh_device, Generator.build(make_args(mesh_device, mode)) as generator:
        for line in sys.stdin:
            prompts = json.loads(line)["prompts"]
            start, cpu_start = time.perf_counter(), time.process_time()
            generator.prefill(prompts)
            seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
            answer = {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_bytes": plain_hugging_face.peak_memory()}
            print(json.dumps(answer), flush=True)


def make_args(mesh_device, mode: str) -> ModelArgs:
    return ModelArgs(
        mesh_device,
        hf_model=BUNDLED,
        max_seq_len=LENGTHS[-1],
        optimizations=mode,
        page_params={"block_size": BLOCK_SIZE, "max_num_blocks": LENGTHS[-1] // BLOCK_SIZE},
    )


def prompt(length: int, vocab_size: int) -> list[int]:
    return torch.randint(3, vocab_size, (length,), generator=torch.Generator().manual_seed(length)).tolist()


def run(rounds: int, mode: str, lengths=LENGTHS):
    """Yields the measurements of a benchmark record: times of every round, peaks, and the medians of the rounds' ratios.

    CPU time counts all threads. Other work on the machine changes it less than elapsed time.
    """
    threads = torch.get_num_threads()
    command = [sys.executable, "-m", __spec__.name, "--mode", mode, "--threads", str(threads), "--serve"]
    with open_mesh("N150") as mesh_device:
        args = make_args(mesh_device, mode)
    ours = plain_hugging_face.served(command, {**os.environ, **RETURN_MEMORY})
    with ours as emulator, plain_hugging_face.process(args, threads, RETURN_MEMORY) as hugging_face:
        ask = dict(zip(SYSTEMS, (emulator, hugging_face)))
        for length in (128, *lengths):  # the first warms up and is not counted
            request = {"prompts": [prompt(length - 1, args.arch.vocab_size)], "steps": 0}
            answers = {name: [] for name in SYSTEMS}
            for index in range(rounds if length in lengths else 1):
                for name in SYSTEMS if index % 2 == 0 else reversed(SYSTEMS):
                    answers[name].append(ask[name](request))
            if length in lengths:
                measurements = _measurements(length, answers)
                print(describe(length, measurements), flush=True)
                yield from measurements


def _measurements(length, answers) -> list[dict]:
    found = []
    for name, results in answers.items():
        for index, result in enumerate(results):
            found.append(measurement(f"prefill-{length}.{name}", result["seconds"], "s", index))
            found.append(measurement(f"prefill_cpu-{length}.{name}", result["cpu_seconds"], "s", index))
        found.append(measurement(f"peak_memory-{length}.{name}", max(r["peak_bytes"] for r in results), "B"))
    pairs = list(zip(answers["emulator"], answers["hugging_face"]))
    peaks = [max(result["peak_bytes"] for result in answers[name]) for name in SYSTEMS]
    for quantity, key in (("prefill_ratio", "seconds"), ("prefill_cpu_ratio", "cpu_seconds")):
        found.append(measurement(f"{quantity}-{length}", statistics.median(a[key] / b[key] for a, b in pairs), "x"))
    found.append(measurement(f"peak_memory_ratio-{length}", peaks[0] / peaks[1], "x"))
    return found


def describe(length: int, measurements: list[dict]) -> str:
    def values(name):
        return [m["value"] for m in measurements if m["name"] == name]

    parts = [f"{length} tokens:"]
    for name in SYSTEMS:
        seconds = statistics.median(values(f"prefill-{length}.{name}"))
        peak = values(f"peak_memory-{length}.{name}")[0]
        parts.append(f"{name} {seconds:.2f} s, {peak / 1e6:.0f} MB;")
    labels = {"time": "prefill_ratio", "CPU time": "prefill_cpu_ratio", "memory": "peak_memory_ratio"}
    ratios = [f"{label} {values(f'{name}-{length}')[0]:.2f}x" for label, name in labels.items()]
    return " ".join([*parts, ", ".join(ratios)])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mode", choices=MODES, default="performance")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write the benchmark record there")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        return serve(given.mode, given.threads)
    output = given.output and given.output / "prefill-N150.json"
    try:
        if given.rounds < 1:
            raise ValueError(f"--rounds {given.rounds} has to be at least 1")
        if output is not None:
            whole_file.make_folder(given.output, "--output")
            whole_file.check_writable(output, "--output")
    except ValueError as error:
        parser.error(str(error))
    measurements = list(run(given.rounds, given.mode))
    with open_mesh("N150") as mesh_device:
        identity = model_identity(make_args(mesh_device, given.mode))
    record = benchmark_record.make(
        mesh="N150",
        model=BUNDLED.name,
        precision=given.mode,
        case="prefill",
        measurements=measurements,
        identity=identity,
        chunk=prefill_chunk_size(BUNDLED.name, Limits.of(BUNDLED.name), "N150", paged=True, max_seq_len=LENGTHS[-1]),
        threads=torch.get_num_threads(),
        load_average=round(os.getloadavg()[1], 1),
    )
    print(f"wrote {os.path.relpath(benchmark_record.keep(record, output))}")


if __name__ == "__main__":
    console.run(main)
