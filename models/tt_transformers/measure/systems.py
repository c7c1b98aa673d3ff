"""Hugging Face's transformers with the interface of a `Generator`, so that both can be timed in the same way."""

import time

import torch


class HuggingFace:
    """The same checkpoint in transformers: bf16, its default (sdpa) attention and its default KV cache."""

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


def timed_generation(system, prompts: list[list[int]], steps: int) -> tuple[float, float]:
    """Seconds of a prefill of `prompts`, and of `steps` greedy decode steps, choosing the tokens included."""
    start = time.perf_counter()
    tokens = system.prefill(prompts).argmax(-1).tolist()
    prefilled = time.perf_counter()
    for _ in range(steps):
        tokens = system.decode(tokens).argmax(-1).tolist()
    return prefilled - start, time.perf_counter() - prefilled


def interleaved(systems: dict, prompts: list[list[int]], steps: int, rounds: int) -> list[dict]:
    """Times each system (name -> `Generator` or `HuggingFace`) in each round, after one round that does not count.

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
