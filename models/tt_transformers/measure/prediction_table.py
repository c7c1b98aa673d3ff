"""Predicts every model of the verified table on its meshes, and records the predictions, from which PERF.md is made.

    python -m models.tt_transformers.measure.prediction_table

A mesh is a model's if the model fits its DRAM. Each row has our own code's prediction, and upstream's for the same
setting, which alone may be compared with a published figure.
"""

import json
from dataclasses import asdict
from pathlib import Path

import models  # noqa: F401
from models.common import benchmark_record, console, whole_file
from models.tt_transformers.measure import published
from models.tt_transformers.measure.scenario import Predicted, Scenario
from models.tt_transformers.tt.checkpoints.location import MODEL_PARAMS

RECORD = Path(__file__).parent / "records" / "prediction" / "predictions.json"
MESHES = ("N150", "N300", "T3K", "TG")
CASES = ("batch-1", "batch-32")


def verified_models() -> list[str]:
    """The models of the vendor's verified table whose `config.json` is known, by their folders in `model_params`."""
    entries = json.loads((MODEL_PARAMS / "compatible.json").read_text(encoding="utf-8"))
    return [name.split("/")[1] for name, entry in entries.items() if entry["list"] == "verified" and "config" in entry]


def predict(model: str, mesh: str, case: str) -> dict | None:
    """A row of the record; None where the model does not run or does not fit."""
    try:
        ours = Predicted.of(Scenario(model, mesh, case=case), memory=False)
    except ValueError as error:
        print(f"{model} on {mesh}, {case}: {error}")
        return None
    if ours.dram_bytes > ours.dram_capacity:
        return None
    try:
        upstream = Scenario(model, mesh, case=case, conditions="published").published_forecast().as_json()
    except ValueError:  # no upstream op list is described for it
        upstream = None
    row = {
        "model": model, "mesh": mesh, "case": case, "ours": ours.forecast.as_json(), "upstream": upstream,
        "dram_bytes": ours.dram_bytes, "published": published_figure(model, mesh, case),
    }  # fmt: skip
    print(
        f"{model} on {mesh}, {case}: predicted {ours.forecast.tokens_per_user} t/s/u, TTFT {ours.forecast.ttft_ms} ms"
    )
    return row


def published_figure(model: str, mesh: str, case: str) -> dict | None:
    """The published speed of a performance run with tensor parallel over the whole mesh."""
    for row in published.rows():
        if (row.folder, row.mesh, row.case, row.mode, row.replicas) == (model, mesh, case, "performance", 1):
            return {name: asdict(row)[name] for name in ("tsu", "ttft_ms")}
    return None


def main():
    rows = [predict(model, mesh, case) for model in verified_models() for mesh in MESHES for case in CASES]
    record = {
        **benchmark_record.origin(),
        "what": "predictions, not measurements",
        "rows": [row for row in rows if row is not None],
    }
    whole_file.write_json(RECORD, record)


if __name__ == "__main__":
    console.run(main)
