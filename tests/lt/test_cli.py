"""`lt` from scripts: its exit status, its tables and its errors."""

import json
import os
import subprocess
import sys

import pytest

from models.common import benchmark_record
from models.tt_transformers.measure.lt import cli, runs
from tests.lt.conftest import add

pytestmark = pytest.mark.whole


@pytest.fixture
def lt(folder, capsys):
    """`lt(*arguments)` -> (exit status, output, error output)."""

    def run(*arguments):
        try:
            status = cli.main(["--state", str(folder.folder), *map(str, arguments)])
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return run


@pytest.mark.parametrize("body, status", [("pass", 0), ("assert False", 1), ("import pytest; pytest.skip()", 1)])
def test_the_exit_status_says_whether_all_passed(folder, lt, line, body, status):
    found, output, errors = lt("run", line(body))
    assert found == status and not errors
    assert [text.split(": ")[-1].split(",")[0] for text in output.splitlines() if "pytest" in text][0] == "queued"
    assert (f"log: {folder.folder / '0001' / 'log.txt'}" in output) == (body == "assert False")


def test_only_the_runs_of_the_command_are_started(folder, lt, line):
    waiting = add(folder, line("assert False", "waiting"))
    assert lt("run", line())[0] == 0 and waiting.state() == runs.QUEUED
    assert lt("run", "--queued", "--jobs", "2")[0] == 1 and waiting.state() == runs.FAILED


def test_options_after_two_dashes_are_pytests(folder, lt, line):
    assert lt("run", line(), "--", "-k", "no such test")[0] == 1
    (run,) = folder.all()
    assert run.spec.arguments[-2:] == ("-k", "no such test")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("run", "dmeo"), "command 'dmeo' is not known; known are demo"),
        (("run", "demo", "--device", "N151"), "device: 'N151' is not a known mesh"),
        (("run", "demo", "--model", "nothing"), "model 'nothing' is not known"),
        (("run", "demo", "--queued"), "command 'demo' is given, and --queued too"),
        (("run",), "no command is given"),
        ((), "the screen needs a terminal"),
        (("run", "demo", "--jobs", "0"), "jobs is 0"),
        (
            ("pareto", "--from-json", "/nowhere", "--output", "front.png"),
            "configurations /nowhere: there are no .json files",
        ),
        (("pareto", "--output", "/nowhere/front.png"), "--output /nowhere/front.png: "),
        (("pareto", "--device", "N150,N300", "--output", "front.png"), "a Pareto front is of one model on one device"),
        (("table", "--output", "/nowhere/table.md"), "/nowhere/table.md"),
    ],
)
def test_a_wrong_command_line_is_an_error_in_one_line_and_queues_nothing(
    folder, lt, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    status, output, errors = lt(*arguments)
    assert status == 2 and message in errors.splitlines()[-1] and folder.all() == []


def test_a_state_folder_that_cannot_be_is_an_error(lt, tmp_path):
    (tmp_path / "file").touch()
    status, _, errors = lt("table", "--state", tmp_path / "file")
    assert status == 2 and f"--state {tmp_path / 'file'}" in errors


def test_the_table_is_printed_or_written(folder, lt, line, tmp_path):
    add(folder, line())
    status, output, _ = lt("table")
    assert status == 0 and output.startswith("## Runs") and "| 0001 | queued | pytest -qs" in output
    assert lt("table", "--output", tmp_path / "table.md")[0] == 0
    assert (tmp_path / "table.md").read_text() == output


def test_the_executable_runs_from_any_folder(tmp_path):
    lt = benchmark_record.ROOT / "models" / "tt_transformers" / "lt"
    assert os.access(lt, os.X_OK)
    result = subprocess.run(
        [sys.executable, lt, "--state", "runs", "table"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "") and result.stdout.startswith("## Runs")
    assert (tmp_path / "runs").is_dir()


def test_pareto_compares_the_settings_of_a_folder_by_real_runs(folder, lt, tmp_path):
    (tmp_path / "settings").mkdir()
    for name in ("bf16", "bfp4"):
        content = {"precision_cfg": {group: name for group in ("ff1_3", "ff2", "wqkv", "wo")}}
        (tmp_path / "settings" / f"all_{name}.json").write_text(json.dumps(content))
    given = ("--from-json", tmp_path / "settings", "--output", tmp_path / "front.png", "--jobs", "2")
    status, output, _ = lt("pareto", *given, "--", "--max_generated_tokens", "8")
    assert status == 0 and (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    rows = {cells[1].strip(): cells for cells in (text.split("|") for text in output.splitlines()) if len(cells) == 7}
    accuracy = {name: float(rows[name][3].strip(" %")) for name in ("all_bf16", "all_bfp4")}
    assert accuracy["all_bf16"] >= accuracy["all_bfp4"] > 0
    assert "emulator" not in rows["all_bf16"][2]
