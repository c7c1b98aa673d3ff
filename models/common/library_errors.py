"""What libraries raise over a user's files, as one line that says which file or setting it is about."""

import textwrap
from contextlib import contextmanager

# transformers may list all its models; the beginning says what is wrong.
LONGEST_REASON = 600


@contextmanager
def reported(subject: str, kind: type[ValueError] = ValueError):
    """Around the reading of a user's files: whatever a library raises becomes a `kind` about `subject`.

    An error of a `kind` of one's own passes as it is.
    """
    try:
        yield
    except BaseException as error:
        # The tokenizers library panics on some files; a panic is no Exception, so that nobody uses the library after it.
        of_a_library = isinstance(error, Exception) or type(error).__name__ == "PanicException"
        if not of_a_library or (kind is not ValueError and isinstance(error, kind)):
            raise
        raise kind(f"{subject}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """The kind and the text of an exception, without line breaks, cut to `LONGEST_REASON` characters."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", LONGEST_REASON, placeholder=" ...")
