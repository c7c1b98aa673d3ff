"""Tables of runs, for the screen and in Markdown."""

import shlex

from models.tt_transformers.demo.report import SPEEDS_ARE
from models.tt_transformers.measure import tables
from models.tt_transformers.measure.lt import commands, runs
from models.tt_transformers.measure.lt.results import Figures, Predicted, Result

COLUMNS = (
    "run", "state", "command", "model", "device", "t/s/u", "TTFT [ms]", "predicted t/s/u", "predicted TTFT [ms]",
    "PCC", "top-1", "top-5", "time", "note",
)  # fmt: skip
_NO_FIGURES = Figures(backend="", precision="")


def cells(result: Result) -> list[str]:
    """A run's row, in the order of `COLUMNS`; "" where there is nothing to say."""
    spec, figures = result.run.spec, result.figures or _NO_FIGURES
    named = ("", "", "") if spec is None else (what(spec), spec.model or figures.model, spec.device or figures.device)
    texts = [
        result.run.name,
        result.state,
        *named,
        *_speeds(figures),
        "" if result.pcc is None else f"{result.pcc:.5f}",
        *_accuracy(figures),
        "" if result.seconds is None else f"{result.seconds:.0f} s",
        result.note,
    ]
    return [printable(text) for text in texts]


def printable(text: str) -> str:
    """A text in one line, with U+FFFD for what a terminal would obey or cannot show: control characters, surrogates."""
    return "".join(character if character.isprintable() else "\ufffd" for character in " ".join(text.split()))


def what(spec: runs.Spec) -> str:
    """The command of a run, with its precision setting or its pytest line."""
    if spec.setting is not None:
        return f"{spec.command}: {spec.setting}"
    return f"pytest {shlex.join(spec.arguments)}" if spec.command == "pytest" else spec.command


def _speeds(figures: Figures) -> list[str]:
    return [
        _measured(figures.speed, figures.backend, 2),
        _measured(figures.ttft, figures.backend, 0),
        _interval(figures.predicted_speed, 1),
        _interval(figures.predicted_ttft, 0),
    ]


def _accuracy(figures: Figures) -> list[str]:
    return ["" if value is None else f"{value:.2f} %" for value in (figures.top1, figures.top5)]


def _measured(value: float | None, backend: str, digits: int) -> str:
    """A speed. Only one that was measured on a card stands alone; any other has the name of its backend beside it."""
    if value is None:
        return ""
    return f"{value:.{digits}f}" if backend == "silicon" else f"{value:.{digits}f} {backend}"


def _interval(predicted: Predicted | None, digits: int) -> str:
    if predicted is None:
        return ""
    low, value, high = (f"{number:.{digits}f}" for number in (predicted.low, predicted.value, predicted.high))
    return f"~{value} ({low} to {high})"


def notes(results: list[Result]) -> list[str]:
    """What a reader must know of the speeds in a table: a sentence for each backend, and one on predictions."""
    figures = [result.figures for result in results if result.figures is not None]
    backends = sorted({entry.backend for entry in figures if entry.speed is not None or entry.ttft is not None})
    lines = [
        f"Speeds with `{name}` are {SPEEDS_ARE.get(name, 'not known to be of a card')}."
        for name in backends
        if name != "silicon"
    ]
    if any(entry.predicted_speed or entry.predicted_ttft for entry in figures):
        lines.append("Predicted figures (~) were not measured: they are computed for a card, with an interval.")
    return lines


def markdown(results: list[Result]) -> str:
    """The newest figures of each model and device by precision mode, then all runs."""
    sections = [*_modes(results), "## Runs\n\n" + _table(COLUMNS, map(cells, results)), "\n".join(notes(results))]
    return "\n\n".join(section for section in sections if section) + "\n"


def _modes(results: list[Result]) -> list[str]:
    """A table for each precision: of the passed runs of `table`'s commands, the newest figure of each kind."""
    modes = {}
    for result in results:
        figures, spec = result.figures, result.run.spec
        if figures is None or result.state != runs.PASSED or spec.command not in commands.TABLE:
            continue
        row = modes.setdefault(figures.precision, {}).setdefault((spec.model, spec.device, figures.backend), {})
        accuracy = _accuracy(figures)
        row.update(zip(("top-1", "top-5"), accuracy) if any(accuracy) else zip(COLUMNS[5:9], _speeds(figures)))
    columns = ("top-1", "top-5", *COLUMNS[5:9])
    return [
        f"## {precision}\n\n"
        + _table(
            ("model", "device", *columns),
            [
                [printable(model), device, *(row.get(name, "") for name in columns)]
                for (model, device, _), row in rows.items()
            ],
        )
        for precision, rows in modes.items()
    ]


def _table(header, rows) -> str:
    return tables.table(header, [[_escaped(cell) for cell in row] for row in rows], len(header))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|")
