"""Files that are written whole or not at all."""

import errno
import fcntl
import json
import os
import stat
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

_MODE_OF_NEW_FILES = 0o666  # before the umask
_REFUSED = {stat.S_IFDIR: "a directory", stat.S_IFSOCK: "a socket", stat.S_IFBLK: "a block device"}


class NotWritten(OSError):
    """What a long run found could not be written to a file, and was printed. The text names option, file and reason."""


def write(path: str | Path, content: str | bytes) -> None:
    """Writes `content`, text as UTF-8, to `path`.

    A file is written under a temporary name and renamed: no other process reads a part of it, and what was there stays
    if this fails. It keeps its mode, and its owner where the process may set it. A symbolic link stays; what it names is
    written. A pipe, a character device and an open descriptor (/dev/stdout, /dev/fd/N) are written to in place.

    Raises OSError that names `path`.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        place = _in_place(path)
        if place is None:
            _replace(_named_file(path), data)
        elif isinstance(place, int):
            print(end="", flush=True)  # what was printed before comes before
            _write_to(place, data, closefd=False)
        else:
            _write_to(os.open(place, os.O_WRONLY | os.O_NOCTTY), data)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_json(path: str | Path, value, *, indent: int = 1) -> None:
    """`write` of `value` as JSON. Raises ValueError for numbers that JSON cannot hold."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
    # Half of a surrogate pair, as in the name of a file that is not UTF-8, has no UTF-8: JSON's escape of it is \udce9.
    write(path, text.encode(errors="backslashreplace"))


@contextmanager
def printed_if_not_written(value, what: str):
    """Prints `value`, as one line of JSON, if the body cannot write it to a file, so that a long run is not lost.

    Raises NotWritten for an OSError of the body's; `what` is the option that names the file.
    """
    try:
        yield
    except OSError as error:
        print(json.dumps(value), flush=True)
        reason = f"{error.strerror}; it is printed above, as one line of JSON"
        raise NotWritten(f"{what} {error.filename}: {reason}") from error


def check_writable(path: str | Path, what: str) -> None:
    """Raises ValueError, which names the option `what`, if `write` could not write to `path`, which is left as it is."""
    try:
        if _in_place(path) is None:
            _check_folder(_named_file(path).parent)
    except OSError as error:
        raise ValueError(f"{what} {path}: {error.strerror}") from error


def make_folder(path: str | Path, what: str) -> None:
    """Makes a folder if it is not there.

    Raises ValueError, which names the option `what`, if it cannot be made or no file can be written in it.
    """
    try:
        os.makedirs(path, exist_ok=True)
        _check_folder(path)
    except OSError as error:
        raise ValueError(f"{what} {path}: {error.strerror}") from error


def _in_place(path: str | Path) -> int | str | None:
    """What to write to in place: an open descriptor's number, or the path of a pipe or device; None for a file.

    Raises OSError for what cannot be written to. Nothing is opened: that would wait for a pipe's reader, or end it.
    """
    descriptor = _descriptor(path)
    if descriptor is not None:
        if not os.get_inheritable(descriptor):  # as those that this process, or pytest, opened for itself
            raise OSError(errno.EBADF, "is not open")
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "is open for reading only")
        return descriptor
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except FileNotFoundError:
        return None
    if kind in _REFUSED:
        raise OSError(errno.EINVAL, f"is {_REFUSED[kind]}; expected a file, a pipe or a character device")
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return None if kind == stat.S_IFREG else str(path)


def _descriptor(path: str | Path) -> int | None:
    """N, if `path` is /dev/fd/N, or a link to it such as /dev/stdout, of this process.

    Opened by its path, a file there would be written from its beginning, over what was printed to it.
    """
    folder, path = os.path.realpath("/dev/fd"), os.fspath(path)
    for _ in range(40):  # links that Linux follows at most
        parent, name = os.path.split(path)
        parent = os.path.realpath(parent)
        if parent == folder and name.isdecimal():
            return int(name)
        if not os.path.islink(path):
            return None
        path = os.path.join(parent, os.readlink(path))
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _named_file(path: str | Path) -> Path:
    """`path`, or what it names in the end if it is a symbolic link."""
    return Path(os.path.realpath(path) if os.path.islink(path) else path)


def _check_folder(folder: str | Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, f"cannot write to {folder}: {error.strerror}") from error


def _replace(path: Path, data: bytes) -> None:
    # Of a long name only the beginning, or the temporary one would be longer than a name can be.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:50]}.", suffix=".tmp")
    try:
        with open(handle, "wb") as file:
            _set_mode(handle, path)
            file.write(data)
        try:
            os.replace(temporary, path)
        except OSError as error:
            # A file that is mounted by itself, as containers do, or another user's in a folder such as /tmp.
            if error.errno not in (errno.EBUSY, errno.EPERM):
                raise
            _write_to(os.open(path, os.O_WRONLY | os.O_TRUNC), data)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def _write_to(descriptor: int, data: bytes, *, closefd: bool = True) -> None:
    with open(descriptor, "wb", closefd=closefd) as file:
        file.write(data)


def _set_mode(handle: int, path: Path) -> None:
    """Gives the open file `handle` mode and owner of the file at `path`, or of a new file if there is none."""
    try:
        old = os.stat(path)
    except FileNotFoundError:
        umask = os.umask(0)
        os.umask(umask)
        os.fchmod(handle, _MODE_OF_NEW_FILES & ~umask)
        return
    for owner in ((-1, old.st_gid), (old.st_uid, -1)):
        with suppress(OSError):
            os.fchown(handle, *owner)
    os.fchmod(handle, old.st_mode & 0o777)
