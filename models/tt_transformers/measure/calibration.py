"""How well the prediction agrees with measured figures, and the fit of the host's constants.

    python -m models.tt_transformers.measure.calibration

prints, for every published figure, the prediction whose host constants were fitted to the other models' figures only.
With `--record` it also writes them to `RECORD`, from which PERF.md is made.
Constants of ops are fitted to ops (`models/common/prediction/cost.py`), so this fit has few constants, and none of a model.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import models  # noqa: F401
from models.common import console, whole_file
from models.common.prediction.fitting import fit, mean_log_error
from models.common.prediction.forecast import Forecast
from models.common.prediction.step import HOST, HostRates
from models.tt_transformers.measure import published

# The constants that whole models decide; decode and TTFT have none in common but `logit`.
DECODE, TTFT = ("step", "replica", "logit"), ("dispatch", "dispatch_chip", "prompt")


RECORD = Path(__file__).parent / "records" / "prediction" / "calibration.json"


@dataclass(frozen=True)
class Judged:
    """A published row and a prediction of it."""

    row: published.Row
    forecast: Forecast

    @property
    def decode_error(self) -> float:
        return self.forecast.tokens_per_user.value / self.row.tsu - 1

    @property
    def ttft_error(self) -> float:
        return self.forecast.ttft_ms.value / self.row.ttft_ms - 1


def fitted(judged: Sequence[Judged], start: HostRates = HOST) -> HostRates:
    """Host constants that fit the rows best; TTFTs that contradict others are left out."""

    def loss(rows, measured, predicted):
        return lambda rates: mean_log_error(
            [predicted(one.forecast.with_host(rates)) for one in rows], [measured(one.row) for one in rows]
        )

    rates = fit(start, DECODE, loss(judged, lambda row: row.tsu, lambda forecast: forecast.tokens_per_user.value))
    undisputed = [one for one in judged if not one.row.ttft_is_disputed]
    return fit(rates, TTFT, loss(undisputed, lambda row: row.ttft_ms, lambda forecast: forecast.ttft_ms.value))


def leave_one_model_out() -> list[Judged]:
    """Every published row, predicted with host constants that were fitted without the row's model."""
    judged = [Judged(row, row.predicted()) for row in published.rows()]
    result = []
    for model in dict.fromkeys(one.row.model for one in judged):
        rates = fitted([one for one in judged if one.row.model != model])
        result += [Judged(one.row, one.forecast.with_host(rates)) for one in judged if one.row.model == model]
    return result


def by_model(judged: Sequence[Judged], error) -> dict[str, float]:
    """model -> median of |error| over its rows."""
    errors = {}
    for one in judged:
        errors.setdefault(one.row.model, []).append(abs(error(one)))
    return {model: statistics.median(values) for model, values in errors.items()}


def table(judged: Sequence[Judged]) -> list[list[str]]:
    """Published and predicted figures with errors, a row each."""
    return [
        [
            one.row.model, one.row.mesh + (f" x{one.row.replicas}" if one.row.replicas > 1 else ""), one.row.mode or "-", one.row.case[:20],
            f"{one.row.tsu:.1f}", f"{one.forecast.tokens_per_user.value:.1f}", f"{one.decode_error:+.0%}", f"{one.row.ttft_ms:.0f}",
            f"{one.forecast.ttft_ms.value:.0f}", f"{one.ttft_error:+.0%}",
        ]
        for one in judged
    ]  # fmt: skip


HEADER = [
    "model",
    "mesh",
    "mode",
    "case",
    "published t/s/u",
    "predicted",
    "error",
    "published TTFT ms",
    "predicted",
    "error",
]


def summary(judged: Sequence[Judged]) -> dict[str, float]:
    """The figures that the tests bound."""
    decode, ttft = (by_model(judged, error) for error in (lambda one: one.decode_error, lambda one: one.ttft_error))
    return {
        "decode, median over models": statistics.median(decode.values()),
        "decode, share of rows within 25 %": statistics.fmean(abs(one.decode_error) <= 0.25 for one in judged),
        "decode, share of rows in the interval": statistics.fmean(
            one.forecast.tokens_per_user.low <= one.row.tsu <= one.forecast.tokens_per_user.high for one in judged
        ),
        "TTFT, median over models": statistics.median(ttft.values()),
        "TTFT, median over rows": statistics.median(abs(one.ttft_error) for one in judged),
        "TTFT, share of rows in the interval": statistics.fmean(
            one.forecast.ttft_ms.low <= one.row.ttft_ms <= one.forecast.ttft_ms.high for one in judged
        ),
    }


def text(judged: Sequence[Judged]) -> str:
    rows = [HEADER, *table(judged)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in rows]
    return "\n".join([*lines, "", *(f"{name}: {value:.1%}" for name, value in summary(judged).items())])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help=f"write the table to {RECORD.name}")
    given = parser.parse_args()
    judged = leave_one_model_out()
    print(text(judged))
    print("\nfitted to all rows:", fitted([Judged(row, row.predicted()) for row in published.rows()]))
    if given.record:
        whole_file.write_json(RECORD, {"header": HEADER, "rows": table(judged), "summary": summary(judged)}, indent=1)


if __name__ == "__main__":
    console.run(main)
