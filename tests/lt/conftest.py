"""Runs of `lt` that cost little: pytest lines over tiny test files outside of the project."""

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from models.tt_transformers.measure.lt import commands, runs
from models.tt_transformers.measure.lt.scheduler import Scheduler


@pytest.fixture
def folder(tmp_path):
    """A new folder of runs. At the end all processes that its runs started are killed."""
    folder = runs.Runs(tmp_path / "runs")
    yield folder
    for run in folder.all():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if run.is_locked():
                os.killpg(int((run.folder / "group").read_text()), signal.SIGKILL)


@pytest.fixture
def line(tmp_path):
    """`line(body)`: a pytest line that runs one test with this body; the test has `record_property`."""

    def make(body: str = "pass", name: str = "quick") -> str:
        path = tmp_path / "lines" / f"test_{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"def test_{name}(record_property):\n    {body}\n")
        return f"pytest -qs -p no:cacheprovider -p no:xdist -p no:anyio {path}"

    return make


def add(folder: runs.Runs, line: str) -> runs.Run:
    (spec,) = commands.specs(line)
    return folder.add(spec)


def until(condition, folder: runs.Runs | None = None, jobs: int = 1):
    """Waits for a condition, and meanwhile keeps the runs of `folder` going. The test fails if it never holds."""
    scheduler = folder and Scheduler(folder, jobs)
    for _ in range(1200):
        if scheduler:
            scheduler.tick()
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited in vain: {[(run.name, run.state()) for run in folder.all()] if folder else ''}")


def is_gone(pid: int) -> bool:
    """Whether a process has ended. One that nobody has waited for yet counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True
