"""The terminal screen: a form, the runs with their figures, their logs."""

from collections import Counter
from pathlib import Path

from rich.text import Text
from textual import on, work
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.containers import Container
from textual.suggester import SuggestFromList
from textual.widgets import DataTable, Footer, Input, Static

from models.common import backend, whole_file
from models.common.mesh_names import MESH_SHAPES
from models.tt_transformers.measure.lt import commands, front, runs, table
from models.tt_transformers.measure.lt.log_view import TextView, tail
from models.tt_transformers.measure.lt.results import Result, read
from models.tt_transformers.measure.lt.scheduler import Scheduler

POLL = 0.5  # seconds
_WIDEST_CELL = 48


class Lt(App):
    """The screen over the runs of a scheduler, which it keeps going."""

    TITLE = "lt"
    ENABLE_COMMAND_PALETTE = False
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]
    VERTICAL_BREAKPOINTS = [(0, "-low"), (20, "-high")]
    CSS = """
    #form { height: auto; }
    .-wide #form, .-low #form { layout: horizontal; }
    .-wide #form Input, .-low #form Input { width: 1fr; }
    DataTable { height: 1fr; }
    Static { height: auto; }
    .-low Static { max-height: 2; }
    """
    BINDINGS = [
        Binding("escape", "runs", "Runs"),
        Binding("c", "cancel", "Cancel"),
        Binding("C", "cancel_all", "Cancel all"),
        Binding("r", "rerun", "Run again"),
        Binding("d", "delete", "Delete"),
        Binding("m", "markdown", "Markdown"),
        Binding("p", "pareto", "Pareto front"),
        Binding("plus", "jobs(1)", "More at a time"),
        Binding("minus", "jobs(-1)", "Fewer"),
        Binding("question_mark", "names", "Names"),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(self, scheduler: Scheduler):
        super().__init__()
        self.scheduler, self.results, self._problem = scheduler, {}, None

    def compose(self) -> ComposeResult:
        with Container(id="form"):
            yield _field("command", "demo", commands.descriptions())
            yield _field("model", commands.model("")[0], commands.model_names())
            yield _field("device", commands.device(""), MESH_SHAPES)
            yield _field("options", "of pytest", ())
        yield Static(id="status", markup=False)
        yield DataTable(cursor_type="row", fixed_columns=2)
        yield Static(id="notes", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        for name in table.COLUMNS:
            self.query_one(DataTable).add_column(Text(name), key=name)
        self.query_one("#command").focus()
        self.keep_going()
        self.set_interval(POLL, self.keep_going)

    def keep_going(self) -> None:
        """Starts what may start, and shows the states of all runs."""
        problem, known = None, self.results
        try:
            self.scheduler.tick()
        except OSError as error:  # such as a full disk: the runs that are alive go on
            problem = str(error)
        try:
            found = self.scheduler.runs.all()
            self.results = {run: known[run] if run in known and known[run].is_final else read(run) for run in found}
        except OSError as error:
            problem = str(error)
        if problem is not None and problem != self._problem:
            self.warn(problem)
        self._problem = problem
        self._show_rows()
        states = Counter(result.state for result in self.results.values())
        counts = (
            ", ".join(f"{count} {state}" for state, count in states.items()) or "no runs; Enter in the form adds one"
        )
        self.query_one("#status", Static).update(f"{backend.describe()} | {self.scheduler.jobs} at a time | {counts}")
        self.show_notes()

    @on(DataTable.RowHighlighted)
    def show_notes(self) -> None:
        """What a reader must know of the speeds, and the whole note of the run under the cursor."""
        lines, selected = table.notes(list(self.results.values())), self.selected
        if selected is not None and selected.note:
            lines.append(f"{selected.run.name}: {table.printable(selected.note)}")
        self.query_one("#notes", Static).update("\n".join(lines))

    def _show_rows(self) -> None:
        shown = self.query_one(DataTable)
        rows = {result.run.name: table.cells(result) for result in self.results.values()}
        for key in [key for key in shown.rows if key.value not in rows]:
            shown.remove_row(key)
        for name, cells in rows.items():
            texts = [Text(cell if len(cell) <= _WIDEST_CELL else cell[: _WIDEST_CELL - 1] + "…") for cell in cells]
            if name not in shown.rows:
                shown.add_row(*texts, key=name)
                continue
            for column, text in zip(table.COLUMNS, texts):
                if shown.get_cell(name, column) != text:
                    shown.update_cell(name, column, text, update_width=True)

    @property
    def selected(self) -> Result | None:
        """The result of the run under the cursor."""
        shown = self.query_one(DataTable)
        if not shown.row_count:
            return None
        name = shown.coordinate_to_cell_key(shown.cursor_coordinate).row_key.value
        return next((result for result in self.results.values() if result.run.name == name), None)

    def warn(self, problem: Exception | str) -> None:
        self.notify(table.printable(str(problem)), severity="error", timeout=10, markup=False)

    def check_action(self, action: str, parameters: tuple) -> bool:
        return not (isinstance(self.screen, TextView) and action in ("cancel", "cancel_all", "rerun", "delete", "runs"))

    @on(Input.Submitted)
    def queue(self) -> None:
        texts = (self.query_one(f"#{name}", Input).value for name in ("command", "model", "device", "options"))
        try:
            for spec in commands.specs(*texts):
                self.scheduler.runs.add(spec)
        except (ValueError, OSError) as error:
            return self.warn(error)
        self.keep_going()

    @on(DataTable.RowSelected)
    def show_log(self) -> None:
        if self.selected is not None:
            run = self.selected.run
            title = " ".join(filter(None, table.cells(self.selected)[:5]))
            self.push_screen(TextView(title, lambda: tail(run.folder / "log.txt"), from_end=True))

    def action_names(self) -> None:
        lines = [f"{name:<42}{text}" for name, text in commands.descriptions().items()]
        text = "\n".join(["Commands", *lines, "", "Devices", *MESH_SHAPES, "", "Models", *commands.model_names()])
        self.push_screen(
            TextView("Names that the form takes; several with commas between them", lambda: text, from_end=False)
        )

    def action_runs(self) -> None:
        self.query_one(DataTable).focus()

    def _on_selected(self, action) -> None:
        if self.selected is None:
            return
        try:
            action(self.selected)
        except (ValueError, OSError) as error:
            self.warn(error)
        self.keep_going()

    def action_cancel(self) -> None:
        self._on_selected(_cancel)

    def action_cancel_all(self) -> None:
        self._on_selected(lambda _: [_cancel(result) for result in self.results.values()])

    def action_rerun(self) -> None:
        self._on_selected(self._rerun)

    def _rerun(self, result: Result) -> None:
        if result.run.spec is None:
            raise ValueError(f"run {result.run.name} cannot be run again: {result.note}")
        self.scheduler.runs.add(result.run.spec)

    def action_delete(self) -> None:
        self._on_selected(lambda result: result.run.delete())

    def action_jobs(self, change: int) -> None:
        try:
            self.scheduler.set_jobs(self.scheduler.jobs + change)
        except ValueError as error:
            return self.warn(error)
        self.keep_going()

    def action_markdown(self) -> None:
        path = self.scheduler.runs.folder / "table.md"
        try:
            whole_file.write(path, table.markdown(list(self.results.values())))
        except OSError as error:
            return self.warn(error)
        self.notify(f"The table is in {path}", markup=False)

    def action_pareto(self) -> None:
        if self.selected is not None and self.selected.run.spec is not None:
            self._write_front(front.alike(list(self.results.values()), self.selected))

    @work(thread=True, exclusive=True)
    def _write_front(self, results: list[Result]) -> None:
        try:
            spec = results[0].run.spec
            path = self.scheduler.runs.folder / f"{spec.command}-{Path(spec.model).name}-{spec.device}.png"
            front.write(results, path)
        except (ValueError, OSError, RuntimeError) as error:
            return self.call_from_thread(self.warn, error)
        self.call_from_thread(self.notify, f"The Pareto front is in {path}", markup=False)

    async def action_quit(self) -> None:
        states = Counter(result.state for result in self.results.values())
        active = sum(states[state] for state in runs.ACTIVE)
        left = f"{active} running, to their end; {states[runs.QUEUED]} queued, until lt runs again"
        self.exit(message=f"{left}: {self.scheduler.runs.folder}" if active or states[runs.QUEUED] else None)


def _field(name: str, placeholder: str, known) -> Input:
    suggester = SuggestFromList(list(known), case_sensitive=False) if known else None
    return Input(placeholder=f"{name} [{placeholder}]", id=name, suggester=suggester, compact=True)


def _cancel(result: Result) -> None:
    if not result.is_final:
        result.run.cancel()
