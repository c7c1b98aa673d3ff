"""`make setup`: it finds the right Python, and makes the environment once and completely, or not at all."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from models.common.vendor.mock import runtime_root

pytestmark = pytest.mark.whole

PROJECT_ROOT = Path(__file__).resolve().parents[2]
FIND_PYTHON = PROJECT_ROOT / "scripts" / "find_python.sh"

FAILING_SHIM = "#!/bin/sh\necho 'pyenv: python3.12: command not found' >&2\nexit 127\n"
# A script that runs this Python under another name. PYTHONHOME is needed, because Python looks for its library beside
# that name.
WORKING = f"#!{shutil.which('bash')}\nPYTHONHOME={sys.base_prefix} exec -a \"$0\" {sys.executable} \"$@\"\n"
WITHOUT_VENV = WORKING.replace("PYTHONHOME", 'case "$*" in *ensurepip*) exit 1 ;; esac\nPYTHONHOME')
TOO_OLD = "#!/bin/sh\necho 3.9\nexit 1\n"


def install(path, program):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(program)
    path.chmod(0o755)
    return path


@pytest.fixture
def find_python(tmp_path):
    """Runs find_python.sh with only the folder `bin` on PATH, which a test fills, and with pyenv's root `pyenv`."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("bash", "sh", "sort"):
        (tools / tool).symlink_to(shutil.which(tool))

    def find():
        environment = {"PATH": f"{tmp_path / 'bin'}:{tools}", "HOME": str(tmp_path), "PYENV_ROOT": str(tmp_path / "pyenv")}
        return subprocess.run([FIND_PYTHON], env=environment, capture_output=True, text=True)

    return find


def test_python_on_path_is_found(find_python, tmp_path):
    python = install(tmp_path / "bin" / "python3.12", WORKING)
    assert find_python().stdout.strip() == str(python)


def test_failing_shim_leads_to_the_newest_of_pyenvs_versions(find_python, tmp_path):
    install(tmp_path / "bin" / "python3.12", FAILING_SHIM)
    install(tmp_path / "bin" / "python3", WORKING)
    for version in ("3.12.1", "3.12.10", "3.12.9"):
        install(tmp_path / "pyenv" / "versions" / version / "bin" / "python3.12", WORKING)
    assert find_python().stdout.strip() == str(tmp_path / "pyenv" / "versions" / "3.12.10" / "bin" / "python3.12")


def test_python310_comes_before_an_unnumbered_python3(find_python, tmp_path):
    install(tmp_path / "bin" / "python3.12", FAILING_SHIM)
    install(tmp_path / "bin" / "python3", WORKING)
    python = install(tmp_path / "bin" / "python3.10", WORKING)
    assert find_python().stdout.strip() == str(python)


def test_any_new_enough_python3_will_do(find_python, tmp_path):
    install(tmp_path / "bin" / "python3.12", FAILING_SHIM)
    python = install(tmp_path / "bin" / "python3", WORKING)
    assert find_python().stdout.strip() == str(python)


def test_llama_cpp_needs_a_compiler_and_says_so_in_one_line(find_python, tmp_path):
    install(tmp_path / "bin" / "python3", WORKING)
    for tool in ("cat", "dirname", "sed", "sha256sum"):
        (tmp_path / "tools" / tool).symlink_to(shutil.which(tool))
    for file in ("scripts/find_python.sh", "scripts/setup_bench.sh", "requirements-bench.txt"):
        install(tmp_path / "project" / file, (PROJECT_ROOT / file).read_text())
    environment = {"PATH": f"{tmp_path / 'bin'}:{tmp_path / 'tools'}", "HOME": str(tmp_path), "PYENV_ROOT": "/none"}
    command = [shutil.which("bash"), tmp_path / "project" / "scripts" / "setup_bench.sh"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    (line,) = result.stderr.splitlines()
    assert result.returncode == 1 and "install a C++ compiler" in line
    assert not (tmp_path / "project" / ".venv-bench").exists()


def test_python_without_venv_names_the_package_to_install(find_python, tmp_path):
    install(tmp_path / "bin" / "python3", WITHOUT_VENV)
    result = find_python()
    assert result.returncode == 1
    assert f"install the Debian package python3.{sys.version_info.minor}-venv" in result.stderr


def test_no_usable_python_says_what_was_looked_for(find_python, tmp_path):
    install(tmp_path / "bin" / "python3", TOO_OLD)
    result = find_python()
    assert (result.returncode, result.stdout) == (1, "")
    assert "python3.12, python3.10 and python3 (3.10 or newer)" in result.stderr


@pytest.fixture
def project(tmp_path):
    """A copy of the setup scripts with a requirements.txt that has no packages."""
    shutil.copytree(PROJECT_ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / "requirements.txt").write_text("# nothing\n")
    return tmp_path


def start_setup(project):
    command = [project / "scripts" / "setup_environment.sh"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def set_up(project):
    process = start_setup(project)
    output, _ = process.communicate()
    return process.returncode, output


def test_setup_is_done_once_and_again_when_the_requirements_change(project):
    assert set_up(project)[0] == 0
    assert set_up(project) == (0, "")
    (project / "requirements.txt").write_text("# changed\n")
    assert "Setting up .venv" in set_up(project)[1]


def test_an_environment_behind_a_link_is_not_cleared(project, tmp_path):
    (shared := tmp_path / "shared").mkdir()
    (shared / "kept").touch()
    (project / ".venv").symlink_to(shared)
    status, output = set_up(project)
    assert status != 0 and ".venv is a link to" in output
    assert (shared / "kept").exists()


def test_failed_setup_is_not_taken_for_a_finished_one(project):
    (project / "requirements.txt").write_text("./not-there.whl\n")
    assert set_up(project)[0] != 0
    assert set_up(project)[0] != 0


@pytest.mark.skipif(shutil.which("flock") is None, reason="setups wait for each other only where flock is installed")
def test_setups_started_together_wait_for_each_other(project):
    first, second = start_setup(project), start_setup(project)
    outputs = [process.communicate()[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    assert sorted("Setting up .venv" in output for output in outputs) == [False, True]


def test_setup_from_inside_the_environment_does_not_build_on_itself(project):
    assert set_up(project)[0] == 0
    path = f"{project / '.venv' / 'bin'}:{os.environ['PATH']}"
    result = subprocess.run(
        [project / "scripts" / "find_python.sh"], env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert not result.stdout.startswith(str(project))


def test_every_requirement_is_pinned():
    requirements = (PROJECT_ROOT / "requirements.txt").read_text().splitlines()
    unpinned = [line for line in requirements if line and not line.startswith("#") and "==" not in line.split(";")[0]]
    assert unpinned == []


@pytest.mark.skipif(shutil.which("make") is None, reason="needs the package make")
def test_make_alone_lists_the_targets():
    result = subprocess.run(["make", "--no-print-directory"], cwd=PROJECT_ROOT, capture_output=True, text=True)
    listed = {line.split()[1] for line in result.stdout.splitlines()}
    assert {"help", "setup", "demo", "test"} <= listed


def run_vendor_test_without_programs(tmp_path, **environment):
    """Runs one test marked `vendor` with an empty PATH, so that at least the RISC-V binutils are missing."""
    test = "tests/vendor/test_mock_device.py::test_wrong_op_call_is_refused_with_the_vendors_message"
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", test],
        cwd=PROJECT_ROOT,
        env={**os.environ, "PATH": str(tmp_path), **environment},
        capture_output=True,
        text=True,
    )


needs_stand_in = pytest.mark.skipif(
    runtime_root.find_ttnn() is not None and runtime_root.find_toolchain(runtime_root.find_ttnn()) is not None,
    reason="the real kernel compiler is installed, so nothing is missing",
)


@needs_stand_in
def test_vendor_tests_are_skipped_with_the_name_of_the_missing_package(tmp_path):
    result = run_vendor_test_without_programs(tmp_path, TT_REQUIRE_VENDOR="0")
    assert result.returncode == 0
    missing = "ttnn" if runtime_root.find_ttnn() is None else "binutils-riscv64-unknown-elf"
    assert "1 skipped" in result.stdout and f"needs the package {missing}" in result.stdout


@needs_stand_in
def test_skipped_vendor_tests_fail_where_they_are_required(tmp_path):
    result = run_vendor_test_without_programs(tmp_path, TT_REQUIRE_VENDOR="1")
    assert result.returncode == 1
    assert "TT_REQUIRE_VENDOR=1 allows no skip" in result.stdout
