"""The screen of `lt`, driven by Textual's pilot."""

import asyncio
import os

import pytest
from textual.widgets import DataTable, Input, Log

from models.tt_transformers.measure.lt import log_view, runs, table
from models.tt_transformers.measure.lt.log_view import TextView, tail
from models.tt_transformers.measure.lt.scheduler import Scheduler
from models.tt_transformers.measure.lt.screen import Lt
from tests.lt.conftest import add
from tests.lt.test_results import PREDICTION, RECORD, finished, results_of_settings, spec  # noqa: F401

pytestmark = pytest.mark.whole


def drive(folder, steps, size=(160, 40)):
    """Runs `steps(app, pilot)` on the screen over a folder of runs."""

    async def run():
        app = Lt(Scheduler(folder))
        async with app.run_test(size=size) as pilot:
            await steps(app, pilot)

    asyncio.run(run())


async def shown(pilot, condition):
    """Waits until a condition holds. The test fails if it never does."""
    for _ in range(600):
        if condition():
            return
        await pilot.pause(0.05)
    raise AssertionError("waited in vain")


def states(app):
    data = app.query_one(DataTable)
    return [str(data.get_cell(key, "state")) for key in data.rows]


def text_of(app):
    """What the screen shows, line by line."""
    return "\n".join(strip.text for strip in app.screen._compositor.render_strips())


def messages(app):
    return [notification.message for notification in app._notifications]


def test_the_form_queues_a_run_and_the_table_shows_it_pass_and_its_log(folder, line):
    async def steps(app, pilot):
        app.query_one("#command", Input).value = line("print('hello from the test'); record_property('pcc', 0.9875)")
        await pilot.press("enter")
        await shown(pilot, lambda: states(app) == ["passed"])
        assert "0.98750" in text_of(app)
        await pilot.press("escape", "enter")
        await shown(pilot, lambda: isinstance(app.screen, TextView) and "hello from the test" in text_of(app))
        await pilot.press("escape")
        assert not isinstance(app.screen, TextView)

    drive(folder, steps, size=(240, 40))


@pytest.mark.parametrize(
    "command, message", [("dmeo", "'dmeo' is not known"), ("pytest 'open", "No closing quotation")]
)
def test_a_wrong_text_is_explained_and_queues_nothing(folder, command, message):
    async def steps(app, pilot):
        app.query_one("#command", Input).value = command
        await pilot.press("enter")
        await pilot.pause()
        assert message in messages(app)[0] and folder.all() == []

    drive(folder, steps)


def test_keys_cancel_repeat_and_delete_the_run_under_the_cursor(folder, line):
    running, queued = add(folder, line("import time; time.sleep(600)", "slow")), add(folder, line())

    async def steps(app, pilot):
        await shown(pilot, lambda: (running.folder / "group").exists())
        await pilot.press("escape", "d")
        assert "run 0001 is running; cancel it first" in messages(app)[0]
        await pilot.press("down", "c", "r", "up", "c")
        await shown(pilot, lambda: states(app) == ["cancelled", "cancelled", "passed"])
        await pilot.press("d")
        await shown(pilot, lambda: states(app) == ["cancelled", "passed"])
        assert not running.folder.exists() and queued.state() == runs.CANCELLED

    drive(folder, steps)


def test_all_queued_and_running_runs_are_cancelled_at_once(folder, line):
    slow = line("import time; time.sleep(600)", "slow")
    started = [add(folder, slow) for _ in range(100)][0]

    async def steps(app, pilot):
        await shown(pilot, lambda: (started.folder / "group").exists())
        await pilot.press("escape", "C")
        await shown(pilot, lambda: states(app) == ["cancelled"] * 100)
        assert "100 cancelled" in text_of(app)

    drive(folder, steps)


def test_runs_that_another_tool_adds_and_removes_come_and_go(folder, line):
    async def steps(app, pilot):
        run = add(runs.Runs(folder.folder), line())
        await shown(pilot, lambda: states(app) == ["passed"])
        run.delete()
        await shown(pilot, lambda: states(app) == [])

    drive(folder, steps)


def test_damaged_and_odd_runs_are_rows_like_others(folder, spec):  # noqa: F811
    finished(folder, spec, model="[red]\x1b[2J\udce9/[/]")
    damaged = finished(folder, spec)
    (damaged.folder / "run.json").write_text("{")

    async def steps(app, pilot):
        assert states(app) == ["passed", "unreadable"] and "[red]\ufffd[2J\ufffd/[/]" in text_of(app)
        await pilot.press("escape", "down", "r", "enter")
        assert any("0002 cannot be run again" in message for message in messages(app))

    drive(folder, steps)


def test_the_note_of_the_run_under_the_cursor_is_shown_whole(folder, spec):  # noqa: F811
    failed = finished(folder, spec, status=1)
    message = " ".join(["a long reason"] * 8) + " [/]"
    (failed.folder / "tests.xml").write_text(
        f"<testsuites><testcase><failure message='{message}'/></testcase></testsuites>"
    )
    finished(folder, spec)

    async def steps(app, pilot):
        assert f"0001: {message}" in text_of(app)
        await pilot.press("escape", "down")
        await pilot.pause()
        assert message not in text_of(app)

    drive(folder, steps)


def test_a_predicted_speed_is_told_apart_from_the_emulators(folder, spec):  # noqa: F811
    finished(folder, spec, {**RECORD, "prediction": PREDICTION})

    async def steps(app, pilot):
        text = text_of(app)
        assert "12.00 emulator" in text and "~38.1 (35.0 to 41.5)" in text and "predicted t/s/u" in text
        assert "not a card's speed" in text and "were not measured" in text

    drive(folder, steps, size=(200, 30))


def test_keys_write_the_table_and_the_pareto_front(folder, spec):  # noqa: F811
    results_of_settings(folder, spec, predictions=(PREDICTION, PREDICTION))

    async def steps(app, pilot):
        await pilot.press("escape", "m", "p")
        await shown(pilot, lambda: len(messages(app)) == 2)
        assert (folder.folder / "table.md").read_text() == table.markdown(list(app.results.values()))
        assert (folder.folder / "pareto-tiny-N150.png").is_file()

    drive(folder, steps)


@pytest.mark.parametrize("size", [(30, 10), (80, 24), (250, 60)])
@pytest.mark.parametrize("no_color", [False, True])
def test_every_size_of_terminal_shows_the_state_in_words(folder, spec, monkeypatch, size, no_color):  # noqa: F811
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    finished(folder, spec, status=1)

    async def steps(app, pilot):
        await pilot.pause()
        assert "failed" in text_of(app) and "comm" in text_of(app)
        await pilot.resize_terminal(60, 20)
        await pilot.pause()
        assert "failed" in text_of(app) and "options [of pytest]" in text_of(app) and app.no_color == no_color

    drive(folder, steps, size)


def test_more_jobs_are_refused_on_a_card(folder, monkeypatch):
    async def steps(app, pilot):
        await pilot.press("escape", "plus")
        assert app.scheduler.jobs == 2
        await pilot.press("minus", "minus")
        assert app.scheduler.jobs == 1 and "jobs is 0" in messages(app)[0]
        monkeypatch.setattr("models.common.backend.name", lambda: "silicon")
        await pilot.press("plus")
        assert app.scheduler.jobs == 1 and "a card takes one run at a time" in messages(app)[-1]

    drive(folder, steps)


def test_a_folder_of_runs_that_vanishes_is_one_message_and_no_crash(folder, line):
    async def steps(app, pilot):
        os.rename(folder.folder, folder.folder.with_name("elsewhere"))
        await shown(pilot, lambda: len(messages(app)) == 1)
        await pilot.pause(1.2)
        assert len(messages(app)) == 1
        os.rename(folder.folder.with_name("elsewhere"), folder.folder)
        add(folder, line())
        await shown(pilot, lambda: states(app) == ["passed"])

    drive(folder, steps)


def test_names_are_listed_from_the_first(folder):
    async def steps(app, pilot):
        await pilot.press("escape", "question_mark")
        await shown(pilot, lambda: "token accuracy in performance mode" in text_of(app))
        assert any("meta-llama/Llama-3.1-8B" in line for line in app.screen.query_one(Log).lines)
        await pilot.press("q")
        await shown(pilot, lambda: not isinstance(app.screen, TextView))

    drive(folder, steps)


def test_the_user_is_told_what_goes_on_after_the_screen(folder, line):
    add(folder, line("import time; time.sleep(600)", "slow")), add(folder, line())

    async def steps(app, pilot):
        await shown(pilot, lambda: states(app) == ["running", "queued"])
        await pilot.press("escape", "q")
        await pilot.pause()
        assert "1 running, to their end; 1 queued, until lt runs again" in str(app._exit_renderables[0])

    drive(folder, steps)


@pytest.mark.parametrize(
    "data, text",
    [
        (b"\x1b[31mred\x1b[0m \x1b]0;title\x07plain\n", "red plain\n"),
        (b"10%\r50%\r100%\r\nna\xefve \xf0\x9f\x99\x82\n", "100%\nna\ufffdve \U0001f642\n"),
        (b"a\x00b\x08c\ttab", "a\ufffdb\ufffdc   tab"),
        (b"x" * 2500, "x" * 2000 + " [... 500 characters ...]"),
    ],
)
def test_a_log_is_shown_as_plain_text(tmp_path, data, text):
    (tmp_path / "log.txt").write_bytes(data)
    assert tail(tmp_path / "log.txt") == text


def test_only_the_end_of_a_huge_log_is_read(tmp_path):
    with open(tmp_path / "log.txt", "wb") as log:
        log.seek(10**10)
        log.write(b"\nthe end\n")
    text = tail(tmp_path / "log.txt")
    left_out = 10**10 + 9 - log_view.LIMIT
    assert text.startswith(f"[... {left_out} bytes not shown; the whole log is {tmp_path}") and text.endswith(
        "the end\n"
    )
