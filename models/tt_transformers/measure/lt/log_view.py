"""The end of a run's log, on a screen of its own."""

import re
from collections.abc import Callable
from pathlib import Path

from textual.app import ComposeResult
from textual.screen import ModalScreen
from textual.widgets import Footer, Label, Log

LIMIT = 256 * 1024  # bytes of a log that are shown
_LONGEST_LINE = 2000
# Escape sequences: of a cursor or a colour, of a window's title, of two characters.
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b.?")


def tail(path: Path) -> str:
    """The last lines of a log as plain text. Bytes that are not UTF-8 become U+FFFD, and so do control characters."""
    try:
        with open(path, "rb") as log:
            left_out = max(0, log.seek(0, 2) - LIMIT)
            log.seek(left_out)
            data = log.read(LIMIT)
    except FileNotFoundError:
        return "There is no log yet."
    text = data.decode("utf-8", errors="replace")
    if left_out:
        text = f"[... {left_out} bytes not shown; the whole log is {path} ...]\n{text}"
    return "\n".join(_plain(line) for line in _ESCAPES.sub("", text).split("\n"))


def _plain(line: str) -> str:
    line = line.rstrip("\r").rsplit("\r", 1)[-1].expandtabs()  # a progress bar's last state
    if len(line) > _LONGEST_LINE:
        line = f"{line[:_LONGEST_LINE]} [... {len(line) - _LONGEST_LINE} characters ...]"
    return "".join(character if character.isprintable() else "\ufffd" for character in line)


class TextView(ModalScreen):
    """A text that is read again twice a second, as long as it is shown."""

    BINDINGS = [("escape,q,enter", "dismiss", "Back")]
    CSS = "TextView { align: center middle; } TextView Label { width: 100%; text-style: bold; }"

    def __init__(self, title: str, text: Callable[[], str], *, from_end: bool):
        super().__init__()
        self._title, self._text, self._follow, self._shown = title, text, from_end, None

    def compose(self) -> ComposeResult:
        yield Label(self._title, markup=False)
        yield Log()
        yield Footer()

    def on_mount(self) -> None:
        self.query_one(Log).focus()
        self._show()
        self.set_interval(0.5, self._show)

    def _show(self) -> None:
        try:
            text = self._text()
        except OSError as error:
            text = str(error)
        if text == self._shown:
            return
        log, first = self.query_one(Log), self._shown is None
        self._shown = text
        at_end, row = self._follow if first else log.is_vertical_scroll_end, log.scroll_offset.y
        log.clear()
        log.write(text, scroll_end=at_end)
        if not at_end:
            log.scroll_to(y=row, animate=False)
