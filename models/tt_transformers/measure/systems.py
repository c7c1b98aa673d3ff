"""What the emulator is timed against: Hugging Face's transformers and llama.cpp, and how they are timed in turn."""

import os
import time
from contextlib import contextmanager
from pathlib import Path

import torch

from models.common import cpu
from models.common.benchmark_record import ROOT
from models.common.ttnn_emulator import openmp
from models.tt_transformers.measure import plain_hugging_face
from models.tt_transformers.measure.benchmarks import wait_policy

BENCH_ENVIRONMENT = ROOT / ".venv-bench"


class HuggingFace:
    """The same checkpoint in transformers: bf16, its default (sdpa) attention and its default KV cache.

    It has the interface of a `Generator`, so that both can be timed in the same way.
    """

    def __init__(self, model):
        self.model = model
        self._cache = None

    @torch.inference_mode()
    def prefill(self, prompts: list[list[int]]) -> torch.Tensor:
        """Prompts of one length."""
        self._cache = None
        return self._run(torch.tensor(prompts))

    @torch.inference_mode()
    def decode(self, tokens: list[int]) -> torch.Tensor:
        return self._run(torch.tensor(tokens)[:, None])

    def _run(self, tokens):
        output = self.model(tokens, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._cache = output.past_key_values
        return output.logits[:, -1].float()


class LlamaCpp:
    """A `plain_llama_cpp` process, which times itself. `facts`: what it says of its weights and its build."""

    def __init__(self, ask):
        self._ask = ask
        self.facts = {}

    def timed_generation(self, prompts: list[list[int]], steps: int) -> tuple[float, float]:
        openmp.rest()  # else torch's threads in this process would take a core from llama.cpp
        answer = self._ask({"prompts": prompts, "steps": steps})
        seconds = answer.pop("prefill_seconds"), answer.pop("decode_seconds")
        self.facts = answer
        return seconds


@contextmanager
def llama_cpp(args, kind: str, threads: int):
    """Context manager: a `LlamaCpp` with random weights of `kind` and the widths, layers and context of `args` (`ModelArgs`).

    Its threads sleep while they wait, or spin for a short time if this process's spin: the default of OpenMP. If they
    spun for ever, they would take the cores from the other systems between its turns. Where this process is kept to
    AVX2, its build is the one for AVX2.
    """
    environment = dict(os.environ)
    if wait_policy() != "passive":
        del environment["OMP_WAIT_POLICY"]
    if cpu.limits() == cpu.AVX2_ONLY:
        environment["LLAMA_CPP_LIB_PATH"] = str(BENCH_ENVIRONMENT / "avx2" / "llama_cpp" / "lib")
    program = Path(__file__).with_name("plain_llama_cpp.py")
    command = [BENCH_ENVIRONMENT / "bin" / "python", program, args.model_dir / "config.json", kind]
    command += ["--layers", args.arch.n_layers, "--threads", threads, "--context", args.max_seq_len]
    with plain_hugging_face.served(list(map(str, command)), environment) as ask:
        yield LlamaCpp(ask)


def check_llama_cpp() -> None:
    """Raises ValueError if llama.cpp is not installed."""
    if not (BENCH_ENVIRONMENT / ".installed").is_file():
        raise ValueError(f"there is no llama.cpp in {BENCH_ENVIRONMENT}: run `make setup-bench`, or give --without_llama_cpp")


def timed_generation(system, prompts: list[list[int]], steps: int) -> tuple[float, float]:
    """Seconds of a prefill of `prompts`, and of `steps` greedy decode steps, choosing the tokens included.

    `system`: a `LlamaCpp`, or a `Generator` or `HuggingFace`.
    """
    if isinstance(system, LlamaCpp):
        return system.timed_generation(prompts, steps)
    start = time.perf_counter()
    tokens = system.prefill(prompts).argmax(-1).tolist()
    prefilled = time.perf_counter()
    for _ in range(steps):
        tokens = system.decode(tokens).argmax(-1).tolist()
    return prefilled - start, time.perf_counter() - prefilled


def interleaved(systems: dict, prompts: list[list[int]], steps: int, rounds: int) -> list[dict]:
    """Times each system (name -> one that `timed_generation` takes) in each round, after one round that does not count.

    Returns for each round {name: (prefill seconds, decode seconds)}. The order is reversed in every second round. The
    runs of a round are close in time, so their ratio is valid even if the machine's speed changes between rounds.
    """
    for system in systems.values():
        timed_generation(system, prompts, min(steps, 2))
    results = []
    for iteration in range(rounds):
        order = list(systems) if iteration % 2 == 0 else list(systems)[::-1]
        results.append({name: timed_generation(systems[name], prompts, steps) for name in order})
    return results
