"""The runs on disk. Several tools may use a folder of runs at the same time.

A run is a folder of its own, named by its number. Each file in it has one writer and is written once:

| file | written by | when |
| --- | --- | --- |
| `run.json` | a tool | the run is queued: what to run |
| `cancel` | a tool | a user cancels it |
| `started.json` | a tool | it starts: the time |
| `lock` | nobody | locked by the supervisor and by pytest, as long as one of them is alive |
| `group` | the supervisor | it started pytest: the number of the process group |
| `left` | the supervisor | the tool that started the run ended before it |
| `log.txt`, `record.json`, `tests.xml` | pytest | output, the demo's record, pytest's report |
| `ended.json` | the supervisor | pytest ended: its exit status |

So a run's state follows from its files and from the lock, and no crash leaves a state that is wrong.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from models.common import benchmark_record, whole_file
from models.tt_transformers.measure.lt import supervisor

FOLDER = benchmark_record.ROOT / "generated" / "lt"

QUEUED, RUNNING, CANCELLING = "queued", "running", "cancelling"
PASSED, FAILED, CANCELLED = "passed", "failed", "cancelled"
# Its processes ended without a result (they were killed, or the computer was switched off), or its folder was removed.
LOST = "lost"
UNREADABLE = "unreadable"  # run.json or ended.json is damaged
ACTIVE = (RUNNING, CANCELLING)

_VERSION = 1


@dataclass(frozen=True)
class Spec:
    """What to run.

    command: the name that a user chose, or "pytest".
    model, device: "" if a pytest line does not name them.
    arguments: pytest's.
    environment: variables that the run has besides the tool's; None for one that must not be set.
    keeps_record: whether the run is one case of a demo, which writes a record.
    setting: the name of the precision setting, in a Pareto analysis.
    """

    command: str
    model: str
    device: str
    arguments: tuple[str, ...]
    environment: dict[str, str | None]
    keeps_record: bool
    setting: str | None = None


class Run:
    """A run in its folder. `spec` is None if `run.json` is damaged; `problem` then says how."""

    def __init__(self, folder: Path):
        self.folder, self.spec, self.problem = folder, None, None
        try:
            self.spec = _read_spec(folder / "run.json")
        except ValueError as error:
            self.problem = str(error)

    @property
    def name(self) -> str:
        return self.folder.name

    def state(self) -> str:
        if self.spec is None:
            return UNREADABLE
        # In this order. A run that starts or ends in between is then seen as it was before or after.
        started, locked = (self.folder / "started.json").exists(), self.is_locked()
        try:
            ended = self.ended()
        except ValueError as error:
            self.problem = str(error)
            return UNREADABLE
        cancelled = (self.folder / "cancel").exists()
        if ended is not None:
            if ended["cancelled"]:
                return CANCELLED
            return PASSED if ended["status"] == 0 else FAILED
        if locked:
            return CANCELLING if cancelled else RUNNING
        if cancelled:
            return CANCELLED
        return LOST if started or not self.folder.exists() else QUEUED

    def ended(self) -> dict | None:
        """`ended.json`, or None. Raises ValueError if it is damaged."""
        return _read_json(self.folder / "ended.json", {"status": (int, type(None)), "cancelled": bool, "ended": str})

    def started(self) -> dict | None:
        """`started.json`, or None. Raises ValueError if it is damaged."""
        return _read_json(self.folder / "started.json", {"started": str})

    def was_left(self) -> bool:
        """Whether the tool that started the run ended before it."""
        return (self.folder / "left").exists()

    def is_locked(self) -> bool:
        with self._opened_lock(os.O_RDONLY) as lock:
            return lock is not None and not _try_lock(lock, fcntl.LOCK_SH)

    @contextlib.contextmanager
    def claimed(self) -> Iterator[int | None]:
        """Holds the run's lock; its descriptor, or None if another process holds it or the run is gone.

        A process that inherits the descriptor keeps the lock.
        """
        with self._opened_lock(os.O_RDWR | os.O_CREAT) as lock:
            yield lock if lock is not None and _try_lock(lock, fcntl.LOCK_EX) else None

    @contextlib.contextmanager
    def _opened_lock(self, flags: int) -> Iterator[int | None]:
        try:
            lock = os.open(self.folder / "lock", flags)
        except FileNotFoundError:
            yield None
            return
        try:
            yield lock
        finally:
            os.close(lock)

    def cancel(self) -> None:
        """A queued run will not start. The supervisor interrupts a running one, and kills it after `GRACE` seconds."""
        (self.folder / "cancel").touch()

    def end_if_unsupervised(self) -> None:
        """Kills a cancelled run that is still there long after its supervisor should have killed it."""
        with contextlib.suppress(OSError, ValueError):
            waited = time.time() - (self.folder / "cancel").stat().st_mtime
            if waited > 1.5 * supervisor.GRACE and self.is_locked():
                os.killpg(int((self.folder / "group").read_text()), signal.SIGKILL)

    def delete(self) -> None:
        """Removes the run's folder. Raises ValueError if the run is alive."""
        deadline = time.monotonic() + 1  # another tool that looks at the state holds the lock for a moment
        while self.folder.exists():
            with self.claimed() as lock:
                if lock is not None:
                    return shutil.rmtree(self._set_aside())
            if time.monotonic() > deadline:
                raise ValueError(f"run {self.name} is running; cancel it first")
            time.sleep(0.02)

    def _set_aside(self) -> Path:
        aside = Path(tempfile.mkdtemp(prefix=".deleted-", dir=self.folder.parent))
        return self.folder.rename(aside / self.name).parent


class Runs:
    """The runs in a folder. Raises ValueError if nothing can be written there."""

    def __init__(self, folder: Path = FOLDER):
        whole_file.make_folder(folder, "--state")
        self.folder = folder
        self._known: dict[str, Run] = {}

    def all(self) -> list[Run]:
        """In the order in which they were queued. The same run is the same object every time."""
        found = {}
        for entry in os.scandir(self.folder):
            with contextlib.suppress(FileNotFoundError):
                if entry.name.isdecimal():
                    folder = Path(entry.path)
                    key = entry.name, _time_written(folder)  # a new run may have a deleted one's number
                    found[key] = self._known.get(key) or Run(folder)
        self._known = dict(sorted(found.items(), key=lambda item: int(item[0][0])))
        return list(self._known.values())

    def add(self, spec: Spec) -> Run:
        """Queues a run. Its folder appears with everything in it, or not at all.

        Raises OSError, e.g. on a full disk.
        """
        new = Path(tempfile.mkdtemp(prefix=".new-", dir=self.folder))
        try:
            (new / "lock").touch()
            whole_file.write_json(new / "run.json", {"version": _VERSION, **asdict(spec)})
            number = 1 + max((int(name) for name in os.listdir(self.folder) if name.isdecimal()), default=0)
            while not _renamed(new, self.folder / f"{number:04d}"):
                number += 1
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        return Run(self.folder / f"{number:04d}")

    @contextlib.contextmanager
    def scheduling(self) -> Iterator[bool]:
        """Whether this tool may now count the running runs and start more: one tool at a time."""
        with open(self.folder / "scheduling.lock", "wb") as lock:
            yield _try_lock(lock.fileno(), fcntl.LOCK_EX)


def _time_written(folder: Path) -> int:
    """When a run was queued; 0 if its `run.json` is missing. Raises FileNotFoundError if there is no such folder."""
    try:
        return os.stat(folder / "run.json").st_mtime_ns
    except FileNotFoundError:
        os.stat(folder)
        return 0


def _renamed(folder: Path, name: Path) -> bool:
    """Renames a folder, unless another one has the name already."""
    try:
        folder.rename(name)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_spec(path: Path) -> Spec:
    kinds = {"command": str, "model": str, "device": str, "arguments": list, "environment": dict, "keeps_record": bool}
    content = _read_json(path, {"version": int, **kinds, "setting": (str, type(None))})
    if content is None:
        raise ValueError(f"{path}: there is no such file")
    if content["version"] != _VERSION:
        raise ValueError(f"{path}: version is {content['version']}; accepted: {_VERSION}")
    texts = [*content["arguments"], *content["environment"], *filter(None, content["environment"].values())]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{path}: arguments and environment must be texts")
    spec = {field.name: content[field.name] for field in fields(Spec)}
    return Spec(**{**spec, "arguments": tuple(content["arguments"])})


def _read_json(path: Path, kinds: dict) -> dict | None:
    """The object in a file, None if there is no file. Raises ValueError that names the file and the error in it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error
    for name, kind in kinds.items():
        if not isinstance(content, dict) or name not in content or not isinstance(content[name], kind):
            raise ValueError(f"{path}: {name} is missing or has a wrong type")
    return content
