"""The paths and the variable of the earlier description, "Llama-like Models", lead to the same code."""

import os
import subprocess
import sys

import pytest

from models.tt_transformers.tt.checkpoints.location import PROJECT
from tests.support.meta_checkpoints import VOCAB_SIZE, save_meta
from tests.support.tiny_models import save_tiny

DOOR, DEMO = "models/demos/llama3/demo/simple_text_demo.py", "models/tt_transformers/demo/simple_text_demo.py"


def run_pytest(*arguments, **variables):
    settings = ("HF_MODEL", "LLAMA_DIR", "MESH_DEVICE", "FAKE_DEVICE")
    environment = {name: value for name, value in os.environ.items() if name not in settings}
    command = [sys.executable, "-m", "pytest", *map(str, arguments)]
    return subprocess.run(command, cwd=PROJECT, env={**environment, **variables}, capture_output=True, text=True)


@pytest.mark.parametrize("paths", [(DOOR,), (DOOR, DEMO), (DEMO, DOOR)], ids=["alone", "first", "second"])
def test_the_earlier_path_has_the_cases_and_options_of_the_demo(paths):
    output = run_pytest(*paths, "--collect-only", "-q", "-k", "performance and batch-1", "--max_seq_len=4096").stdout
    case = "test_simple_text_demo[performance-batch-1]"
    assert {line for line in output.splitlines() if line.endswith(case)} == {f"{path}::{case}" for path in paths}


@pytest.mark.whole
def test_the_demo_runs_a_meta_checkpoint_by_the_earlier_path(tmp_path):
    model = save_tiny("Llama", tmp_path / "hf", vocab_size=VOCAB_SIZE, hidden_size=256, intermediate_size=768)
    save_meta(tmp_path / "Llama-tiny", model, 2)
    result = run_pytest(
        DOOR, "-k", "performance and batch-1", "--max_generated_tokens", 2, "--max_seq_len", 512,
        LLAMA_DIR=str(tmp_path / "Llama-tiny"),
    )  # fmt: skip
    assert result.returncode == 0, result.stdout
    assert "Llama-tiny, batch-1" in result.stdout
    assert list((tmp_path / "Llama-tiny/N150").glob("*.tensorbin"))
