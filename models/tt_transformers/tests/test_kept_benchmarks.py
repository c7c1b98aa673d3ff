"""Each run leaves one benchmark record: of the demo here, of the commands that measure in tests/performance/test_commands.py."""

import pytest
from loguru import logger

from models.common import benchmark_record
from models.tt_transformers.demo.cases import CASES
from models.tt_transformers.demo.run import run

pytestmark = pytest.mark.whole


@pytest.fixture
def demo(tmp_path, monkeypatch):
    for variable in ("HF_MODEL", "MESH_DEVICE", "FAKE_DEVICE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TT_CACHE_PATH", str(tmp_path / "cache"))
    return lambda **options: run(CASES[0].with_options({"max_generated_tokens": 3, **options}), "performance")


def test_every_run_of_the_demo_leaves_a_record_of_its_own(demo, benchmarks):
    demo()
    (first,) = benchmarks.iterdir()
    record = benchmark_record.read(first)
    assert (record["backend"], record["mesh"], record["precision"], record["case"]) == ("emulator", "N150", "performance", "batch-1")
    assert record["facts"]["settings"]["max_generated_tokens"] == 3
    measured = benchmark_record.medians(record)
    assert {"load_weights", "TTFT", "prefill_t/s", "decode_t/s/u"} <= set(measured) and "top1" not in measured

    demo(token_accuracy=True)
    (second,) = set(benchmarks.iterdir()) - {first}
    measured = benchmark_record.medians(benchmark_record.read(second))
    assert {"top1", "top5", "decode_t/s/u"} <= set(measured)


def test_a_demo_that_cannot_keep_its_record_warns_and_runs_on(demo, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(benchmark_record, "FOLDER", tmp_path / "file" / "benchmarks")
    warnings = []
    handler = logger.add(warnings.append, level="WARNING")
    try:
        demo()
    finally:
        logger.remove(handler)
    assert any("no benchmark record is kept: " in warning for warning in warnings)
