"""Files that are written whole or not at all."""

import json
import os
import tempfile
from pathlib import Path


def write(path: str | Path, content: str | bytes) -> None:
    """Writes `content`, text as UTF-8, to `path` under a temporary name and renames it.

    No other process reads a part of it, and what was at `path` stays if this fails. Raises OSError.
    """
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        # mkstemp makes files private; these are as readable as any other file the user creates.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_json(path: str | Path, value, *, indent: int = 1) -> None:
    """`write` of `value` as JSON. Raises ValueError for numbers that JSON cannot hold."""
    write(path, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def check_writable(path: str | Path, what: str) -> None:
    """Raises ValueError, which names the option `what`, if no file can be written at `path`; an existing one is left as it is."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{what} {path} is a directory; expected a file")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(f"{what} {path}: cannot write to {path.parent}: {error.strerror}") from error
