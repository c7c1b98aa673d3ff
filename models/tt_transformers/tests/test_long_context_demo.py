"""The demo's long-context cases: how they are selected, what they do with their context, when they are skipped."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from models.tt_transformers.demo.cases import CASES
from models.tt_transformers.demo.run import run

pytestmark = pytest.mark.whole

ROOT = Path(__file__).resolve().parents[3]
DEMO = ROOT / "models/tt_transformers/demo/simple_text_demo.py"
LONG = [f"long-context-{thousands}k" for thousands in (16, 32, 64, 128)]


def pytest_command(*arguments):
    environment = {name: value for name, value in os.environ.items() if name not in ("HF_MODEL", "MESH_DEVICE", "FAKE_DEVICE")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", str(DEMO), *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def selected(*arguments):
    """Test ids, mode first, that the arguments select."""
    lines = pytest_command("--collect-only", "-q", *arguments).stdout.splitlines()
    return [line.split("[")[1].rstrip("]") for line in lines if "[" in line]


def test_the_described_commands_select_the_long_contexts():
    assert selected("-k", "performance and long") == [f"performance-{name}" for name in LONG]
    both = selected("-k", "long-context", "--max_seq_len=16384")
    assert sorted(both) == sorted(f"{mode}-{name}" for mode in ("performance", "accuracy") for name in LONG)


def test_a_case_longer_than_the_models_context_is_skipped_with_both_numbers():
    result = pytest_command("-k", "performance and long-context-128k")
    assert result.returncode == 0 and "1 skipped" in result.stdout
    assert "long-context-128k needs a context of 131072 tokens, the model has 16384" in result.stdout


def test_a_context_that_the_user_asks_for_is_not_skipped_but_refused():
    result = pytest_command("-k", "performance and long-context-128k", "--max_seq_len=131072")
    assert result.returncode == 1 and "1 failed" in result.stdout
    assert "max_seq_len 131072 is outside 1 to 16384" in result.stdout


@pytest.fixture
def on_the_emulators_n150(tmp_path, monkeypatch):
    for variable in ("HF_MODEL", "MESH_DEVICE", "FAKE_DEVICE", "MAX_PREFILL_CHUNK_SIZE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TT_CACHE_PATH", str(tmp_path / "cache"))


def case_of(name):
    return next(case for case in CASES if case.name == name)


@pytest.mark.wide
def test_the_bundled_model_runs_16k_whole(on_the_emulators_n150, tmp_path):
    output = tmp_path / "run.json"
    run(case_of(LONG[0]).with_options({"max_generated_tokens": 16, "output_json": str(output)}), "performance")
    (user,) = json.loads(output.read_text())["users"]
    assert 16000 <= user["prompt_tokens"] <= 16384 - 16
    assert len(user["token_ids"]) == 16 or user["stop_reason"] == "eos"


@pytest.mark.parametrize("name", [LONG[0], LONG[-1]])
def test_the_context_fills_max_seq_len_and_the_record_says_how_it_was_cut(name, on_the_emulators_n150, tmp_path, monkeypatch):
    case = case_of(name)
    output = tmp_path / "run.json"
    # Longer than one chunk of 1024 tokens.
    monkeypatch.setenv("MAX_PREFILL_CHUNK_SIZE", "1")
    run(case.with_options({"max_seq_len": 1536, "max_generated_tokens": 8, "output_json": str(output)}), "performance")
    record = json.loads(output.read_text())
    (user,) = record["users"]
    assert 1536 - 8 - 32 <= user["prompt_tokens"] <= 1536 - 8 and len(user["token_ids"]) == 8
    assert user["prompt"].endswith("there arose another king in the land, and")
    assert any("context cut from" in note and "max_seq_len 1536" in note for note in record["notes"])
    assert record["settings"]["page_params"] == {"block_size": 64, "max_num_blocks": 24}


def test_given_pages_are_taken_as_they_are():
    changed = case_of(LONG[0]).with_options({"max_seq_len": 1024, "page_params": {"max_num_blocks": 99}})
    assert changed.page_params == {"block_size": 64, "max_num_blocks": 99}


@pytest.mark.parametrize(
    "name, given, pages",
    [
        (LONG[0], {"max_seq_len": 32768}, 512),  # one user's whole context
        (LONG[0], {"max_seq_len": 32768, "batch_size": 2}, 512),
        (LONG[0], {"max_seq_len": 1024, "batch_size": 2}, 32),  # no more than both can fill
        ("batch-32", {"max_seq_len": 16384}, 1024),  # the case's own, for all users together
    ],
)
def test_a_longer_context_brings_the_pages_of_one_user(name, given, pages):
    assert case_of(name).with_options(given).page_params["max_num_blocks"] == pages
