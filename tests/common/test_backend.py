import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from models.common import backend

PROJECT_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine without a card and without settings. Returns a function that adds a card."""
    monkeypatch.setattr(backend, "_DEVICE_FILES", tmp_path / "tenstorrent")
    for variable in ("TT_BACKEND", "TT_METAL_SIMULATOR"):
        monkeypatch.delenv(variable, raising=False)

    def insert_card():
        (tmp_path / "tenstorrent").mkdir()
        (tmp_path / "tenstorrent" / "0").touch()

    return insert_card


def resolve():
    return backend.resolve.__wrapped__()


def use(monkeypatch, name):
    monkeypatch.setattr(backend, "resolve", lambda: backend.Backend(name, f"TT_BACKEND={name}"))


@pytest.mark.parametrize("value", ["gpu", "", "Mock", "mock "])
def test_unknown_backend_is_refused_and_names_the_accepted_ones(machine, monkeypatch, value):
    monkeypatch.setenv("TT_BACKEND", value)
    with pytest.raises(ValueError, match="accepted are auto, silicon, simulator, mock, emulator, lockstep"):
        resolve()


def test_auto_is_the_emulator_without_a_card(machine):
    assert resolve() == backend.Backend("emulator", "there is no Tenstorrent card")


def test_auto_is_silicon_with_a_card_and_ttnn(machine, monkeypatch):
    machine()
    monkeypatch.setattr(importlib, "import_module", lambda name: None)
    assert resolve().name == "silicon"


def test_auto_says_why_a_card_is_not_used(machine, monkeypatch):
    def fail(name):
        raise ImportError("no ttnn for this Python")

    machine()
    monkeypatch.setattr(importlib, "import_module", fail)
    assert resolve().name == "emulator"
    assert "no ttnn for this Python" in resolve().reason


def test_auto_is_the_simulator_where_one_is_set(machine, monkeypatch):
    monkeypatch.setenv("TT_METAL_SIMULATOR", "/opt/simulator")
    assert resolve().name == "simulator"


def test_silicon_without_a_card_is_refused(machine, monkeypatch):
    monkeypatch.setenv("TT_BACKEND", "silicon")
    with pytest.raises(backend.BackendError, match="no card"):
        resolve()


def test_simulator_without_its_path_is_refused(machine, monkeypatch):
    monkeypatch.setenv("TT_BACKEND", "simulator")
    with pytest.raises(backend.BackendError, match="TT_METAL_SIMULATOR"):
        resolve()


@pytest.mark.parametrize("name", ["silicon", "simulator", "mock", "lockstep"])
def test_missing_vendor_package_says_what_to_install_and_for_which_pythons(monkeypatch, name):
    use(monkeypatch, name)
    monkeypatch.delitem(sys.modules, "ttnn", raising=False)
    monkeypatch.setattr(backend.runtime_root, "find_ttnn", lambda: None)
    with pytest.raises(backend.BackendError, match=r"pip install ttnn==\d.*CPython 3\.10 and 3\.12"):
        backend.install.__wrapped__()


@pytest.mark.parametrize(
    "name, trace, values",
    [
        ("silicon", True, True),
        ("simulator", True, True),
        ("mock", False, False),
        ("emulator", True, True),
        ("lockstep", False, True),
    ],
)
def test_what_differs_between_backends(monkeypatch, name, trace, values):
    use(monkeypatch, name)
    assert backend.supports_trace() == trace
    assert backend.values_meaningful() == values
    assert ("values meaningless" in backend.describe()) == (not values)


def test_versions_of_an_emulated_run_claim_no_vendor_package(monkeypatch):
    use(monkeypatch, "emulator")
    versions = backend.versions()
    assert versions["ttnn"] == "emulator"
    assert set(versions) == {"python", "torch", "transformers", "ttnn"}


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT_ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def test_ttnn_is_the_emulator_once_models_is_imported():
    result = run_python("import models, ttnn; print(ttnn.__name__)", TT_BACKEND="emulator")
    assert result.stdout.strip() == "models.common.ttnn_emulator", result.stderr


@pytest.mark.parametrize(
    "program",
    [["-m", "models.common.benchmark_record"], ["models/tt_transformers/tests/generate_reference_hf.py"]],
    ids=["module", "path"],
)
def test_a_program_whose_backend_cannot_be_had_says_so_in_one_line(program):
    environment = {**os.environ, "TT_BACKEND": "abacus"}
    result = subprocess.run([sys.executable, *program], cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 1
    assert re.fullmatch("error: TT_BACKEND='abacus' is not a backend; accepted are .*\n", result.stderr)


@pytest.mark.parametrize("name", ["emulator", "mock", "lockstep"])
def test_ttnn_imported_before_models_is_an_error(name):
    code = "import sys, types; sys.modules['ttnn'] = types.ModuleType('ttnn'); import models"
    result = run_python(code, TT_BACKEND=name)
    assert result.returncode != 0
    assert "import models first" in result.stderr
