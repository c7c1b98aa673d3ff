"""LONG_CONTEXT.md is what its records say, and they cover what was to be measured."""

import pytest

from models.tt_transformers.long_context import prefill, prefill_chunks, report
from models.tt_transformers.tt.prefill_chunks import DEFAULTS, SIZES


def test_the_file_is_current():
    assert report.FILE.read_text(encoding="utf-8") == report.markdown()


@pytest.mark.parametrize("mesh", ["N150", "N300", "T3K"])
def test_the_default_chunk_size_was_accepted_in_both_modes(mesh):
    (record,) = [record for record in report.read("prefill_chunks-*.json") if record["mesh"] == mesh]
    assert set(record["answers"]) == set(prefill_chunks.MODES)
    assert all(list(map(int, answers)) == list(SIZES) for answers in record["answers"].values())
    default = DEFAULTS[record["model"]][("N150", "N300", "T3K").index(mesh)]
    assert record["default"] == default <= record["largest"]
    assert all(answers[str(default)] == "pass" for answers in record["answers"].values())


def test_both_systems_prefill_the_same_lengths_in_processes_of_their_own():
    measurements = list(prefill.run(1, "performance", lengths=(256,)))
    values = {m["name"]: m["value"] for m in measurements}
    ours, theirs = (values[f"prefill-256.{name}"] for name in prefill.SYSTEMS)
    assert values["prefill_ratio-256"] == ours / theirs
    assert all(values[f"peak_memory-256.{name}"] > 100e6 for name in prefill.SYSTEMS)
