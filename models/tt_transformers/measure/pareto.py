"""Compares precision settings: token accuracy against the weight bytes that a decode step reads.

    python -m models.tt_transformers.measure.pareto --configurations FOLDER [--users 4] [--output FOLDER]

evaluates every JSON file of a folder on a model (default: the bundled one) and prints a table. The benchmark record and a plot
go to generated/benchmarks, and as `pareto.json` and `pareto.png` to the output folder if one is given.

A file holds `{"precision_cfg": {...}, "fidelity_cfg": {...}}` for all decoders (missing keys are as in performance
mode), or `{"decoders": {...}}` as for `--decoder_config_file`.
"""

import argparse
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import models  # noqa: F401
from models.common import benchmark_record, console, op_costs, whole_file
from models.common.benchmark_record import measurement
from models.common.mesh import open_mesh
from models.tt_transformers.measure import accuracy
from models.tt_transformers.tt.checkpoints.location import BUNDLED
from models.tt_transformers.tt.reference import Reference

_SECTIONS = ("precision_cfg", "fidelity_cfg")


def precision_settings(path: Path) -> dict:
    """A configuration file as settings of `ModelArgs`. Raises ValueError that names the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"configuration {path}: {error}") from error
    if isinstance(content, dict) and "decoders" in content:
        return {"decoder_config_file": path}
    if not isinstance(content, dict) or not content or not set(content) <= set(_SECTIONS):
        raise ValueError(f"configuration {path}: expected an object with {' and '.join(_SECTIONS)}, or with decoders")
    for section, pairs in content.items():
        if not isinstance(pairs, dict):
            raise ValueError(f"configuration {path}: {section} is {pairs!r}; expected an object")
    texts = [f"{name} = {{{', '.join(f'{key}: {value}' for key, value in pairs.items())}}}" for name, pairs in content.items()]
    return {"optimizations": ", ".join(texts)}


@dataclass(frozen=True)
class Cost:
    """The third value of a point, of which less is better.

    header: of its column in a table. label: of its axis in a plot. shown: the number to show for a value. text: the
    format of this number in a table.
    """

    header: str
    label: str
    shown: Callable[[float], float]
    text: str


WEIGHT_BYTES = Cost("weight bytes a step", "weight bytes read by a decode step [MB]", lambda size: size / 1e6, "{:.2f} MB")


def front(points: dict) -> list[str]:
    """Names of the points (top1, top5, cost) on the Pareto front: no other point is at least as good in all three
    values and better in one."""

    def beats(a, b):
        return a != b and a[0] >= b[0] and a[1] >= b[1] and a[2] <= b[2]

    return [name for name, point in points.items() if not any(beats(other, point) for other in points.values())]


def evaluate(folder: Path, users: int, mesh_device, reference: Reference, model=BUNDLED, report=print) -> dict:
    """Configuration name -> (top-1 %, top-5 %, weight bytes per decode step).

    Raises ValueError for an empty folder, a wrong file and a reference of another model, before anything is measured.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise ValueError(f"configurations {folder}: there are no .json files")
    all_args = {path.stem: _make_args(path, mesh_device, reference, users, model) for path in files}
    points = {}
    for name, args in all_args.items():
        values = {entry["name"]: entry["value"] for entry in accuracy.measure(args, reference)}
        points[name] = values["top1"], values["top5"], values["weight bytes"]
        report(f"{name}: top-1 {values['top1']:.2f} %, top-5 {values['top5']:.2f} %, {values['weight bytes'] / 1e6:.2f} MB")
    return points


def _make_args(path, mesh_device, reference, users, model):
    settings = precision_settings(path)
    try:
        return accuracy.make_args(mesh_device, reference, users, model=model, **settings)
    except ValueError as error:
        raise ValueError(f"configuration {path}: {error}") from error


def as_record(points: dict, mesh: str, reference: Reference, users: int) -> dict:
    entries = []
    for name, (top1, top5, weight_bytes) in points.items():
        entries.append(measurement(f"{name}/top1", top1, "%"))
        entries.append(measurement(f"{name}/top5", top5, "%"))
        entries.append(measurement(f"{name}/weight bytes", weight_bytes, "B"))
    return benchmark_record.make(
        mesh=mesh,
        model=reference.facts["model"],
        precision="each of the configurations",
        case="pareto",
        measurements=entries,
        identity=reference.facts["identity"],
        users=users,
        generated=reference.generated,
        front=front(points),
    )


def points_of(record: dict) -> dict:
    """The points of a record: the inverse of `as_record`."""
    values = {entry["name"]: entry["value"] for entry in record["measurements"]}
    names = dict.fromkeys(name.rsplit("/", 1)[0] for name in values)
    return {name: tuple(values[f"{name}/{kind}"] for kind in ("top1", "top5", "weight bytes")) for name in names}


def table(points: dict, cost: Cost = WEIGHT_BYTES) -> str:
    """Markdown, least cost first."""
    best = front(points)
    rows = [f"| configuration | {cost.header} | top-1 | top-5 | on the front |", "| --- | ---: | ---: | ---: | --- |"]
    for name, (top1, top5, value) in sorted(points.items(), key=lambda point: (point[1][2], -point[1][0])):
        on_front = "yes" if name in best else ""
        rows.append(f"| {name} | {cost.text.format(cost.shown(value))} | {top1:.2f} % | {top5:.2f} % | {on_front} |")
    return "\n".join(rows)


def plot(points: dict, title: str, path: Path, cost: Cost = WEIGHT_BYTES) -> None:
    """Top-1 against the cost, the front's points joined. `title` names the model and the mesh."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    best = sorted(front(points), key=lambda name: points[name][2])
    figure, axes = pyplot.subplots(figsize=(9, 6))
    axes.plot([cost.shown(points[name][2]) for name in best], [points[name][0] for name in best], color="tab:blue", zorder=1)
    for name, (top1, _, value) in points.items():
        color = "tab:blue" if name in best else "tab:gray"
        axes.scatter(cost.shown(value), top1, color=color, zorder=2)
        axes.annotate(name, (cost.shown(value), top1), xytext=(4, 4), textcoords="offset points", fontsize=7, parse_math=False)
    axes.set_xlabel(cost.label)
    axes.set_ylabel("top-1 against Hugging Face [%]")
    axes.set_title(f"{title}: precision settings (blue: Pareto front)", parse_math=False)
    axes.margins(x=0.15)
    figure.tight_layout()
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120, metadata={"Software": None})
    pyplot.close(figure)
    whole_file.write(path, image.getvalue())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configurations", type=Path, required=True, metavar="FOLDER", help="of JSON files, one a setting")
    parser.add_argument("--users", type=int, default=4, help="texts of the reference to predict (default: 4)")
    accuracy.add_model_options(parser)
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="also write pareto.json and pareto.png there")
    options = parser.parse_args()
    try:
        op_costs.check_available()
    except RuntimeError as error:
        parser.error(str(error))
    try:
        if options.output is not None:
            whole_file.make_folder(options.output, "--output")
        reference = accuracy.load_reference(options)
        with open_mesh("N150") as mesh_device:
            points = evaluate(options.configurations, options.users, mesh_device, reference, options.model)
        print(f"\n{table(points)}")
        record = as_record(points, "N150", reference, options.users)
        path = benchmark_record.keep(record, options.output and options.output / "pareto.json")
        plot(points, f"{record['model']}, emulated N150", path.with_suffix(".png"))
        if options.output is not None:
            plot(points, f"{record['model']}, emulated N150", options.output / "pareto.png")
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    console.run(main)
