"""The record of a demo run on a card is held to its speed and accuracy targets. Planted records test this anywhere.

    TT_BACKEND=silicon HF_MODEL=microsoft/Phi-3-mini-128k-instruct MESH_DEVICE=N300 pytest tests/performance/test_silicon_targets.py
"""

import json
import os
from pathlib import Path

import pytest
import yaml

from models.common import backend, model_targets
from models.common.mesh import mesh_name_from_environment
from models.tt_transformers.demo import run as demo_run
from models.tt_transformers.demo.cases import CASES
from models.tt_transformers.tt.checkpoints.location import BUNDLED, locate

BATCH_1 = next(case for case in CASES if case.name == "batch-1")


def failures_of_a_run(mode: str, folder: Path, targets: dict, **options) -> list[str]:
    """Runs the demo's batch-1 case on this backend and compares its record with its target. ValueError if it has none."""
    output = folder / "run.json"
    demo_run.run(BATCH_1.with_options({**options, "output_json": str(output)}), mode)
    return model_targets.check_demo_record(json.loads(output.read_text(encoding="utf-8")), targets)[1]


@pytest.mark.skipif(backend.name() != "silicon", reason="needs a card")
@pytest.mark.parametrize("token_accuracy", [False, True], ids=["speed", "token_accuracy"])
@pytest.mark.parametrize("mode", ["performance", "accuracy"])
def test_the_card_meets_its_targets(mode, token_accuracy, tmp_path):
    """Uses the model of HF_MODEL and the mesh of MESH_DEVICE. Skipped only if there is no target."""
    targets = model_targets.load()
    model = locate(os.environ.get("HF_MODEL")).name
    key = model_targets.key_of("silicon", model, mesh_name_from_environment(), mode, BATCH_1.name, token_accuracy)
    if key not in targets:
        pytest.skip(f"there is no target for {' '.join(key)}")
    assert failures_of_a_run(mode, tmp_path, targets, token_accuracy=token_accuracy) == []


def silicon_record(*measurements):
    return {
        "backend": "silicon",
        "model": "Phi-3-mini-128k-instruct",
        "mesh": "N150",
        "precision": "performance",
        "case": "batch-1",
        "settings": {"token_accuracy": False, "num_layers": None, "dummy_weights": False, "profile": False},
        "measurements": [dict(zip(("name", "value", "unit"), m)) for m in measurements],
    }


@pytest.mark.parametrize(
    "measurements, failing",
    [
        ([("decode_t/s/u", 45.1, "t/s/u"), ("TTFT", 70.0, "ms")], []),
        ([("decode_t/s/u", 40.0, "t/s/u"), ("TTFT", 70.0, "ms")], ["decode_t/s/u: expected 45 t/s/u, tolerance 2.25, got 40"]),
        ([("decode_t/s/u", 45.1, "t/s/u"), ("TTFT", 90.0, "ms")], ["TTFT: expected 73.3 ms, tolerance 7.3, got 90 ms"]),
        ([("decode_t/s/u", 45.1, "t/s/u")], ["TTFT: expected 73.3 ms, tolerance 7.3, got nothing"]),
    ],
)
def test_a_record_of_a_card_that_falls_short_is_caught(tmp_path, monkeypatch, measurements, failing):
    record = silicon_record(*measurements)
    monkeypatch.setattr(demo_run, "run", lambda case, mode: Path(case.output_json).write_text(json.dumps(record)))
    failures = failures_of_a_run("performance", tmp_path, model_targets.load())
    assert len(failures) == len(failing)
    assert all(expected in line for expected, line in zip(failing, failures))


@pytest.mark.parametrize("setting, value", [("num_layers", 2), ("dummy_weights", True), ("profile", True)])
def test_a_run_that_targets_are_not_for_is_refused(setting, value):
    record = silicon_record(("decode_t/s/u", 1000.0, "t/s/u"), ("TTFT", 1.0, "ms"))
    record["settings"][setting] = value
    with pytest.raises(ValueError, match=f"the run had {setting} {value}; targets are for runs with"):
        model_targets.check_demo_record(record, model_targets.load())


@pytest.fixture
def emulator_targets(tmp_path, monkeypatch):
    """Targets of the bundled model on the emulator: a TTFT that every run meets, and a speed that no run meets."""
    for variable in ("HF_MODEL", "MESH_DEVICE", "FAKE_DEVICE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TT_CACHE_PATH", str(tmp_path / "cache"))
    metrics = {
        "decode_t/s/u": {"expected": 1e9, "tolerance": 0, "unit": "t/s/u", "better": "higher"},
        "TTFT": {"expected": 1e9, "tolerance": 0, "unit": "ms", "better": "lower"},
    }
    key = dict(backend="emulator", model=BUNDLED.name, mesh="N150", mode="performance", case="batch-1")
    path = tmp_path / "targets.yaml"
    path.write_text(yaml.safe_dump([{**key, "source": "measured", "metrics": metrics}]))
    return model_targets.load(path)


@pytest.mark.skipif(backend.name() != "emulator", reason="runs on the emulator")
def test_a_real_run_is_compared_metric_by_metric(tmp_path, emulator_targets):
    (line,) = failures_of_a_run("performance", tmp_path, emulator_targets, max_generated_tokens=3)
    assert "decode_t/s/u: expected 1e+09 t/s/u" in line
    with pytest.raises(ValueError, match="no target for emulator .* N150 accuracy batch-1; there are targets for"):
        failures_of_a_run("accuracy", tmp_path, emulator_targets, max_generated_tokens=3)
