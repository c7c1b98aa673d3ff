"""A run's figures: from the demo's JSON record and pytest's own report, never from the log.

A file that is missing, cut off or of another version costs the run its figures, not the table.
"""

import json
import math
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median

import pytest

from models.tt_transformers.demo.record import SCHEMA_VERSION
from models.tt_transformers.measure.lt import runs

SKIPPED = "skipped"  # pytest ended well, but ran no test
_WITH_FILES = (runs.PASSED, runs.FAILED, runs.CANCELLED, runs.LOST)


@dataclass(frozen=True)
class Predicted:
    """A predicted value with the ends of its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Figures:
    """What a demo's record holds; None where it holds nothing.

    speed: decode_t/s/u of `backend`. ttft: ms. top1, top5: percent. The predicted ones are of a card.
    """

    backend: str
    precision: str
    model: str = ""
    device: str = ""
    speed: float | None = None
    ttft: float | None = None
    top1: float | None = None
    top5: float | None = None
    predicted_speed: Predicted | None = None
    predicted_ttft: Predicted | None = None


@dataclass(frozen=True)
class Report:
    """pytest's report: numbers of tests, the lowest PCC that they recorded, the first failure in one line."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    pcc: float | None = None
    failure: str = ""


@dataclass(frozen=True)
class Result:
    """A run's state and figures now. `note` says in one line what else a user should know."""

    run: runs.Run
    state: str
    seconds: float | None = None
    figures: Figures | None = None
    pcc: float | None = None
    note: str = ""

    @property
    def is_final(self) -> bool:
        return self.state not in (runs.QUEUED, *runs.ACTIVE)


def read(run: runs.Run) -> Result:
    state = run.state()
    if state in runs.ACTIVE:
        return Result(run, state, note="the tool that started it has ended; the run goes on" if run.was_left() else "")
    if state not in _WITH_FILES:
        return Result(run, state, note=run.problem or "")
    problems = []
    report = _tried(read_report, run.folder / "tests.xml", problems) or Report()
    figures = _tried(read_record, run.folder / "record.json", problems)
    if state == runs.PASSED and report.passed == 0 and not problems:
        state = SKIPPED
    if state == runs.FAILED:
        problems.append(report.failure or _reason(run))
    if state == runs.LOST:
        problems.append("its processes ended without a result; run it again")
    return Result(run, state, _seconds(run), figures, report.pcc, "; ".join(problems))


def _tried(read_file, path: Path, problems: list[str]):
    try:
        return read_file(path)
    except ValueError as error:
        problems.append(str(error))


def read_record(path: Path) -> Figures | None:
    """The figures of a demo's record; None if there is no file. Raises ValueError that names the file and the error."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema_version is {record['schema_version']!r}; accepted: {SCHEMA_VERSION}")
        return _figures(record)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path.name}: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path.name}: not a record of a demo ({type(error).__name__}: {error})") from error


def _figures(record: dict) -> Figures:
    measured = {}
    for entry in record["measurements"]:
        measured.setdefault(entry["name"], []).append(_number(entry["value"]))
    accuracy, prediction = _section(record, "accuracy"), _section(record, "prediction")
    return Figures(
        backend=str(record["backend"]),
        precision=str(record["precision"]),
        model=str(record["model"]),
        device=str(record["mesh"]),
        speed=median(measured["decode_t/s/u"]) if "decode_t/s/u" in measured else None,
        ttft=median(measured["TTFT"]) if "TTFT" in measured else None,
        **{name: _number(accuracy[name]) for name in ("top1", "top5") if name in accuracy},
        predicted_speed=_predicted(prediction.get("decode_t/s/u")),
        predicted_ttft=_predicted(prediction.get("TTFT")),
    )


def _section(record: dict, name: str) -> dict:
    """A part of a record that may be missing or null."""
    section = record.get(name) or {}
    if not isinstance(section, dict):
        raise ValueError(f"{name} is {section!r}; expected an object")
    return section


def _predicted(entry: dict | None) -> Predicted | None:
    return None if entry is None else Predicted(*(_number(entry[name]) for name in ("value", "low", "high")))


def _number(value) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def read_report(path: Path) -> Report | None:
    """pytest's report (`--junitxml`); None if there is no file. Raises ValueError that names the file and the error."""
    try:
        tests = list(ElementTree.parse(path).getroot().iter("testcase"))
        properties = [entry for test in tests for entry in test.iter("property") if entry.get("name") == "pcc"]
        pccs = [_number(float(entry.get("value", ""))) for entry in properties]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise ValueError(f"{path.name}: {error}") from error
    failures = [test.find(kind) for test in tests for kind in ("failure", "error") if test.find(kind) is not None]
    skipped = sum(test.find("skipped") is not None for test in tests)
    failed = sum(test.find("failure") is not None or test.find("error") is not None for test in tests)
    message = failures[0].get("message", "").strip() if failures else ""
    return Report(
        len(tests) - failed - skipped,
        failed,
        skipped,
        min(pccs, default=None),
        message.splitlines()[0] if message else "",
    )


def _reason(run: runs.Run) -> str:
    """Why a run failed of which pytest reported no failure."""
    status = run.ended()["status"]
    if status is None:
        return "pytest could not be started"
    if status < 0:
        return f"killed by signal {-status}"
    names = {code.value: code.name.lower().replace("_", " ") for code in pytest.ExitCode}
    return f"pytest ended with status {status}: {names.get(status, 'not known')}"


def _seconds(run: runs.Run) -> float | None:
    """From start to end; None if one of the times is not known."""
    try:
        times = [datetime.fromisoformat(run.started()["started"]), datetime.fromisoformat(run.ended()["ended"])]
    except (ValueError, TypeError):
        return None
    return (times[1] - times[0]).total_seconds()
