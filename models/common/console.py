"""Printing that does not end a run."""

import io
import sys
from collections.abc import Callable

from loguru import logger

from models.common.whole_file import NotWritten


class Output:
    """Makes a text stream, as `sys.stdout`, one that a program can print to without ending by it.

    A character that the stream's encoding lacks is printed as a backslash escape. From the first write on that fails (a
    closed pipe, a full disk) what is printed is lost, of which the log has one warning, and the program goes on.
    A stream that is None, or no file, is left as it is.
    """

    def __init__(self, stream):
        self._stream, self._lost = stream, False
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
            # In place, because others hold the stream too: pytest, and who restores what it replaced.
            stream.write, stream.flush = self._guarded(stream.write), self._guarded(stream.flush)

    def _guarded(self, method: Callable) -> Callable:
        def call(*arguments):
            if not self._lost:
                try:
                    return method(*arguments)
                except OSError as error:
                    self._lost = True
                    logger.warning(f"stdout: {error.strerror}; what is printed from here on is lost, the run goes on")

        return call

    def is_whole(self) -> bool:
        """Whether all that was printed could be written."""
        if self._stream is not None:
            self._stream.flush()
        return not self._lost


def run(main: Callable[[], int | None]) -> None:
    """Ends the process with the status of a program's `main`, or 1 if what it printed or found could not all be written."""
    output = Output(sys.stdout)
    try:
        status = main()
    except NotWritten as error:
        sys.exit(str(error))
    sys.exit(status or int(not output.is_whole()))
