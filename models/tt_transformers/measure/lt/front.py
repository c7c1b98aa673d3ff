"""Pareto fronts of precision settings: token accuracy against speed, or against bytes where no speed is a card's."""

import argparse
from pathlib import Path

from models.tt_transformers.measure import capacity, pareto
from models.tt_transformers.measure.lt import runs
from models.tt_transformers.measure.lt.results import Result

MEASURED = pareto.Cost("t/s/u", "measured t/s/u", lambda milliseconds: 1000 / milliseconds, "{:.1f}")
PREDICTED = pareto.Cost(
    "predicted t/s/u", "predicted t/s/u, not measured", lambda milliseconds: 1000 / milliseconds, "~{:.1f}"
)
WEIGHTS = pareto.Cost("weights of a device", "DRAM of a device's weights [MB]", lambda size: size / 1e6, "{:.2f} MB")

_CONTEXT = 1024  # tokens, for which a model is laid out to count the bytes of its weights


def alike(results: list[Result], result: Result) -> list[Result]:
    """The results of the same command, model and device as one of them."""
    spec = result.run.spec
    key = (spec.command, spec.model, spec.device)
    return [
        each
        for each in results
        if each.run.spec and (each.run.spec.command, each.run.spec.model, each.run.spec.device) == key
    ]


def write(results: list[Result], path: Path) -> str:
    """Plots the front of the passed runs among `results`, all of one model and device. Returns its table in Markdown.

    Raises ValueError if no run has an accuracy, OSError if the file cannot be written.
    """
    newest = {
        result.run.spec.setting: result
        for result in results
        if result.run.spec.setting
        and result.state == runs.PASSED
        and result.figures
        and result.figures.top1 is not None
    }
    if not newest:
        raise ValueError("there is no Pareto front: no run of a precision setting has passed and has a token accuracy")
    cost, costs = _costs(newest)
    points = {name: (result.figures.top1, result.figures.top5, costs[name]) for name, result in newest.items()}
    any_of_them = next(iter(newest.values()))
    spec, backend = any_of_them.run.spec, any_of_them.figures.backend
    pareto.plot(points, f"{Path(spec.model).name}, {spec.device} ({backend})", path, cost)
    return pareto.table(points, cost)


def _costs(newest: dict[str, Result]) -> tuple[pareto.Cost, dict[str, float]]:
    """What all settings are compared by: a decode step in ms, measured on a card or predicted for one; else bytes."""
    figures = {name: result.figures for name, result in newest.items()}
    if all(entry.backend == "silicon" and entry.speed for entry in figures.values()):
        return MEASURED, {name: 1000 / entry.speed for name, entry in figures.items()}
    if all(entry.predicted_speed for entry in figures.values()):
        return PREDICTED, {name: 1000 / entry.predicted_speed.value for name, entry in figures.items()}
    return WEIGHTS, {name: _weight_bytes(result.run.spec) for name, result in newest.items()}


def _weight_bytes(spec: runs.Spec) -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--optimizations")
    parser.add_argument("--decoder_config_file")
    parser.add_argument("--num_layers", type=int)
    given, _ = parser.parse_known_args(spec.arguments)
    settings = {name: value for name, value in vars(given).items() if value is not None}
    model = spec.environment.get("HF_MODEL") or spec.environment.get("LLAMA_DIR")
    return capacity.measure(spec.device, _CONTEXT, chunks=1, model=model, **settings).weights
