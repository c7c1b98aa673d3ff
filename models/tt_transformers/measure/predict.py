"""Predicts how fast a model is on a card, from its config.json alone. Every figure is a prediction, not a measurement.

    python -m models.tt_transformers.measure.predict --model Llama-3.1-8B --mesh T3K --case batch-32
    python -m models.tt_transformers.measure.predict --model Llama-3.1-8B --mesh T3K --compare mode=accuracy

The model runs shape-only on the emulator; each op of its log gets a time (models/common/prediction). docs/prediction.md
says how, how far off it was on published figures, and what it leaves out.
"""

import argparse
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import models  # noqa: F401
from models.common import backend, console, whole_file
from models.common.prediction import perf_report, visualizer
from models.common.prediction.card import ALIASES, CARDS
from models.common.prediction.ops import Ops, by_kind
from models.tt_transformers.demo.cases import CASES
from models.tt_transformers.measure import prediction_plot
from models.tt_transformers.measure.scenario import CONDITIONS, Predicted, Scenario
from models.tt_transformers.tt.config.precision import MODES

COSTLIEST = 10
# Settings that --compare may change, with how their texts are read.
COMPARED = {
    "model": str, "mesh": str, "mode": str, "case": str, "context": int, "batch": int, "chunk": int, "data_parallel": int,
    "num_layers": int, "optimizations": str, "decoder_config_file": str, "conditions": str,
}  # fmt: skip


def describe(predicted: Predicted) -> str:
    """The whole prediction as text."""
    scenario, forecast = predicted.scenario, predicted.forecast
    step, prompt = forecast.decode_step, forecast.prompt
    return "\n".join([
        title(scenario),
        *figures(predicted),
        "",
        f"A decode step, {step.seconds * 1e3:.2f} ms predicted: kernels {step.kernels * 1e3:.2f}, gaps {step.gaps * 1e3:.2f}, host {step.host * 1e3:.2f}",
        kinds_table(forecast.decode),
        "",
        "The costliest ops of a decode step, predicted",
        ops_table(forecast.decode),
        "",
        f"A prefill of {forecast.prompts} prompt{'s' if forecast.prompts > 1 else ''}, {prompt.seconds * 1e3:.2f} ms predicted: kernels "
        f"{prompt.kernels * 1e3:.2f}, gaps {prompt.gaps * 1e3:.2f}, host {prompt.host * 1e3:.2f}",
        kinds_table(forecast.prefill),
    ])  # fmt: skip


def title(scenario: Scenario) -> str:
    replicas = f", {scenario.replicas} replicas" if scenario.replicas > 1 else ""
    conditions = (
        "our own code" if scenario.conditions == "ours" else "upstream's code, as in the vendor's published figures"
    )
    return (
        f"Prediction, not a measurement: {scenario.name} on {scenario.mesh}{replicas}, {scenario.mode}, {scenario.case} "
        f"({scenario.users} users, prompts of {scenario.prompt} tokens), {conditions}"
    )


def figures(predicted: Predicted) -> list[str]:
    forecast = predicted.forecast
    lines = [
        f"  predicted decode_t/s/u    {forecast.tokens_per_user}",
        f"  predicted decode_t/s      {forecast.tokens}",
        f"  predicted TTFT            {forecast.ttft_ms} ms",
    ]
    if predicted.dram_bytes is not None:
        fits = "fits" if predicted.dram_bytes <= predicted.dram_capacity else "does not fit"
        lines.append(
            f"  DRAM of a device          {predicted.dram_bytes / 1e9:.3f} of {predicted.dram_capacity / 1e9:.3f} GB: {fits}"
        )
    if predicted.largest_context is not None:
        lines.append(f"  largest context           {predicted.largest_context} tokens of one user")
    if not forecast.card.speed.is_calibrated:
        lines.append("  no kernel of this architecture was measured: the intervals are wider")
    return lines


def kinds_table(ops: Ops) -> str:
    rows = [
        [
            row["kind"],
            str(row["calls"]),
            f"{row['seconds'] * 1e3:.3f}",
            f"{row['seconds'] / ops.seconds:.0%}",
            row["bound"],
            f"{row['share']:.0%}",
        ]
        for row in by_kind(ops.rows())
    ]
    return aligned([["kind", "calls", "ms", "of kernels", "bound", "of bound"], *rows])


def ops_table(ops: Ops) -> str:
    costliest = sorted(ops.rows(), key=lambda row: -row["seconds"])[:COSTLIEST]
    rows = [
        [row["op"], row["shape"], str(row["calls"]), f"{row['seconds'] * 1e3:.3f}", row["bound"], f"{row['share']:.0%}"]
        for row in costliest
    ]
    return aligned([["op", "inputs", "calls", "ms", "bound", "of bound"], *rows])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def compared(before: Predicted, after: Predicted, changes: dict) -> str:
    """What changes between two predictions, and which kinds of op make the difference."""
    lines = [
        "",
        "Compared with " + ", ".join(f"{name} = {value}" for name, value in changes.items()),
        title(after.scenario),
        *figures(after),
        "",
    ]
    for what, get in (
        ("decode_t/s/u", lambda one: one.tokens_per_user.value),
        ("TTFT ms", lambda one: one.ttft_ms.value),
    ):
        old, new = get(before.forecast), get(after.forecast)
        lines.append(f"  predicted {what:<14} {old:.4g} -> {new:.4g} ({new / old - 1:+.1%})")
    lines += ["", "Where a decode step changes, predicted ms"]
    return "\n".join([*lines, aligned([["part", "before", "after", "change", "bound"], *_changed(before, after)])])


def _changed(before: Predicted, after: Predicted) -> list[list[str]]:
    """Rows of kinds, gaps and host, by how much they change."""
    parts = []
    for one in (before, after):
        kinds = {row["kind"]: (row["seconds"], row["bound"]) for row in by_kind(one.forecast.decode.rows())}
        step = one.forecast.decode_step
        parts.append({**kinds, "gaps between ops": (step.gaps, "latency"), "host": (step.host, "host")})
    old, new = parts
    changes = []
    for kind in dict.fromkeys([*old, *new]):
        was, now = (part.get(kind, (0, "-")) for part in parts)
        bound = was[1] if was[1] == now[1] or now[1] == "-" else now[1] if was[1] == "-" else f"{was[1]} -> {now[1]}"
        changes.append(
            (
                abs(now[0] - was[0]),
                [kind, f"{was[0] * 1e3:.3f}", f"{now[0] * 1e3:.3f}", f"{(now[0] - was[0]) * 1e3:+.3f}", bound],
            )
        )
    return [row for _, row in sorted(changes, key=lambda change: -change[0])]


def parse_changes(texts: Sequence[str]) -> dict:
    """name=value texts -> settings. Raises ValueError for a name or value that is not accepted."""
    changes = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in COMPARED:
            raise ValueError(f"--compare {text!r}: expected name=value with one of {', '.join(COMPARED)}")
        try:
            changes[name] = COMPARED[name](value)
        except ValueError as error:
            raise ValueError(f"--compare {name}: {value!r} is not a whole number") from error
    return changes


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument(
        "--model",
        required=True,
        metavar="NAME|DIR",
        help="a name in model_params/, a directory with a config.json, or org/name",
    )
    result.add_argument("--mesh", choices=[*CARDS, *ALIASES], default="N150", help="as MESH_DEVICE; Galaxy is TG")
    result.add_argument("--mode", choices=MODES, default="performance")
    result.add_argument("--case", choices=[case.name for case in CASES], default="batch-1", help="a case of the demo")
    result.add_argument("--context", type=int, metavar="N", help="tokens of each prompt (default: of the case)")
    result.add_argument(
        "--data_parallel",
        type=int,
        metavar="N",
        help="replicas of the model that share the mesh (default: of the case)",
    )
    result.add_argument("--num_layers", type=int, metavar="N", help="the first N layers only")
    result.add_argument("--optimizations", metavar="TEXT", help="changes to the mode, as the demo takes them")
    result.add_argument("--decoder_config_file", metavar="FILE", help="precision settings of single decoders")
    result.add_argument(
        "--conditions",
        choices=CONDITIONS,
        default="ours",
        help="our own ops, or those of the vendor's published figures",
    )
    result.add_argument(
        "--compare", nargs="+", metavar="NAME=VALUE", help=f"also predict with other settings: {', '.join(COMPARED)}"
    )
    result.add_argument("--json", type=Path, metavar="FILE", help="write the prediction as JSON")
    result.add_argument(
        "--plot", type=Path, metavar="FILE", help="write a PNG: where a decode step's time goes, and a roofline"
    )
    result.add_argument(
        "--csv", type=Path, metavar="FILE", help="write the decode step's ops as tt-perf-report reads them"
    )
    result.add_argument(
        "--report", type=Path, metavar="DIR", help="write a report of the decode step that ttnn-visualizer opens"
    )
    return result


def run(given) -> None:
    settings = {field.name for field in fields(Scenario)}
    scenario = Scenario(**{name: value for name, value in vars(given).items() if name in settings})
    for option, path in (("--json", given.json), ("--plot", given.plot), ("--csv", given.csv)):
        if path is not None:
            whole_file.check_writable(path, option)
    changes = parse_changes(given.compare or ())
    others = replace(scenario, **changes)
    for one in (scenario, others):
        one.check()
    predicted = Predicted.of(scenario)
    print(describe(predicted))
    record = predicted.as_json()
    if changes:
        other = Predicted.of(others)
        print(compared(predicted, other, changes))
        record["compared"] = {"changes": changes, **other.as_json()}
    if given.json is not None:
        with whole_file.printed_if_not_written(record, "--json"):
            whole_file.write_json(given.json, record, indent=1)
    if given.plot is not None:
        prediction_plot.write(given.plot, predicted.forecast, title(scenario))
    if given.csv is not None:
        perf_report.write(given.csv, predicted.forecast.decode, predicted.forecast.card)
    if given.report is not None:
        visualizer.write(given.report, predicted.log.decode, predicted.forecast.card, scenario.mean_context)


def main():
    command = parser()
    given = command.parse_args()
    if backend.name() != "emulator":
        command.error(f"op lists come from the emulator; TT_BACKEND is {backend.name()}")
    if given.report is not None and given.conditions != "ours":
        command.error("--report shows the buffers of our own code; leave out --conditions published")
    try:
        run(given)
    except (ValueError, OSError, RuntimeError) as error:
        command.exit(1, f"{error}\n")


if __name__ == "__main__":
    console.run(main)
