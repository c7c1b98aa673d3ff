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
_LARGEST_DESCRIPTOR = 2**31 - 1  # of the C type; no process has so many
_REFUSED = {stat.S_IFDIR: "a directory", stat.S_IFSOCK: "a socket", stat.S_IFBLK: "a block device"}


class NotWritten(OSError):
    """A long run's result could not be written to a file and was printed. The text names option, file and reason."""


def write(path: str | Path, content: str | bytes) -> None:
    """Writes `content`, text as UTF-8, to `path`.

    The file is written under a temporary name and then renamed. So no other process reads a part of it, and the old
    file stays if writing fails. The file keeps its mode, and its owner if the process may set it. A symbolic link
    stays, and its target is written. Another hard link to the old file keeps the old content. A pipe, a character
    device and an open descriptor (/dev/stdout, /dev/fd/N) are written in place.

    Raises OSError that names `path`.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        place = _in_place(path)
        if place is None:
            _replace(_named_file(path), data)
        elif isinstance(place, int):
            print(end="", flush=True)  # earlier output must come first
            _write_to(place, data, closefd=False)
        else:
            _write_to(os.open(place, os.O_WRONLY | os.O_NOCTTY), data)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_json(path: str | Path, value, *, indent: int = 1) -> None:
    """`write` of `value` as JSON. Raises ValueError for numbers that JSON cannot hold."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
    # A lone surrogate, as in a file name that is not UTF-8, has no encoding in UTF-8. JSON escapes it, e.g. as \udce9.
    write(path, text.encode(errors="backslashreplace"))


@contextmanager
def printed_if_not_written(value, what: str):
    """Context manager: if its body fails to write `value` to a file, prints it as one line of JSON.

    So the result of a long run is not lost. An OSError of the body becomes NotWritten. `what` is the option that names
    the file.
    """
    try:
        yield
    except OSError as error:
        print(json.dumps(value), flush=True)
        reason = f"{error.strerror}; it is printed above, as one line of JSON"
        raise NotWritten(f"{what} {error.filename}: {reason}") from error


def check_writable(path: str | Path, what: str) -> None:
    """Raises ValueError if `write` could not write to `path`. It names the option `what`. `path` is not changed."""
    try:
        if _in_place(path) is None:
            _check_folder(_named_file(path).parent)
    except OSError as error:
        raise ValueError(f"{what} {path}: {error.strerror}") from error


def make_folder(path: str | Path, what: str) -> None:
    """Makes a folder if it is not there.

    Raises ValueError if the folder cannot be made or no file can be written in it. It names the option `what`.
    """
    try:
        os.makedirs(path, exist_ok=True)
        _check_folder(path)
    except OSError as error:
        raise ValueError(f"{what} {path}: {error.strerror}") from error


def _in_place(path: str | Path) -> int | str | None:
    """The target of a write in place: an open descriptor's number, or the path of a pipe or device. None for a file.

    Raises OSError if `path` cannot be written to. Nothing is opened: opening a pipe would wait for its reader, and
    closing it would end the reader.
    """
    if os.path.basename(path) == "":
        raise OSError(errno.EISDIR, "names no file; expected a file, a pipe or a character device")
    descriptor = _descriptor(path)
    if descriptor is not None:
        if not os.get_inheritable(descriptor):  # this process, or pytest, opened it for itself
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
    """N, if `path` is /dev/fd/N of this process or a link to it, such as /dev/stdout. Otherwise None.

    Opening such a file by its path would write from its beginning, over the earlier output.
    """
    folder, path = os.path.realpath("/dev/fd"), os.fspath(path)
    for _ in range(40):  # Linux follows at most 40 links
        parent, name = os.path.split(path)
        parent = os.path.realpath(parent)
        if parent == folder and name.isdecimal():
            return min(int(name), _LARGEST_DESCRIPTOR)
        if not os.path.islink(path):
            return None
        path = os.path.join(parent, os.readlink(path))
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _named_file(path: str | Path) -> Path:
    """`path`, or the final target if it is a symbolic link."""
    return Path(os.path.realpath(path) if os.path.islink(path) else path)


def _check_folder(folder: str | Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, f"cannot write to {folder}: {error.strerror}") from error


def _replace(path: Path, data: bytes) -> None:
    # A long name is cut, because the temporary name could otherwise exceed the longest possible one.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:50]}.", suffix=".tmp")
    try:
        with open(handle, "wb") as file:
            _set_mode(handle, path)
            file.write(data)
        try:
            os.replace(temporary, path)
        except OSError as error:
            # The file is a mount point, as in containers, or belongs to another user, in a folder such as /tmp.
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
    """Gives the open file `handle` the mode and owner of the file at `path`, or those of a new file."""
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
