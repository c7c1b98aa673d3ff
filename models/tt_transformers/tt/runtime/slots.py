"""The sequences in a runner's slots, and decode steps in which some of them are computed again."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from models.tt_transformers.tt.runtime.decode_step import SKIP
from models.tt_transformers.tt.runtime.images import image_slots
from models.tt_transformers.tt.runtime.runner import DecodeHandle, Runner


@dataclass(frozen=True)
class PendingStep:
    """A submitted step: its `handle` (None if no slot decodes), and the logits of slots that were computed again."""

    handle: DecodeHandle | None
    recomputed: dict[int, torch.Tensor]


class Slots:
    """The tokens of each slot, from position 0 on: `sequences`, by slot; and the `images` that they attend to.

    Hugging Face's Phi3ForCausalLM computes all keys again, with the long factors, when a sequence grows past LongRoPE's
    switch (`rope.recompute_len`). This needs all its tokens, which a decode step does not have.
    """

    def __init__(self, runner: Runner):
        self.runner = runner
        self.sequences: list[list[int]] = [[] for _ in range(runner.users)]
        self.images = image_slots(runner.args, runner.users)

    def move(self, sources: Sequence[int]) -> None:
        """Slot i gets what slot `sources[i]` had. ValueError unless `sources` is an order of all slots, in which each
        stays with its pool of pages: other devices do not have its keys."""
        if sorted(sources) != list(range(len(self.sequences))):
            raise ValueError(f"slots {list(sources)}: they must be 0 to {len(self.sequences) - 1} in some order")
        args = self.runner.args
        neighbours = args.placement.users(args.max_batch_size)
        if any(slot // neighbours != source // neighbours for slot, source in enumerate(sources)):
            raise ValueError(f"slots {list(sources)}: each must stay among the {neighbours} that share a pool of pages")
        self.sequences[:] = [self.sequences[source] for source in sources]
        self.images.move(sources)

    def submit_decode(
        self, tokens: Sequence[int], positions: Sequence[int], page_table: torch.Tensor | None
    ) -> PendingStep:
        """Appends `tokens` [slots] at `positions` [slots], -1 for a slot that does not run, and starts the step.

        The arguments are those of `Runner.submit_decode`. A sequence that gets to the length at which its keys are
        computed again runs as a prefill, within this call. Raises ValueError, before anything has changed, for a
        position that is not the end of its slot's sequence.
        """
        running = [slot for slot, position in enumerate(positions) if position != SKIP]
        for slot in running:
            length = len(self.sequences[slot])
            if length != positions[slot]:
                raise ValueError(f"user {slot}: position {positions[slot]}, but its sequence has {length} tokens")
        crossing = [slot for slot in running if positions[slot] + 1 == self.runner.args.arch.rope.recompute_len]
        handle = None
        if len(crossing) < len(running):
            positions = [SKIP if slot in crossing else position for slot, position in enumerate(positions)]
            handle = self.runner.submit_decode(tokens, positions, page_table, self.images.keys)
        for slot in running:
            self.sequences[slot].append(tokens[slot])
        return PendingStep(handle, self._recompute(crossing, page_table))

    def read(self, step: PendingStep) -> torch.Tensor:
        """Waits for a submitted step -> logits, float32 [slots, vocab_size]; those of slots that did not run are
        invalid."""
        if step.handle is None:
            logits = torch.zeros(len(self.sequences), self.runner.args.arch.vocab_size)
        else:
            logits = self.runner.read(step.handle)
        if not step.recomputed:
            return logits
        return torch.stack([step.recomputed.get(slot, row) for slot, row in enumerate(logits)])

    def _recompute(self, slots: list[int], page_table: torch.Tensor | None) -> dict[int, torch.Tensor]:
        if not slots:
            return {}
        pages = None if page_table is None else page_table[slots]
        sequences = [self.sequences[slot] for slot in slots]
        return dict(zip(slots, self.runner.prefill(sequences, slots, page_table=pages)))
