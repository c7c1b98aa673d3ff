"""Wall-clock times of the named parts of a run."""

import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Measurement:
    """One number measured in a run. `batch` is the batch that it belongs to; None for the whole run."""

    name: str
    value: float
    unit: str
    batch: int | None = None

    def as_json(self) -> dict:
        """The fields as a dict. `batch` is left out if it is None."""
        return {name: value for name, value in asdict(self).items() if value is not None}


class Profiler:
    """Adds up the seconds spent under each name, and counts how often.

    with profiler.timed("decode"):
        ...
    profiler.seconds("decode")
    """

    def __init__(self, clock=time.perf_counter):
        self._clock = clock
        self._seconds = {}
        self._counts = {}

    @contextmanager
    def timed(self, name: str):
        """Context manager: times its body. A body that raises is not counted."""
        start = self._clock()
        yield
        self._seconds[name] = self._seconds.get(name, 0.0) + self._clock() - start
        self._counts[name] = self.count(name) + 1

    def seconds(self, name: str) -> float:
        """Seconds spent under `name`. Raises KeyError if nothing was."""
        return self._seconds[name]

    def count(self, name: str) -> int:
        """How often `name` was timed."""
        return self._counts.get(name, 0)
