"""Which `ttnn` the models run on, and why.

`TT_BACKEND` chooses the backend. Model code says plain `import ttnn` and does not ask which one it is. This module
answers the questions about a backend that `ttnn` itself cannot answer.

| backend   | `import ttnn` gives                    | values          |
| --------- | -------------------------------------- | --------------- |
| silicon   | the vendor's package, on a card        | the card's      |
| simulator | the vendor's package, on its simulator | the simulator's |
| mock      | the vendor's package, on no device     | meaningless     |
| emulator  | `models.common.ttnn_emulator`          | the emulator's  |
| lockstep  | `models.common.vendor.lockstep.paired_ttnn`: mock and emulator, op by op | the emulator's |
"""

import importlib
import importlib.metadata
import os
import platform
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from models.common import mesh_names
from models.common.vendor.mock import runtime_root

BACKENDS = ("silicon", "simulator", "mock", "emulator", "lockstep")

_OWN_MODULES = {"emulator": "models.common.ttnn_emulator", "lockstep": "models.common.vendor.lockstep.paired_ttnn"}
_ON_MOCK_DEVICE = ("mock", "lockstep")

_DEVICE_FILES = Path("/dev/tenstorrent")
_REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements.txt"


class BackendError(RuntimeError):
    """The requested backend cannot be used here. The message says what is missing."""


@dataclass(frozen=True)
class Backend:
    """The chosen backend, and the reason for the choice as one phrase."""

    name: str
    reason: str


@lru_cache(maxsize=None)
def resolve() -> Backend:
    """Chooses the backend from TT_BACKEND (`auto` if unset) and from the machine. The choice is made once per process.

    Raises ValueError for an unknown TT_BACKEND, and BackendError if the requested backend is not available.
    """
    requested = os.environ.get("TT_BACKEND", "auto")
    if requested == "auto":
        return _choose_automatically()
    if requested not in BACKENDS:
        raise ValueError(f"TT_BACKEND={requested!r} is not a backend; accepted are auto, {', '.join(BACKENDS)}")
    if requested == "silicon" and not _card_present():
        raise BackendError(f"TT_BACKEND=silicon: there is no card in {_DEVICE_FILES}")
    if requested == "simulator" and "TT_METAL_SIMULATOR" not in os.environ:
        raise BackendError("TT_BACKEND=simulator: set TT_METAL_SIMULATOR to the simulator's path")
    return Backend(requested, f"TT_BACKEND={requested}")


@lru_cache(maxsize=None)
def install() -> None:
    """Makes `import ttnn` resolve to the chosen backend, once. `models/__init__.py` calls it.

    Raises BackendError if the backend's package is missing, or if the backend is emulator, mock or lockstep and
    `ttnn` was imported before `models`.
    """
    backend = resolve().name
    own_module = _OWN_MODULES.get(backend)
    if "ttnn" in sys.modules and backend in (*_OWN_MODULES, *_ON_MOCK_DEVICE):
        raise BackendError(f"`ttnn` was imported before `models`, too late for backend {backend}: import models first")
    if backend != "emulator":
        _require_vendor_package(backend)
    if backend in _ON_MOCK_DEVICE:
        os.environ.update(runtime_root.prepare(mesh_names.requested_mesh_name() or "N150"))
    if own_module is not None:
        sys.modules["ttnn"] = _import_own(own_module, backend)


def name() -> str:
    """The chosen backend's name, one of `BACKENDS`."""
    return resolve().name


def supports_trace() -> bool:
    """Whether traces can be captured. Capturing on the vendor's mock device crashes the process."""
    return name() not in _ON_MOCK_DEVICE


def values_meaningful() -> bool:
    """Whether tensors hold computed values. On the mock device every output is zeros."""
    return name() != "mock"


def versions() -> dict:
    """The versions of python, torch, transformers and ttnn, for the record of a run.

    `ttnn` is "emulator" if the vendor's package is not used.
    """
    installed = {package: importlib.metadata.version(package) for package in ("torch", "transformers")}
    ttnn_version = "emulator" if name() == "emulator" else importlib.metadata.version("ttnn")
    return {"python": platform.python_version(), **installed, "ttnn": ttnn_version}


def describe() -> str:
    """One line for a run's summary: the backend, why it was chosen, and whether its values mean anything."""
    backend = resolve()
    line = f"{backend.name} ({backend.reason})"
    return line if values_meaningful() else f"{line}: validated, values meaningless"


def pinned_ttnn_version() -> str:
    """The version of the vendor's package that requirements.txt pins. This project was validated with it."""
    for line in _REQUIREMENTS.read_text().splitlines():
        if line.startswith("ttnn=="):
            return line.split(";")[0].strip().removeprefix("ttnn==")
    raise BackendError(f"{_REQUIREMENTS} pins no ttnn version")


def _choose_automatically() -> Backend:
    if _card_present():
        try:
            importlib.import_module("ttnn")
        except ImportError as error:
            return Backend("emulator", f"there is a card, but ttnn does not import: {error}")
        return Backend("silicon", f"there is a card in {_DEVICE_FILES}")
    if "TT_METAL_SIMULATOR" in os.environ:
        return Backend("simulator", "TT_METAL_SIMULATOR is set")
    return Backend("emulator", "there is no Tenstorrent card")


def _card_present() -> bool:
    return _DEVICE_FILES.is_dir() and any(entry.name.isdigit() for entry in _DEVICE_FILES.iterdir())


def _require_vendor_package(backend: str) -> None:
    if runtime_root.find_ttnn() is None:
        raise BackendError(
            f"Backend {backend} needs the vendor's package: pip install ttnn=={pinned_ttnn_version()}. It has wheels "
            f"for CPython 3.10 and 3.12 on Linux x86-64; this is {platform.python_version()} on "
            f"{platform.system()} {platform.machine()}"
        )


def _import_own(module: str, backend: str):
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BackendError(f"Backend {backend}: {module} cannot be imported: {error}") from error
