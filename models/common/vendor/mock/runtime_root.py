"""Prepares what the vendor's ttnn needs to open its mock device: a cluster, a runtime root, a kernel compiler.

Everything is built under `generated/mock/` of the project. The installed package is only read, and no mock
kernel gets into the user's own kernel cache.
"""

import fcntl
import hashlib
import importlib.machinery
import itertools
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Optional

from models.common.vendor.mock.cluster_descriptor import write_cluster_descriptor

PROJECT_ROOT = Path(__file__).resolve().parents[4]
GENERATED = PROJECT_ROOT / "generated" / "mock"

_ASSEMBLER = "riscv64-unknown-elf-as"
_LINKER = "riscv64-unknown-elf-ld"

# Folder of kernel caches -> the cache that this process uses, and its open lock file.
_held_caches = {}

_COMPILER = "riscv-tt-elf-g++"
_HERE = Path(__file__).resolve().parent


class MockUnavailable(RuntimeError):
    """The mock device cannot be set up here. The message says what to install."""


def prepare(mesh_name: str) -> dict:
    """Builds the files of a mock cluster of `mesh_name`, a name of `MESHES`, once. Returns its environment variables.

    The variables must be in `os.environ` before the vendor's `ttnn` is imported. The user's own values for log
    levels and backtraces are kept. Two processes may call this at the same time.

    Raises MockUnavailable if `ttnn` or the RISC-V binutils are not installed, or if the folder for the files
    cannot be used.
    """
    missing = missing_package()
    if missing is not None:
        raise MockUnavailable(f"The mock device needs the package {missing}")
    if re.search(r"\s", str(GENERATED)):
        raise MockUnavailable(f"The vendor's ttnn runs no compiler from a path with blanks: {GENERATED}")
    try:
        home, descriptor = _build(find_ttnn(), mesh_name)
    except OSError as error:
        raise MockUnavailable(f"The mock device's files cannot be made in {GENERATED}: {error}") from error
    preferences = {"TT_METAL_LOGGER_LEVEL": "fatal", "TT_METAL_DISABLE_BACKTRACE": "1", "LOGURU_LEVEL": "INFO"}
    return {
        "TT_METAL_MOCK_CLUSTER_DESC_PATH": str(descriptor),
        "TT_METAL_RUNTIME_ROOT": str(home / "runtime"),
        "TT_METAL_CACHE": str(_own_kernel_cache(home / "kernels")),
        "TT_METAL_LOGS_PATH": str(home / "logs"),
        **{variable: os.environ.get(variable, value) for variable, value in preferences.items()},
    }


def _own_kernel_cache(folder: Path) -> Path:
    """The first folder of kernels that no other running process uses. This process keeps it until it ends.

    Two processes that build the same kernel in one folder would rename each other's files.
    """
    if folder not in _held_caches:
        for number in itertools.count():
            cache = folder / str(number)
            cache.mkdir(exist_ok=True)
            lock = (folder / f"{number}.lock").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                continue
            _held_caches[folder] = cache, lock
            break
    return _held_caches[folder][0]


def missing_package() -> Optional[str]:
    """The package to install before the mock device can be used; None if nothing is missing."""
    package = find_ttnn()
    if package is None:
        return "ttnn (Python wheels for CPython 3.10 and 3.12 on Linux x86-64)"
    binutils = all(shutil.which(program) for program in (_ASSEMBLER, _LINKER))
    if not binutils and find_toolchain(package) is None:
        return f"binutils-riscv64-unknown-elf (for {_ASSEMBLER} and {_LINKER})"
    return None


def find_ttnn() -> Optional[Path]:
    """The folder of the installed vendor package, None if there is none.

    Only looks on disk. An import would read the environment too early, and `sys.modules["ttnn"]` may be the emulator.
    """
    spec = importlib.machinery.PathFinder.find_spec("ttnn")
    return Path(spec.origin).resolve().parent if spec is not None and spec.origin else None


def find_toolchain(package: Path) -> Optional[Path]:
    """The folder of the vendor's kernel compiler, None if it is not installed."""
    for toolchain in (package / "runtime" / "sfpi", Path("/opt/tenstorrent/sfpi")):
        if (toolchain / "compiler" / "bin" / _COMPILER).exists():
            return toolchain
    return None


def _build(package: Path, mesh_name: str) -> tuple:
    """Returns the folder that holds everything for `package`, and the cluster descriptor in it."""
    toolchain = find_toolchain(package)
    home = GENERATED / _key(package, toolchain)
    _build_once(home / "runtime", lambda directory: _fill_runtime_root(directory, package, toolchain))
    descriptor = home / f"{mesh_name}.yaml"
    _build_once(descriptor, lambda path: write_cluster_descriptor(mesh_name, path))
    for folder in ("kernels", "logs"):
        (home / folder).mkdir(exist_ok=True)
    return home, descriptor


def _key(package: Path, toolchain: Optional[Path]) -> str:
    """A key of everything that a runtime root is made from. Another package or stand-in compiler gives another key."""
    digest = hashlib.sha256(f"{package}\n{toolchain}\n".encode())
    for source in (package / "tt_metal" / "sfpi-version", *sorted(_HERE.iterdir())):
        if source.is_file():
            digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _build_once(target: Path, fill) -> None:
    """Makes `target` with `fill(path)` under another name and renames it. So `target` is complete or does not exist."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    # TemporaryDirectory would register the handler of all finalizers at exit before that of multiprocessing. Then a
    # program that ends waits for its child processes before the finalizers that stop them, such as vLLM's, have run.
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        made = scratch / target.name
        fill(made)
        try:
            made.rename(target)
        except OSError:
            # Another process may have been faster: a folder cannot be renamed onto one that has content.
            if not target.exists():
                raise
    finally:
        shutil.rmtree(scratch)


def _fill_runtime_root(root: Path, package: Path, toolchain: Optional[Path]) -> None:
    (root / "runtime").mkdir(parents=True)
    for part in ("tt_metal", "ttnn", "runtime/hw"):
        (root / part).symlink_to(package / part)
    sfpi = root / "runtime" / "sfpi"
    if toolchain is not None:
        sfpi.symlink_to(toolchain)
    else:
        _install_stand_in(sfpi / "compiler" / "bin", package)


def _install_stand_in(directory: Path, package: Path) -> None:
    directory.mkdir(parents=True)
    shutil.copy(_HERE / _COMPILER, directory)
    (directory / "version").write_text(_compiler_version(package))
    subprocess.run(
        [_ASSEMBLER, "-march=rv32im", "-mabi=ilp32", _HERE / "stand_in.s", "-o", directory / "stand_in.o"],
        check=True,
    )


def _compiler_version(package: Path) -> str:
    """The answer of the package's own compiler to `--version`. The vendor finds its pre-compiled firmware by it."""
    stated = (package / "tt_metal" / "sfpi-version").read_text()
    version, build = (
        re.search(rf"^sfpi_{field}='([^']+)'", stated, re.MULTILINE).group(1) for field in ("version", "build")
    )
    return f"{_COMPILER} (tenstorrent/sfpi:{version}[{build}]) 15.1.0\n"
