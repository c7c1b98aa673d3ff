"""Runs of `lt` as processes and on disk: nothing is lost when one is cancelled or killed, or when a file is damaged."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from models.common import benchmark_record
from models.tt_transformers.measure.lt import runs, supervisor
from models.tt_transformers.measure.lt.results import SKIPPED, read
from models.tt_transformers.measure.lt.scheduler import Scheduler
from tests.lt.conftest import add, is_gone, until

pytestmark = pytest.mark.whole

LT = benchmark_record.ROOT / "models" / "tt_transformers" / "lt"
WITH_A_CHILD = "import subprocess, time; print(subprocess.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)"


@pytest.fixture
def waiting(tmp_path):
    """The body of a test that waits for `go`, a file: (body, go)."""
    go = tmp_path / "go"
    return f"import os, time\n    while not os.path.exists('{go}'): time.sleep(0.05)", go


def tool(folder, *arguments, **options):
    """A tool in a process of its own."""
    command = [sys.executable, str(LT), "--state", str(folder.folder), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def child_of(run):
    """The process that the test WITH_A_CHILD has started."""
    log = run.folder / "log.txt"
    return until(
        lambda: log.exists() and log.read_text().split("\n")[0].isdecimal() and int(log.read_text().split("\n")[0])
    )


def supervisor_of(run):
    group = int((run.folder / "group").read_text())
    return int(open(f"/proc/{group}/stat").read().rsplit(")", 1)[1].split()[1])


@pytest.mark.parametrize(
    "body, state, note",
    [
        ("record_property('pcc', 0.75); record_property('pcc', 0.5)", runs.PASSED, ""),
        ("assert 1 == 2, 'one is not two'", runs.FAILED, "AssertionError: one is not two"),
        ("import pytest; pytest.skip('no')", SKIPPED, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", runs.FAILED, "killed by signal 9"),
        ("import os; os._exit(3)", runs.FAILED, "pytest ended with status 3: internal error"),
    ],
)
def test_a_run_ends_as_its_tests_do(folder, line, body, state, note):
    run = add(folder, line(body))
    until(lambda: read(run).is_final, folder)
    result = read(run)
    assert (result.state, result.note) == (state, note)
    assert result.pcc == (0.5 if "pcc" in body else None) and result.seconds is not None


def test_no_more_runs_than_jobs_are_alive_at_a_time_with_two_tools(folder, line):
    for _ in range(6):
        add(folder, line("import time; time.sleep(0.3)"))
    schedulers, most = [Scheduler(runs.Runs(folder.folder), jobs=2) for _ in range(2)], 0
    while any(run.state() != runs.PASSED for run in folder.all()):
        for scheduler in schedulers:
            scheduler.tick()
        most = max(most, sum(run.state() in runs.ACTIVE for run in folder.all()))
        time.sleep(0.02)
    assert most == 2


def test_cancelling_kills_what_the_tests_started(folder, line):
    run = add(folder, line(WITH_A_CHILD))
    until(lambda: run.state() == runs.RUNNING, folder)
    child = child_of(run)
    run.cancel()
    assert run.state() == runs.CANCELLING
    until(lambda: run.state() == runs.CANCELLED and is_gone(child))
    assert "KeyboardInterrupt" in (run.folder / "log.txt").read_text()


def test_pytest_heeds_the_interrupt_of_a_tool_in_the_background_of_a_shell(folder, line):
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run = add(folder, line("import time; print('test_quick'); time.sleep(600)"))
        until(lambda: (run.folder / "group").exists(), folder)
    finally:
        signal.signal(signal.SIGINT, previous)
    until(lambda: "test_quick" in (run.folder / "log.txt").read_text())
    run.cancel()
    until(lambda: run.state() == runs.CANCELLED)
    assert "KeyboardInterrupt" in (run.folder / "log.txt").read_text()


def test_tests_that_ignore_the_interrupt_are_killed(folder, line):
    sign = folder.folder / "0001" / "ignores"
    ignore = (
        f"import pathlib, signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); pathlib.Path('{sign}').touch()"
    )
    run = add(folder, line(f"{ignore}; time.sleep(600)"))
    impatient = (
        "import pathlib, sys; sys.path.insert(0, sys.argv[1]); import supervisor; supervisor.GRACE = 0.3; "
        "supervisor.main(pathlib.Path(sys.argv[2]), int(sys.argv[3]), 0)"
    )
    with run.claimed() as lock:
        arguments = [os.path.dirname(supervisor.__file__), run.folder, str(lock)]
        process = subprocess.Popen([sys.executable, "-c", impatient, *arguments], pass_fds=[lock])
    until(sign.exists)
    run.cancel()
    process.wait()
    assert run.state() == runs.CANCELLED and run.ended()["status"] == -signal.SIGKILL


def test_a_cancelled_queued_run_never_starts(folder, line):
    first, second = add(folder, line()), add(folder, line())
    first.cancel()
    until(lambda: second.state() == runs.PASSED, folder)
    assert first.state() == runs.CANCELLED and not (first.folder / "log.txt").exists()


def test_a_run_goes_on_when_its_tool_is_killed_and_the_next_tool_runs_the_rest(folder, line, waiting):
    body, go = waiting
    running, queued = add(folder, line(body, "waiting")), add(folder, line())
    process = tool(folder, "run", "--queued", start_new_session=True)
    until(lambda: (running.folder / "group").exists())
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    until(lambda: read(running).note == "the tool that started it has ended; the run goes on")
    assert queued.state() == runs.QUEUED
    go.touch()
    until(lambda: queued.state() == runs.PASSED, folder)
    assert running.state() == runs.PASSED


def test_a_run_whose_supervisor_is_killed_is_lost_but_not_before_its_tests_end(folder, line, waiting):
    body, go = waiting
    run = add(folder, line(body))
    until(lambda: (run.folder / "group").exists(), folder)
    supervising = supervisor_of(run)
    os.kill(supervising, signal.SIGKILL)
    until(lambda: is_gone(supervising))
    assert run.state() == runs.RUNNING
    go.touch()
    until(lambda: run.state() == runs.LOST)
    assert read(run).note == "its processes ended without a result; run it again"


def test_a_cancelled_run_without_a_supervisor_is_killed_by_the_tool(folder, line):
    run = add(folder, line(WITH_A_CHILD))
    until(lambda: (run.folder / "group").exists(), folder)
    child = child_of(run)
    os.kill(supervisor_of(run), signal.SIGKILL)
    run.cancel()
    long_ago = time.time() - 2 * supervisor.GRACE
    os.utime(run.folder / "cancel", (long_ago, long_ago))
    until(lambda: run.state() == runs.CANCELLED and is_gone(child), folder)


def test_nothing_of_a_hundred_runs_is_lost_when_they_are_cancelled_and_the_tool_is_killed(folder, line):
    quick = line()
    queued = [add(folder, quick) for _ in range(100)]
    process = tool(folder, "run", "--queued", "--jobs", "2", start_new_session=True)
    until(lambda: sum(run.state() == runs.PASSED for run in queued) >= 3)
    for run in queued[-90:]:
        run.cancel()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert len(folder.all()) == 100
    until(lambda: all(read(run).is_final for run in folder.all()), folder, jobs=2)
    assert Counter(run.state() for run in folder.all()) == {runs.PASSED: 10, runs.CANCELLED: 90}


def test_an_interrupted_script_cancels_its_runs_and_leaves_others(folder, line):
    other = add(folder, line())
    process = tool(folder, "run", line("import time; time.sleep(600)", "slow"))
    until(lambda: len(folder.all()) == 2 and (folder.all()[1].folder / "group").exists())
    process.terminate()
    output, errors = process.communicate()
    assert process.returncode == 130 and not errors
    assert "0002" in output and folder.all()[1].state() == runs.CANCELLED and other.state() == runs.QUEUED


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 2}', '{"version": 1, "command": 3}', "[" * 100000])
def test_a_damaged_run_is_shown_and_can_be_deleted(folder, line, content):
    run = add(folder, line())
    (run.folder / "run.json").write_text(content)
    (damaged,) = runs.Runs(folder.folder).all()
    result = read(damaged)
    assert result.state == runs.UNREADABLE and "run.json" in result.note
    Scheduler(folder).tick()
    damaged.delete()
    assert folder.all() == []


def test_a_damaged_end_is_shown(folder, line):
    run = add(folder, line())
    (run.folder / "ended.json").write_text('{"status": 0')
    assert read(run).state == runs.UNREADABLE and "ended.json" in read(run).note


def test_a_running_run_is_not_deleted(folder, line):
    run = add(folder, line("import time; time.sleep(600)"))
    until(lambda: (run.folder / "group").exists(), folder)
    with pytest.raises(ValueError, match="run 0001 is running; cancel it first"):
        run.delete()
    run.cancel()
    until(lambda: run.state() == runs.CANCELLED)
    run.delete()
    assert folder.all() == [] and not run.folder.exists()


def test_removing_the_folder_of_a_running_run_ends_it(folder, line):
    run = add(folder, line(WITH_A_CHILD))
    until(lambda: (run.folder / "group").exists(), folder)
    child, supervising = child_of(run), supervisor_of(run)
    shutil.rmtree(run.folder)
    assert run.state() == runs.LOST
    until(lambda: is_gone(child) and is_gone(supervising))


def test_a_new_run_with_the_number_of_a_deleted_one_is_another_run(folder, line):
    add(folder, line())
    (old,) = folder.all()
    old.delete()
    new = add(folder, line("assert False", "other"))
    assert new.name == old.name and folder.all()[0].spec == new.spec != old.spec


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_stops_the_queue_and_loses_no_run(tmp_path, line):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        folder = runs.Runs(disk / "runs")
        run, filler = add(folder, line()), disk / "filler"
        with pytest.raises(OSError, match="No space left"), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        with pytest.raises(OSError, match="No space left"):
            add(folder, line())
        with pytest.raises(OSError, match="No space left"):
            Scheduler(folder).tick()
        assert [each.state() for each in folder.all()] == [runs.QUEUED]
        filler.unlink()
        until(lambda: run.state() == runs.PASSED, folder)
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_the_end_of_a_run_is_written_as_soon_as_a_full_disk_has_room(tmp_path, monkeypatch):
    slept, replaced = [], os.replace

    def full_at_first(source, target):
        if len(slept) < 2:
            raise OSError(28, "No space left on device")
        replaced(source, target)

    monkeypatch.setattr(supervisor.os, "replace", full_at_first)
    monkeypatch.setattr(supervisor.time, "sleep", slept.append)
    supervisor._write(tmp_path / "ended.json", {"status": 0})
    assert json.loads((tmp_path / "ended.json").read_text()) == {"status": 0}


def test_a_card_takes_one_run_at_a_time(folder, monkeypatch):
    monkeypatch.setattr("models.common.backend.name", lambda: "silicon")
    with pytest.raises(ValueError, match="jobs is 2; a card takes one run at a time"):
        Scheduler(folder, jobs=2)
    with pytest.raises(ValueError, match="jobs is 0; expected a whole number >= 1"):
        Scheduler(folder, jobs=0)
