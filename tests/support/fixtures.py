"""Fixtures for all tests. A folder of tests imports the ones that it needs into its conftest.py."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Union

import pytest
from loguru import logger

from models.common import benchmark_record
from models.common.pcc import pcc

PROJECT_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def run_on_mock():
    """Runs code on the vendor's mock device, in a separate process, because `ttnn` in this process is the emulator.

    Returns `run(mesh, code, *arguments, backend="mock") -> str`, which gives the program's standard output.

    mesh: N150, N300, T3K or TG.
    code: Python source, or the Path of a file. It must import `models` before `ttnn`.
    backend: "mock" or "lockstep".

    Fails the test with the program's error output if the program fails.
    """

    def run(mesh: str, code: Union[str, Path], *arguments: str, backend: str = "mock") -> str:
        program = [str(code)] if isinstance(code, Path) else ["-c", code]
        environment = {**os.environ, "TT_BACKEND": backend, "MESH_DEVICE": mesh, "PYTHONPATH": str(PROJECT_ROOT)}
        environment.pop("FAKE_DEVICE", None)
        result = subprocess.run(
            [sys.executable, *program, *arguments], cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True
        )
        if result.returncode != 0:
            pytest.fail(f"on the {backend} {mesh}, exit status {result.returncode}:\n{result.stderr[-8000:]}")
        return result.stdout

    return run


@pytest.fixture(scope="module", autouse=True)
def benchmarks(tmp_path_factory):
    """A temporary folder for the benchmark records of runs in this process."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("benchmarks")
        patch.setattr(benchmark_record, "FOLDER", folder)
        yield folder


@pytest.fixture
def recorded_pcc(record_property):
    """`pcc`, which also keeps its result in pytest's report (`--junitxml`): `lt` shows the lowest of a run."""

    def compute(actual, expected) -> float:
        found = pcc(actual, expected)
        record_property("pcc", found)
        return found

    return compute


@pytest.fixture
def warnings():
    """The warnings that a test logs, as they come."""
    messages = []
    sink = logger.add(lambda message: messages.append(message.record["message"]), level="WARNING")
    yield messages
    logger.remove(sink)
