"""Phi-3-mini at its full size, all 32 layers with random weights, through the demo on one emulated N150."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
LIMIT_BYTES = 16e9


@pytest.mark.slow
def test_the_full_size_model_runs_in_16_gb(tmp_path, capsys):
    """A prefill of 128 rows and 8 decode steps. The weights alone take 7.6 GB, stored as bfloat16."""
    output = tmp_path / "run.json"
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "models/tt_transformers/demo/simple_text_demo.py"),
            *("-k", "performance and batch-1", "--dummy_weights", "1", "--max_generated_tokens", "9"),
            *("--stop_at_eos", "0", "--output_json", str(output)),
        ],
        cwd=ROOT,
        env={**os.environ, "HF_MODEL": "microsoft/Phi-3-mini-128k-instruct", "MESH_DEVICE": "N150"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    record = json.loads(output.read_text(encoding="utf-8"))
    with capsys.disabled():
        print(result.stdout.split("Summary")[1].split("\n\n")[0])
        print(f"  peak memory                 {peak / 1e9:.2f} GB")
    assert len(record["users"][0]["token_ids"]) == 9
    assert peak < LIMIT_BYTES
