"""This project and Hugging Face's transformers behind one interface, to be timed against each other."""

import time

import torch

from models.tt_transformers.tt.generator import Generator
from models.tt_transformers.tt.model import Transformer


class Ours:
    """A `Generator` of the model that `args` (`ModelArgs`) sets up; `state_dict` may stand in for its own."""

    name = "emulator"

    def __init__(self, args, state_dict=None):
        self.args = args
        self.model = Transformer(args, args.load_state_dict() if state_dict is None else state_dict)
        self.generator = Generator(self.model)

    def prefill(self, prompts: list[list[int]]) -> torch.Tensor:
        return self.generator.prefill(prompts)

    def decode(self, tokens: list[int]) -> torch.Tensor:
        return self.generator.decode(tokens)

    def close(self) -> None:
        self.generator.deallocate()
        self.model.deallocate()


class HuggingFace:
    """The same checkpoint in transformers: bf16, its default (sdpa) attention and its default KV cache."""

    name = "hugging_face"

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


def interleaved(systems, prompts: list[list[int]], steps: int, rounds: int) -> list[dict]:
    """Times each system in each round, the other one first every other round, after one round that does not count.

    Returns for each round {system's name: (prefill seconds, decode seconds)}. Neighbours in time see the same machine, so
    ratios within a round hold even where the machine's speed changes from round to round.
    """
    for system in systems:
        timed_generation(system, prompts, min(steps, 2))
    results = []
    for iteration in range(rounds):
        order = systems if iteration % 2 == 0 else systems[::-1]
        results.append({system.name: timed_generation(system, prompts, steps) for system in order})
    return results
