"""The speed and accuracy expected of models, and the check whether a run reaches them.

    python -m models.common.model_targets RUN.json

compares the record of a demo run (`--output_json`) with `models/model_targets.yaml`. Exits with 1 on a shortfall.
"""

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

TARGETS = Path(__file__).resolve().parents[1] / "model_targets.yaml"
KEYS = ("backend", "model", "mesh", "mode", "case")
SOURCES = ("measured", "vendor")

_TARGET_FIELDS = {*KEYS, "source", "metrics"}
_METRIC_FIELDS = {"expected", "tolerance", "unit", "better"}
_BETTER = ("higher", "lower")
# Only a demo run with these settings is compared with a target: all layers, real weights, no profiler.
_COMPARABLE = {"num_layers": None, "dummy_weights": False, "profile": False}


@dataclass(frozen=True)
class Metric:
    """The expected value of one measured figure.

    Attributes:
        tolerance: how much worse than `expected` a value may be, in the metric's unit.
        better: "higher" or "lower". A value better than expected never fails.
    """

    name: str
    expected: float
    tolerance: float
    unit: str
    better: str

    def failure(self, got: float | None) -> str | None:
        """The reason why `got` falls short, or None if it does not. A `got` of None fails: it was not measured."""
        expected = f"expected {self.expected:g} {self.unit}, tolerance {self.tolerance:g}"
        if got is None:
            return f"{self.name}: {expected}, got nothing: it was not measured"
        shortfall = self.expected - got if self.better == "higher" else got - self.expected
        if math.isnan(shortfall) or shortfall > self.tolerance:
            return f"{self.name}: {expected}, got {got:g} {self.unit} ({self.better} is better)"
        return None


@dataclass(frozen=True)
class Target:
    """The metrics expected of one backend, model, mesh, mode and case. `source`: "measured" here, or "vendor"."""

    key: tuple
    source: str
    metrics: tuple

    def failures(self, measured: dict) -> list[str]:
        """One line for each expected metric that falls short or is missing in `measured` (name -> value)."""
        lines = [metric.failure(measured.get(metric.name)) for metric in self.metrics]
        return [f"{' '.join(self.key)}: {line}" for line in lines if line is not None]


def load(path: str | Path = TARGETS) -> dict:
    """Reads the targets: (backend, model, mesh, mode, case) -> Target. Raises ValueError that names the wrong entry."""
    try:
        entries = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"targets {path}: {error}") from error
    if not isinstance(entries, list):
        raise ValueError(f"targets {path}: expected a list")
    targets = {}
    for index, entry in enumerate(entries):
        where = f"targets {path}: entry {index}"
        _check_fields(where, entry, _TARGET_FIELDS)
        if entry["source"] not in SOURCES:
            raise ValueError(f"{where}: source is {entry['source']!r}; accepted: {', '.join(SOURCES)}")
        key = tuple(entry[name] for name in KEYS)
        if key in targets:
            raise ValueError(f"{where}: {' '.join(key)} is there twice")
        if not isinstance(entry["metrics"], dict) or not entry["metrics"]:
            raise ValueError(f"{where}: metrics is {entry['metrics']!r}; expected at least one")
        metrics = tuple(_metric(where, name, fields) for name, fields in entry["metrics"].items())
        targets[key] = Target(key, entry["source"], metrics)
    return targets


def _metric(where, name, fields):
    where = f"{where}: metric {name}"
    _check_fields(where, fields, _METRIC_FIELDS)
    for field in ("expected", "tolerance"):
        if type(fields[field]) not in (int, float) or not 0 <= fields[field] < math.inf:
            raise ValueError(f"{where}: {field} is {fields[field]!r}; accepted: a finite number >= 0")
    if fields["better"] not in _BETTER:
        raise ValueError(f"{where}: better is {fields['better']!r}; accepted: {', '.join(_BETTER)}")
    return Metric(name, **fields)


def _check_fields(where, entry, fields):
    if not isinstance(entry, dict) or set(entry) != fields:
        given = ", ".join(entry) if isinstance(entry, dict) else repr(entry)
        raise ValueError(f"{where}: it has {given}; expected {', '.join(sorted(fields))}")


def key_of(backend: str, model: str, mesh: str, mode: str, case: str, token_accuracy: bool) -> tuple:
    """The key of a demo run's target."""
    return backend, model, mesh, mode, case + (" token_accuracy" if token_accuracy else "")


def of_demo_record(record: dict) -> tuple[tuple, dict]:
    """A demo record's key, and by name its measurements (of several batches the slowest) and its accuracy.

    Runs with token_accuracy have their own case, "batch-1 token_accuracy", because their prompts are longer.
    """
    key = key_of(
        record["backend"], record["model"], record["mesh"], record["precision"], record["case"], record["settings"]["token_accuracy"]
    )
    measured = {}
    for entry in record["measurements"]:
        worst = max if entry["unit"] in ("s", "ms") else min
        measured[entry["name"]] = worst(entry["value"], measured.get(entry["name"], entry["value"]))
    return key, {**measured, **record.get("accuracy", {})}


def check_demo_record(record: dict, targets: dict) -> tuple[Target, list[str]]:
    """The target of a demo record, and one line for each metric that falls short.

    Raises ValueError if there is no target, and for a run whose settings do not allow the comparison.
    """
    for name, accepted in _COMPARABLE.items():
        if record["settings"][name] != accepted:
            raise ValueError(f"the run had {name} {record['settings'][name]!r}; targets are for runs with {accepted!r}")
    key, measured = of_demo_record(record)
    if key not in targets:
        known = "\n".join(" ".join(k) for k in targets)
        raise ValueError(f"no target for {' '.join(key)}; there are targets for:\n{known}")
    return targets[key], targets[key].failures(measured)


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: python -m models.common.model_targets RUN.json")
    try:
        record = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
        target, failures = check_demo_record(record, load())
    except KeyError as error:
        sys.exit(f"{sys.argv[1]}: field {error} is missing")
    except (OSError, ValueError) as error:
        sys.exit(f"{sys.argv[1]}: {error}")
    if failures:
        sys.exit("\n".join(failures))
    print(f"{' '.join(target.key)}: {len(target.metrics)} metrics as expected ({target.source})")


if __name__ == "__main__":
    main()
