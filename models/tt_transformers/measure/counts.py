"""Counts on the emulator: a decode step's ops and bytes, its trace misses, and weights read past the weight cache."""

from collections.abc import Mapping

from models.common import op_costs
from models.tt_transformers.tt.generator import Generator
from models.tt_transformers.tt.runtime.decode_step import idle_decode_inputs


def decode_step_costs(generator: Generator, context_len: int) -> op_costs.OpCosts:
    """`OpCosts` of a decode step of all users, each with `context_len` tokens. It changes no sequence and no cache."""
    inputs = idle_decode_inputs(generator.model, generator.pages)
    with op_costs.recording() as records:
        generator.model.decode_forward(*inputs)
    return op_costs.OpCosts.of(records, context_len)


def trace_misses(generator: Generator, tokens: list[int]) -> int:
    """Ops of a decode step that Python called because the captured trace does not hold them: 0 if it is replayed.

    Appends `tokens` to the users' sequences, which must have been prefilled.
    """
    generator.compile_decode()
    with op_costs.recording() as records:
        generator.decode(tokens)
    return len(records)


class CountingStateDict(Mapping):
    """A state dict that counts the weights that are read from it. Each read is a miss of the weight cache."""

    def __init__(self, state_dict):
        self._state_dict = state_dict
        self.reads = 0

    def __getitem__(self, name):
        self.reads += 1
        return self._state_dict[name]

    def shape(self, name):
        return self._state_dict.shape(name)

    def read(self, names):
        for same, weight in self._state_dict.read(names):
            self.reads += len(same)
            yield same, weight

    def __iter__(self):
        return iter(self._state_dict)

    def __len__(self):
        return len(self._state_dict)
