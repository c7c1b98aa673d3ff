"""Benchmark records: what was measured, with which software, on which machine. To compare two of them:

    python -m models.common.benchmark_record compare A.json B.json

A record is a JSON object: `schema` ("benchmark 1"), `created` (ISO 8601, UTC), `git_revision`, `machine`, `backend`,
`mesh`, `model`, `precision`, `case`, `versions`, `facts` (the run's other settings), and `measurements`, a list of
`name`, `value`, `unit`, `iteration` (from 0; null for a number that belongs to the whole run). `cpu` has the `features` of
the processor and the variables that are `limits` to them, see `models.common.cpu`; the oldest records lack it.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

from models.common import backend, console, cpu, whole_file

SCHEMA = "benchmark 1"
ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "generated" / "benchmarks"

_numbers = itertools.count()

_FIELDS = {
    "schema": str,
    "created": str,
    "git_revision": str,
    "machine": str,
    "backend": str,
    "mesh": str,
    "model": str,
    "precision": str,
    "case": str,
    "versions": dict,
    "facts": dict,
    "measurements": list,
}
_OPTIONAL = {"cpu": dict}


def measurement(name: str, value: float, unit: str, iteration: int | None = None) -> dict:
    return {"name": name, "value": value, "unit": unit, "iteration": iteration}


def origin() -> dict:
    """The time, machine and software versions of a run that ends now."""
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "git_revision": git_revision(),
        "machine": machine(),
        "cpu": {"features": cpu.features(), "limits": cpu.limits()},
        "backend": backend.name(),
        "versions": backend.versions(),
    }


def make(*, mesh: str, model: str, precision: str, case: str, measurements: list[dict], **facts) -> dict:
    """A record of a run that ends now, on this machine."""
    return {
        "schema": SCHEMA,
        **origin(),
        "mesh": mesh,
        "model": model,
        "precision": precision,
        "case": case,
        "facts": facts,
        "measurements": measurements,
    }


def write(record: dict, path: str | Path | None = None) -> Path:
    """Writes a record, whole or not at all, to `path` or to a new file in generated/benchmarks. Returns the path."""
    if path is None:
        FOLDER.mkdir(parents=True, exist_ok=True)
        # A process may write several records of one kind within a second.
        stamp = record["created"].replace(":", "").replace("-", "").split("+")[0]
        parts = (stamp, record["model"], record["mesh"], record["precision"], record["case"], f"{os.getpid()}-{next(_numbers)}")
        path = FOLDER / ("_".join(part.replace("/", "-").replace(" ", "") for part in parts) + ".json")
    path = Path(path)
    check(record, str(path))
    whole_file.write_json(path, record)
    return path


def keep(record: dict, output: Path | None = None) -> Path:
    """Writes a record to a new file in generated/benchmarks, whose path it returns, and also to `output` if given.

    If a file cannot be written, prints the record and raises NotWritten.
    """
    with whole_file.printed_if_not_written(record, "benchmark record"):
        if output is not None:
            write(record, output)
        return write(record)


def read(path: str | Path) -> dict:
    """Reads and checks a record. Raises ValueError that names the file and the error in it."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"benchmark record {path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"benchmark record {path} is not JSON: {error}") from error
    check(record, str(path))
    return record


def check(record: dict, where: str) -> None:
    """Raises ValueError if a field is missing, has a wrong type or is unknown."""
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise ValueError(f"benchmark record {where}: expected an object with schema {SCHEMA!r}")
    for name, kind in {**_FIELDS, **{name: kind for name, kind in _OPTIONAL.items() if name in record}}.items():
        if not isinstance(record.get(name), kind):
            raise ValueError(f"benchmark record {where}: field {name!r} is {record.get(name)!r}; expected {kind.__name__}")
    for name in record:
        if name not in {**_FIELDS, **_OPTIONAL}:
            accepted = ", ".join([*_FIELDS, *_OPTIONAL])
            raise ValueError(f"benchmark record {where}: field {name!r} is not known; accepted: {accepted}")
    for entry in record["measurements"]:
        if not isinstance(entry, dict) or set(entry) != {"name", "value", "unit", "iteration"}:
            raise ValueError(f"benchmark record {where}: measurement {entry!r}; expected name, value, unit, iteration")
        value, iteration = entry["value"], entry["iteration"]
        texts = isinstance(entry["name"], str) and isinstance(entry["unit"], str)
        numbers = type(value) in (int, float) and (iteration is None or type(iteration) is int)
        if not (texts and numbers):
            raise ValueError(f"benchmark record {where}: measurement {entry!r}; expected texts, a number, and a count or null")


def medians(record: dict) -> dict:
    """name -> (median over iterations, unit)."""
    values = {}
    for entry in record["measurements"]:
        values.setdefault((entry["name"], entry["unit"]), []).append(entry["value"])
    return {name: (statistics.median(numbers), unit) for (name, unit), numbers in values.items()}


def compare(before: dict, after: dict) -> list[str]:
    """Lines of text: first the settings that differ, then each measurement's change of median, largest first."""
    lines = [
        f"{name}: {before.get(name)} -> {after.get(name)}"
        for name in [*_FIELDS, *_OPTIONAL]
        if name not in ("schema", "measurements") and before.get(name) != after.get(name)
    ]
    old, new = medians(before), medians(after)
    rows = []
    for name in old.keys() & new.keys():
        (was, unit), (now, new_unit) = old[name], new[name]
        if unit != new_unit:
            lines.append(f"{name}: {was:.6g} {unit} -> {now:.6g} {new_unit}, another unit")
            continue
        change = 0.0 if was == now else (now - was) / abs(was) if was else float("inf")
        rows.append((abs(change), f"{name}: {was:.6g} -> {now:.6g} {unit} ({change:+.1%})"))
    lines += [text for _, text in sorted(rows, reverse=True)]
    lines += [f"{name}: only in the first" for name in sorted(old.keys() - new.keys())]
    lines += [f"{name}: only in the second" for name in sorted(new.keys() - old.keys())]
    return lines


def git_revision() -> str:
    """The checked-out commit, with `+changes` if tracked files differ from it; "unknown" outside git.

    Changed records, and documents made from records, are ignored. Otherwise the first of several runs would mark the
    later ones as changed.
    """
    try:
        revision = _git("rev-parse", "--short=12", "HEAD")
        changes = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)*/records/*", ":(exclude)*.md")
        return revision + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments):
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def machine() -> str:
    """The processor's name and how many of its cores this process may use."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


def main():
    parser = argparse.ArgumentParser(prog="python -m models.common.benchmark_record")
    command = parser.add_subparsers(dest="command", required=True).add_parser("compare", help="print what moved")
    command.add_argument("before", metavar="A.json")
    command.add_argument("after", metavar="B.json")
    options = parser.parse_args()
    try:
        lines = compare(read(options.before), read(options.after))
    except ValueError as error:
        sys.exit(str(error))
    print("\n".join(lines))


if __name__ == "__main__":
    console.run(main)
