"""The committed record of `make bench-serving` is of this code's workload and of the installed versions."""

import importlib.metadata

import pytest

from models.common import backend, benchmark_record
from models.tt_transformers.measure import serving_speed

pytestmark = pytest.mark.serving


def test_the_record_names_its_workload_and_versions_and_has_their_ratio():
    record = benchmark_record.read(serving_speed.RECORD)
    assert record["facts"] == {**serving_speed.WORKLOAD, "vllm": importlib.metadata.version("vllm")}
    assert record["versions"] == backend.versions() and record["backend"] == "emulator"
    figures = {name: median for name, (median, _) in benchmark_record.medians(record).items()}
    assert figures["ratio to Hugging Face"] == pytest.approx(figures["tokens"] / figures["tokens of Hugging Face"])
    assert figures["requests that failed"] == 0
