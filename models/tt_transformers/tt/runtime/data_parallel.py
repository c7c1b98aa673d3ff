"""Data parallel: a runner for each group of devices, and all of them as one runner whose slots are numbered through."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch

from models.tt_transformers.tt.runtime.decode_step import SKIP
from models.tt_transformers.tt.runtime.images import ImageKeys
from models.tt_transformers.tt.runtime.runner import DecodeHandle, Runner, run_prefills
from models.tt_transformers.tt.vision.images import UserImages


def make_runner(models: Sequence):
    """The runner of equal models, each on its own group of devices."""
    runners = [Runner(model) for model in models]
    return runners[0] if len(runners) == 1 else DataParallelRunner(runners)


class DataParallelRunner:
    """Several runners as one: group g has the slots from g * n on, where n is the number of slots of each.

    The methods are those of `Runner`. Each group has its own caches, so page ids repeat from group to group: a row of a
    page table has pages of its slot's group. All groups start a step before the first one is read.
    """

    def __init__(self, runners: Sequence[Runner]):
        self.runners = runners
        self.args = runners[0].args
        self.paged = runners[0].paged
        self.mesh_devices = [runner.mesh_device for runner in runners]
        self.users = sum(runner.users for runner in runners)
        self._group_users = runners[0].users

    def prefill(
        self,
        tokens: Sequence[list[int]],
        slots: Sequence[int],
        start_pos: Sequence[int] | None = None,
        page_table: torch.Tensor | None = None,
        *,
        lengths: Sequence[int] | None = None,
        images: Sequence[UserImages | None] | None = None,
        image_page_table: torch.Tensor | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> torch.Tensor:
        """As `Runner.prefill`; the sequences of each group run in the given order."""
        rows_of: dict[int, list[int]] = {}
        for row, slot in enumerate(slots):
            if not 0 <= slot < self.users:
                raise ValueError(f"slots {list(slots)}: they must be different and of 0 to {self.users - 1}")
            rows_of.setdefault(slot // self._group_users, []).append(row)
        prefills = []
        for group, rows in rows_of.items():
            with _naming(group):
                prefill = self.runners[group].start_prefill(
                    [tokens[row] for row in rows],
                    [slots[row] % self._group_users for row in rows],
                    None if start_pos is None else [start_pos[row] for row in rows],
                    None if page_table is None else page_table[rows],
                    lengths=None if lengths is None else [lengths[row] for row in rows],
                    images=None if images is None else [images[row] for row in rows],
                    image_page_table=None if image_page_table is None else image_page_table[rows],
                    progress=progress,
                )
            prefills.append(prefill)
        logits = torch.empty(len(slots), self.args.arch.vocab_size)
        for rows, part in zip(rows_of.values(), run_prefills(prefills)):
            logits[rows] = part
        return logits

    def compile_decode(self, page_table: torch.Tensor | None = None, *, trace: bool = True) -> None:
        for runner, rows in self._groups():
            runner.compile_decode(None if page_table is None else page_table[rows], trace=trace)

    def check_decode(self, tokens, positions, page_table) -> None:
        if not len(tokens) == len(positions) == self.users:
            raise ValueError(f"a decode step of {len(tokens)} tokens and {len(positions)} positions for {self.users} slots")
        for group, (runner, rows) in enumerate(self._groups()):
            with _naming(group):
                runner.check_decode(tokens[rows], positions[rows], None if page_table is None else page_table[rows])

    def submit_decode(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        page_table: torch.Tensor | None = None,
        images: ImageKeys | None = None,
    ) -> list[DecodeHandle | None]:
        """Starts the step of every group that has a running slot -> the handle of each group, for `read`."""
        self.check_decode(tokens, positions, page_table)
        return [
            runner.submit_decode(
                tokens[rows],
                positions[rows],
                None if page_table is None else page_table[rows],
                None if images is None else images.of(rows),
            )
            if any(position != SKIP for position in positions[rows])
            else None
            for runner, rows in self._groups()
        ]

    def read(self, handles: list[DecodeHandle | None]) -> torch.Tensor:
        idle = torch.zeros(self._group_users, self.args.arch.vocab_size)
        return torch.cat([idle if handle is None else runner.read(handle) for runner, handle in zip(self.runners, handles)])

    def close(self) -> None:
        with ExitStack() as closing:
            for runner in self.runners:
                closing.callback(runner.close)

    def _groups(self) -> Iterator[tuple[Runner, slice]]:
        """Each group's runner, and its slots."""
        for first, runner in zip(range(0, self.users, self._group_users), self.runners):
            yield runner, slice(first, first + self._group_users)


@contextmanager
def _naming(group: int):
    """Adds the group to the message of a ValueError, which numbers the users within their group."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"group {group}: {error}") from error
