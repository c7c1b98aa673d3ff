"""PERF.md's section of predictions, from the records in records/prediction."""

import json

from models.tt_transformers.measure import calibration, prediction_table
from models.tt_transformers.measure.tables import table


def section() -> str:
    predictions = json.loads(prediction_table.RECORD.read_text(encoding="utf-8"))
    calibrated = json.loads(calibration.RECORD.read_text(encoding="utf-8"))
    errors = "\n".join(f"- {name}: {value:.1%}" for name, value in calibrated["summary"].items())
    return f"""## Predicted speed

**These are predictions, not measurements.** `python -m models.tt_transformers.measure.predict` makes them from the op log of a \
shape-only run; [docs/prediction.md](docs/prediction.md) says how, and what they leave out. Each has the interval that nine of \
ten published figures lay in. TTFT is a user's share of the prefill.

The models of the vendor's verified table on the meshes that they fit, in performance mode, with prompts of 128 tokens. \
*Ours* is this project's code. *Upstream's* is the vendor's code, as its published figures were measured; only it can be \
compared with them. Its error here is that of constants which these figures helped to fit; the table after this one leaves each model out.

{table(_HEADER, [_row(row) for row in predictions["rows"]], 3)}

Predicted {predictions["created"][:10]}, revision {predictions["git_revision"]}.

### How far off the prediction is

Every published figure (`models/common/prediction/measured/published.csv`), predicted with upstream's ops, and with constants of \
the host that were fitted to the other models' figures only. The constants of ops were fitted to measured ops.

{errors}

{table(calibrated["header"], calibrated["rows"], 4)}
"""


_HEADER = [
    "model", "mesh", "case", "ours, predicted t/s/u", "ours, predicted TTFT ms", "upstream's, predicted t/s/u", "published", "error",
    "upstream's, predicted TTFT ms", "published", "error",
]  # fmt: skip


def _row(row: dict) -> list[str]:
    ours, upstream, published = row["ours"], row["upstream"], row["published"]
    cells = [row["model"], row["mesh"], row["case"], _interval(ours["decode_t/s/u"]), _interval(ours["TTFT"])]
    for figure, known in (("decode_t/s/u", "tsu"), ("TTFT", "ttft_ms")):
        value = upstream and upstream[figure]["value"]
        measured = published and published[known]
        error = f"{value / measured - 1:+.0%}" if value and measured else "-"
        cells += [f"{value:.3g}" if value else "-", f"{measured:.3g}" if measured else "-", error]
    return cells


def _interval(figure: dict) -> str:
    return f"{figure['value']:.3g} ({figure['low']:.3g} to {figure['high']:.3g})"
