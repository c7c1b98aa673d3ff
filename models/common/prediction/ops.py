"""The ops of a step on a card: calls that are alike are counted together."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from .call import Call
from .card import Card
from .cost import RATES, Rates, Time, time_of
from .rules import work_of
from .work import Work


@dataclass(frozen=True)
class Ops:
    """Calls of a step that differ, with how many times each runs, and its work and time on a card.

    `order`: the index of each call that runs, in the step's order.
    """

    calls: tuple[Call, ...]
    counts: tuple[int, ...]
    works: tuple[Work, ...]
    times: tuple[Time, ...]
    order: tuple[int, ...]

    @classmethod
    def of(cls, calls: Iterable[tuple[Call, int]], card: Card, rates: Rates = RATES) -> "Ops":
        """`calls`: (call, times it runs). Raises ValueError for an op without a cost."""
        counts, known, order = Counter(), {}, []
        indices = {}
        for call, count in calls:
            counts[call.key] += count
            known[call.key] = call
            order += [indices.setdefault(call.key, len(indices))] * count
        works = [work_of(call, card) for call in known.values()]
        times = [time_of(work, card, rates) for work in works]
        return cls(tuple(known.values()), tuple(counts[key] for key in known), tuple(works), tuple(times), tuple(order))

    @cached_property
    def seconds(self) -> float:
        """Predicted seconds of all kernels together."""
        return sum(time.seconds * count for time, count in zip(self.times, self.counts))

    @cached_property
    def count(self) -> int:
        """Kernels that run."""
        return sum(self.counts)

    def rows(self) -> list[dict]:
        """One row per call that differs: what it is, how often it runs, its seconds together, its bound and share."""
        return [
            {
                "op": call.name or call.op, "kind": work.kind, "shape": _shapes(call), "calls": count,
                "seconds": time.seconds * count, "bound": time.bound, "share": time.share,
                "flops": work.flops * count, "dram_bytes": work.dram_bytes * count,
            }
            for call, count, work, time in zip(self.calls, self.counts, self.works, self.times)
        ]  # fmt: skip


def _shapes(call: Call) -> str:
    tensors = [tensor for tensor in call.inputs if tensor is not None][:2]
    return " ".join(f"{'x'.join(map(str, tensor.shape))} {tensor.dtype.lower()}" for tensor in tensors)


def by_kind(rows: Sequence[dict]) -> list[dict]:
    """Rows of ops added up by kind, the costliest first. The bound is that of most of the time, the share a mean by time."""
    kinds: dict[str, list[dict]] = {}
    for row in rows:
        kinds.setdefault(row["kind"], []).append(row)
    table = []
    for kind, parts in kinds.items():
        seconds = sum(part["seconds"] for part in parts)
        bounds = Counter()
        for part in parts:
            bounds[part["bound"]] += part["seconds"]
        table.append({
            "kind": kind, "calls": sum(part["calls"] for part in parts), "seconds": seconds, "bound": max(bounds, key=bounds.get),
            "share": sum(part["share"] * part["seconds"] for part in parts) / seconds,
        })  # fmt: skip
    return sorted(table, key=lambda row: -row["seconds"])
