"""Errors of an evaluation: each is one line that names what cannot be evaluated."""

import textwrap
from contextlib import contextmanager

# transformers may list all its models; the beginning says what is wrong.
LONGEST_REASON = 600


class EvaluationError(ValueError):
    """What was asked for cannot be evaluated; the message says why, in one line."""


@contextmanager
def reported(subject: str):
    """Around the reading of a user's files: whatever a library raises becomes an EvaluationError about `subject`."""
    try:
        yield
    except EvaluationError:
        raise
    except BaseException as error:
        # The tokenizers library panics on some files; a panic is no Exception, so that nobody uses the library after it.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise EvaluationError(f"{subject}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """The kind and the text of an exception, without line breaks, cut to `LONGEST_REASON` characters."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", LONGEST_REASON, placeholder=" ...")
