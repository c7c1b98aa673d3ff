"""Turns errors that libraries raise over a user's files into one line that names the file or the setting."""

import textwrap
from contextlib import contextmanager

# transformers may list all its models in an error. The beginning says what is wrong.
LONGEST_REASON = 600


@contextmanager
def reported(subject: str, kind: type[ValueError] = ValueError):
    """Context manager for reading a user's files: any error of a library becomes a `kind` that names `subject`.

    An error that already is a `kind` passes unchanged.
    """
    try:
        yield
    except BaseException as error:
        # The tokenizers library panics on some files. A panic is a BaseException but not an Exception.
        of_a_library = isinstance(error, Exception) or type(error).__name__ == "PanicException"
        if not of_a_library or (kind is not ValueError and isinstance(error, kind)):
            raise
        raise kind(f"{subject}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """The class and the text of an exception on one line, cut to `LONGEST_REASON` characters."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", LONGEST_REASON, placeholder=" ...")
