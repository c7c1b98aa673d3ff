"""Runs one pytest process and writes down how it ended.

    python supervisor.py FOLDER LOCK TOOL

FOLDER is the run's folder, with `run.json`. LOCK is the number of an open file descriptor that holds the run's lock:
the run is alive as long as this process or pytest holds it. TOOL is the number of the process that started this one.
The supervisor has a session of its own, so it goes on when the tool ends. It uses only the standard library: importing
`models` would take 300 MB for each run.
"""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

POLL = 0.2  # seconds
# From the interrupt, on which pytest closes the devices, to the kill.
GRACE = 10.0
_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT)


def main(folder: Path, lock: int, tool: int) -> None:
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    # A shell lets the jobs in its background ignore interrupts, and so would pytest, which inherits this.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    status = None
    try:
        with open(folder / "log.txt", "wb") as log:
            child = subprocess.Popen(
                command(run, folder),
                env=environment(run),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[lock],
                start_new_session=True,
            )
        status = _wait(child, folder, tool)
    finally:
        cancelled = (folder / "cancel").exists()
        _write(folder / "ended.json", {"status": status, "cancelled": cancelled, "ended": now()})


def command(run: dict, folder: Path) -> list[str]:
    record = [f"--output_json={folder / 'record.json'}"] if run["keeps_record"] else []
    report = [
        "-o",
        "junit_family=xunit1",
        f"--junitxml={folder / 'tests.xml'}",
    ]  # this family has the tests' properties
    return [sys.executable, "-m", "pytest", *run["arguments"], *report, *record]


def environment(run: dict) -> dict[str, str]:
    """This process's environment with the run's variables; None means that a variable is not set."""
    merged = {**os.environ, **run["environment"], "PYTHONUNBUFFERED": "1"}
    return {name: value for name, value in merged.items() if value is not None}


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _wait(child: subprocess.Popen, folder: Path, tool: int) -> int:
    """The exit status of `child`. Its process group is killed when it ends, is cancelled or its folder is removed."""
    with contextlib.suppress(OSError):  # a full disk: then only this process can cancel the run
        (folder / "group").write_text(str(child.pid))
    interrupted = None
    while child.poll() is None:
        time.sleep(POLL)
        if os.getppid() != tool:  # the tool has ended, and this process has another parent
            with contextlib.suppress(OSError):
                (folder / "left").touch()
        if interrupted is None and ((folder / "cancel").exists() or not folder.exists()):
            interrupted = time.monotonic()
            os.killpg(child.pid, signal.SIGINT)
        elif interrupted is not None and time.monotonic() > interrupted + GRACE:
            os.killpg(child.pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # processes that pytest left behind
    return child.returncode


def _write(path: Path, content: dict) -> None:
    """Writes a JSON file, whole or not at all. Waits for room on a full disk, so that the result is not lost."""
    temporary = path.with_suffix(".tmp")
    while True:
        try:
            temporary.write_text(json.dumps(content), encoding="utf-8")
            return os.replace(temporary, path)
        except OSError as error:
            if error.errno not in _DISK_IS_FULL:
                raise
            time.sleep(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
