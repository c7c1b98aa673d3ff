"""Models at their full size, with random weights, on one emulated N150: the memory of a run and of converting weights.

Times are printed and not asserted: they are this computer's.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "model, limit_bytes",
    [("Qwen/Qwen2.5-0.5B", 6e9), ("meta-llama/Llama-3.2-1B", 6e9), ("microsoft/Phi-3-mini-128k-instruct", 16e9)],
)
def test_a_full_size_model_runs_in_little_memory(model, limit_bytes, tmp_path, capsys):
    """A prefill of 128 rows and 8 decode steps. Weights take 2 bytes an element, also in block formats."""
    output = tmp_path / "run.json"
    test = "models/tt_transformers/demo/simple_text_demo.py"
    peak, printed = run_in_a_process(
        ["-m", "pytest", test, "-k", "performance and batch-1", "--dummy_weights", "1", "--max_generated_tokens", "9",
         "--stop_at_eos", "0", "--output_json", str(output)],
        HF_MODEL=model, MESH_DEVICE="N150",
    )  # fmt: skip
    record = json.loads(output.read_text(encoding="utf-8"))
    with capsys.disabled():
        print(model, printed.split("Summary")[1].split("\n\n")[0])
        print(f"  peak memory                 {peak / 1e9:.2f} GB")
    assert len(record["users"][0]["token_ids"]) == 9
    assert peak < limit_bytes


@pytest.mark.parametrize("source", ["dummy", "files"])
def test_converting_an_8b_takes_at_most_a_third_more_memory_than_its_weights(source, capsys):
    """Takes 18 GB of memory and, with files, 16 GB of the disk that TMPDIR names."""
    command = ["-m", "models.tt_transformers.measure.conversion", "--model", "meta-llama/Llama-3.1-8B"]
    _, printed = run_in_a_process([*command, "--json", *(["--files"] if source == "files" else [])])
    result = json.loads(printed.splitlines()[-1])
    with capsys.disabled():
        print(f"Llama-3.1-8B, {source}: {result}")
    assert result["converted"] > 16e9
    assert result["peak"] < 1.3 * result["converted"]


def run_in_a_process(arguments: list[str], **environment) -> tuple[int, str]:
    """Runs Python -> (its peak of resident memory in bytes, what it printed)."""
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, env={**os.environ, **environment}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, printed
    return usage.ru_maxrss * 1024, printed
