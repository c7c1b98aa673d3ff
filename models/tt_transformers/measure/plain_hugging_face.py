"""Hugging Face transformers as its users run it, in a process that imports nothing of this project.

Run as a file, so that `models`, which sets up its process, is not imported:

    python models/tt_transformers/measure/plain_hugging_face.py CHECKPOINT [--random-layers N] [--threads N]

Loads the checkpoint in bf16 (with --random-layers its configuration alone, for random weights), then answers each line
of standard input, `{"prompts": [[ids...], ...], "steps": N}`, with one of JSON: see `answer`. Prompts are of one length.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import torch


def load(checkpoint: str, random_layers: int | None):
    import transformers  # here, because the emulator's process imports this file too, and its memory is measured

    if random_layers is None:
        return transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16).eval()
    config = transformers.AutoConfig.from_pretrained(checkpoint)
    config.num_hidden_layers = random_layers
    return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


@torch.inference_mode()
def answer(model, prompts: list[list[int]], steps: int) -> dict:
    """Prefills `prompts`, then decodes `steps` tokens greedily.

    Returns the time of the first token (`time.time()`), the prefill's seconds and CPU seconds (of all threads), and the
    peak resident memory of the process, in bytes.
    """
    start, cpu_start = time.perf_counter(), time.process_time()
    output = model(torch.tensor(prompts), use_cache=True, logits_to_keep=1)
    tokens = output.logits[:, -1].argmax(-1)
    result = {
        "first_token": time.time(),
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu_start,
    }
    for _ in range(steps):
        output = model(tokens[:, None], past_key_values=output.past_key_values, use_cache=True, logits_to_keep=1)
        tokens = output.logits[:, -1].argmax(-1)
    return {**result, "peak_bytes": peak_memory()}


def peak_memory() -> int:
    """Peak resident memory in bytes, from /proc: getrusage would include the peak of the parent process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM: peak memory can be measured on Linux only")


def process(args, threads: int | None = None, variables: dict | None = None):
    """`served` for a process of this file with the checkpoint of `args` (`ModelArgs`), with more environment `variables`.

    It waits for its threads as torch does by default, not as `models` sets it in this process.
    """
    command = [sys.executable, __file__, str(args.model_dir)]
    if args.dummy_weights:
        command += ["--random-layers", str(args.arch.n_layers)]
    if threads is not None:
        command += ["--threads", str(threads)]
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    return served(command, {**inherited, **(variables or {})})


@contextmanager
def served(command: list[str], environment: dict | None = None):
    """Starts `command`; yields a function from a request to its answer. RuntimeError if the process ends before that."""
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def ask(request: dict) -> dict:
        try:
            server.stdin.write(json.dumps(request) + "\n")
            server.stdin.flush()
        except BrokenPipeError:
            pass
        while line := server.stdout.readline():
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"{' '.join(command)} ended with status {server.wait()}")

    try:
        yield ask
    finally:
        try:
            server.stdin.close()
        except BrokenPipeError:
            pass
        server.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--random-layers", type=int, metavar="N")
    parser.add_argument("--threads", type=int, metavar="N")
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    model = load(options.checkpoint, options.random_layers)
    for line in sys.stdin:
        print(json.dumps(answer(model, **json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
