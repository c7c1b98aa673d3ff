"""Starts queued runs, so many at a time."""

import contextlib
import os
import subprocess
import sys

from models.common import backend, benchmark_record, whole_file
from models.tt_transformers.measure.lt import runs, supervisor


class Scheduler:
    """Starts the runs of a folder in order, as long as fewer than `jobs` are alive, whichever tool started them.

    Raises ValueError for a number of jobs that is not possible here.
    """

    def __init__(self, folder: runs.Runs, jobs: int = 1):
        self.runs, self.jobs = folder, 1
        self.set_jobs(jobs)
        self._supervisors: list[subprocess.Popen] = []

    def set_jobs(self, jobs: int) -> None:
        if jobs < 1:
            raise ValueError(f"jobs is {jobs}; expected a whole number >= 1")
        if jobs > 1 and backend.name() == "silicon":
            raise ValueError(f"jobs is {jobs}; a card takes one run at a time")
        self.jobs = jobs

    def tick(self, chosen=lambda run: True) -> None:
        """Starts what may start now, of the runs that `chosen` accepts. Call it again and again.

        Raises OSError if a run cannot be started, e.g. on a full disk. The run stays queued.
        """
        self._supervisors = [process for process in self._supervisors if process.poll() is None]
        with self.runs.scheduling() as mine:
            if mine:
                self._start_what_may_start(chosen)

    def _start_what_may_start(self, chosen) -> None:
        states = {run: run.state() for run in self.runs.all()}
        for run, state in states.items():
            if state == runs.CANCELLING:
                run.end_if_unsupervised()
        free = self.jobs - sum(state in runs.ACTIVE for state in states.values())
        queued = [run for run, state in states.items() if state == runs.QUEUED and chosen(run)]
        for run in queued[: max(free, 0)]:
            self._start(run)

    def _start(self, run: runs.Run) -> None:
        with run.claimed() as lock:
            if lock is None or (run.folder / "cancel").exists():
                return
            started = run.folder / "started.json"
            whole_file.write_json(started, {"started": supervisor.now()})
            try:
                self._supervisors.append(
                    subprocess.Popen(
                        [sys.executable, "-I", supervisor.__file__, str(run.folder), str(lock), str(os.getpid())],
                        cwd=benchmark_record.ROOT,
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                        pass_fds=[lock],
                        start_new_session=True,
                    )
                )
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(started)
                raise
