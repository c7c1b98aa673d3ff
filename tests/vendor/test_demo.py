"""The demo as a user runs it on the mock device: it reports "validated", and prints no text and no speed."""

import os
import subprocess
import sys

import pytest

from tests.support.fixtures import PROJECT_ROOT


@pytest.mark.vendor
@pytest.mark.parametrize("mesh", ["N150", "T3K"])
def test_demo_on_the_mock_device_claims_no_text_and_no_speed(mesh):
    environment = {**os.environ, "TT_BACKEND": "mock", "MESH_DEVICE": mesh}
    for variable in ("FAKE_DEVICE", "HF_MODEL"):
        environment.pop(variable, None)
    command = [
        sys.executable, "-m", "pytest", "models/tt_transformers/demo/simple_text_demo.py", "-k", "performance and batch-1",
    ]
    result = subprocess.run(command, cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "validated, values meaningless" in result.stdout
    assert f"mesh                        {mesh}" in result.stdout
    for claim in ("Generated:", "tokens/s", "TTFT"):
        assert claim not in result.stdout
