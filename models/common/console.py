"""Printing that never ends a run: a failed write to stdout is no reason to stop."""

import io
import sys
from collections.abc import Callable

from loguru import logger

from models.common.whole_file import NotWritten


class Output:
    """Makes a text stream such as `sys.stdout` safe to print to: a failing write does not end the program.

    A character that the stream's encoding lacks is printed as a backslash escape. After the first write that fails (a
    closed pipe, a full disk) all output is lost, the log gets one warning, and the program goes on.
    A stream that is None or not a file is left as it is.
    """

    def __init__(self, stream):
        self._stream, self._lost = stream, False
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
            # The stream object itself is changed, because others keep references to it, such as pytest.
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
    """Ends the process with the status that `main` returns, or with 1 if some of its output could not be written."""
    output = Output(sys.stdout)
    try:
        status = main()
    except NotWritten as error:
        sys.exit(str(error))
    sys.exit(status or int(not output.is_whole()))
