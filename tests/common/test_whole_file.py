"""Files are written whole or not at all. A path that cannot be written is reported before any work."""

import errno
import json
import os
import resource
import socket
import stat
import threading

import pytest

from models.common import whole_file
from models.common.whole_file import NotWritten, check_writable, make_folder, printed_if_not_written, write, write_json

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
no_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")


def test_text_and_bytes_are_written_and_replace_what_was_there(tmp_path):
    write(tmp_path / "a", "cö")
    assert (tmp_path / "a").read_bytes() == "cö".encode()
    write(tmp_path / "a", b"\xff")
    assert (tmp_path / "a").read_bytes() == b"\xff"
    assert os.listdir(tmp_path) == ["a"]


def test_a_file_is_as_readable_as_any_other(tmp_path):
    write(tmp_path / "ours", "")
    (tmp_path / "other").write_text("")
    ours, other = (stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "other"))
    assert ours == other


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_what_json_cannot_hold_leaves_the_old_file_alone(tmp_path, value):
    write_json(tmp_path / "a.json", {"value": 1})
    with pytest.raises((ValueError, TypeError)):
        write_json(tmp_path / "a.json", {"value": value})
    assert os.listdir(tmp_path) == ["a.json"]
    assert json.loads((tmp_path / "a.json").read_text()) == {"value": 1}


def test_a_disk_that_is_full_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    write(tmp_path / "a", "old")

    def no_space(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(whole_file.os, "replace", no_space)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "a", "new")
    assert os.listdir(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "old"


def test_a_real_write_that_fails_names_the_file_and_leaves_the_old_one(tmp_path):
    write(tmp_path / "a", "old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large: '.*/a'"):
            write(tmp_path / "a", b"x" * 8192)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "old"


def test_a_file_keeps_its_mode(tmp_path):
    (tmp_path / "a").touch()
    (tmp_path / "a").chmod(0o640)
    write(tmp_path / "a", "new")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@root_only
def test_a_file_keeps_its_owner(tmp_path):
    (tmp_path / "a").touch()
    try:
        os.chown(tmp_path / "a", 1234, 2345)
    except OSError:
        pytest.skip("root of a container has no users 1234")
    write(tmp_path / "a", "new")
    owner = (tmp_path / "a").stat()
    assert (owner.st_uid, owner.st_gid) == (1234, 2345)


def test_a_name_may_be_as_long_as_names_can_be(tmp_path):
    name = "ö" * 127
    check_writable(tmp_path / name, "--output")
    write(tmp_path / name, "new")
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("target", ["new", "old"])
def test_a_link_stays_and_what_it_names_is_replaced(tmp_path, target):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").write_text("old")
    (tmp_path / "link").symlink_to(f"folder/{target}")
    (tmp_path / "link of link").symlink_to("link")
    check_writable(tmp_path / "link of link", "--output")
    write(tmp_path / "link of link", "content")
    assert (tmp_path / "link of link").is_symlink() and (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / target).read_text() == "content"
    assert set(os.listdir(tmp_path / "folder")) == {"old", target}


def test_a_link_into_a_missing_folder_and_one_to_itself_are_refused(tmp_path):
    (tmp_path / "link").symlink_to("missing/file")
    (tmp_path / "loop").symlink_to("loop")
    messages = {"link": "cannot write to .*missing: No such file", "loop": "Too many levels of symbolic links"}
    for name, message in messages.items():
        with pytest.raises(ValueError, match=f"^--output .*{name}: {message}"):
            check_writable(tmp_path / name, "--output")
        with pytest.raises(OSError, match=name):
            write(tmp_path / name, "content")
        assert (tmp_path / name).is_symlink()


def test_a_pipe_is_written_to_and_stays_and_checking_neither_waits_for_its_reader_nor_ends_it(tmp_path):
    pipe, found = tmp_path / "pipe", []
    os.mkfifo(pipe)
    check_writable(pipe, "--output")  # with no reader
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    check_writable(pipe, "--output")
    write(pipe, "content")
    reader.join()
    assert found == ["content"] and stat.S_ISFIFO(pipe.stat().st_mode) and os.listdir(tmp_path) == ["pipe"]


@root_only
@pytest.mark.parametrize("minor, full", [(3, False), (7, True)])
def test_a_device_is_written_to_and_stays(tmp_path, minor, full):
    device = tmp_path / "device"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, minor))
    except PermissionError:
        pytest.skip("root of a container may make no devices")
    (tmp_path / "link").symlink_to("device")
    for path in (device, tmp_path / "link"):
        check_writable(path, "--output")
        if full:
            with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
                write(path, "content")
        else:
            write(path, "content")
    assert stat.S_ISCHR(device.stat().st_mode) and sorted(os.listdir(tmp_path)) == ["device", "link"]


@pytest.fixture
def inherited(tmp_path):
    """An open, non-empty file as a shell passes it to the programs that it starts -> its descriptor."""
    descriptor = os.open(tmp_path / "open", os.O_RDWR | os.O_CREAT)
    os.write(descriptor, b"before, ")
    os.set_inheritable(descriptor, True)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize("by_link", [False, True])
def test_an_open_file_is_written_on_from_where_it_is(tmp_path, inherited, by_link):
    path = f"/dev/fd/{inherited}"
    if by_link:  # as /dev/stdout is a link
        (tmp_path / "link").symlink_to(path)
        path = tmp_path / "link"
    check_writable(path, "--output")
    write(path, "content, ")
    os.write(inherited, b"after")
    assert (tmp_path / "open").read_text() == "before, content, after"


def test_an_open_file_that_cannot_be_written_to_is_refused(inherited):
    for flag, message in ((False, "is not open"), (True, "is open for reading only")):
        with open(os.devnull) as file:
            os.set_inheritable(file.fileno(), flag)
            with pytest.raises(ValueError, match=f"^--output /dev/fd/{file.fileno()}: {message}"):
                check_writable(f"/dev/fd/{file.fileno()}", "--output")
    for number in (12345, 10**20):
        with pytest.raises(ValueError, match=f"^--output /dev/fd/{number}: Bad file descriptor"):
            check_writable(f"/dev/fd/{number}", "--output")


@pytest.mark.parametrize("name", ["", "new/"])
def test_a_path_without_a_name_is_refused_before_and_when_it_is_written(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"^--output {name}: names no file"):
        check_writable(name, "--output")
    with pytest.raises(OSError, match="names no file"):
        write(name, "content")
    assert os.listdir(tmp_path) == []


def test_what_holds_no_content_is_refused_and_stays(tmp_path):
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    with pytest.raises(ValueError, match="^--output .*socket: is a socket; expected a file, a pipe or a character device"):
        check_writable(path, "--output")
    with pytest.raises(OSError, match="is a socket.*: '.*socket'"):
        write(path, "content")
    with pytest.raises(OSError, match="is a directory.*"):
        write(tmp_path, "content")
    assert stat.S_ISSOCK(path.stat().st_mode) and os.listdir(tmp_path) == ["socket"]


@pytest.mark.parametrize("reason", [errno.EBUSY, errno.EPERM])
def test_a_file_that_cannot_be_renamed_over_is_written_in_place(tmp_path, monkeypatch, reason):
    """Such as a file that is a mount point."""
    path = tmp_path / "mounted"
    path.write_text("a longer old text")
    inode = path.stat().st_ino

    def refuse(source, target):
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(whole_file.os, "replace", refuse)
    write(path, "new")
    assert path.read_text() == "new" and path.stat().st_ino == inode and os.listdir(tmp_path) == ["mounted"]


@no_root
def test_a_file_that_is_read_only_is_refused_and_stays(tmp_path):
    (tmp_path / "a").write_text("old")
    (tmp_path / "a").chmod(0o444)
    with pytest.raises(ValueError, match="^--output .*/a: Permission denied"):
        check_writable(tmp_path / "a", "--output")
    with pytest.raises(OSError, match="Permission denied"):
        write(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"


def test_a_name_that_is_not_utf8_can_be_in_json(tmp_path):
    value = {"file": os.fsdecode(b"caf\xe9"), "text": "café"}
    write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == value


def test_what_cannot_be_written_is_printed_as_one_line(tmp_path, capsys):
    value = {"text": "a\nb", "numbers": [1, 2]}
    with pytest.raises(NotWritten, match=f"^--output {tmp_path}/missing/a.json: No such file or directory; it is printed"):
        with printed_if_not_written(value, "--output"):
            write_json(tmp_path / "missing" / "a.json", value)
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1 and json.loads(printed) == value


def test_a_folder_is_made_and_one_that_cannot_be_is_named(tmp_path):
    make_folder(tmp_path / "a" / "b", "--output")
    make_folder(tmp_path / "a" / "b", "--output")
    assert os.listdir(tmp_path / "a" / "b") == []
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "a", "/proc"):
        with pytest.raises(ValueError, match=f"^--output {path}: "):
            make_folder(path, "--output")


def test_check_writable_accepts_new_and_existing_files_and_leaves_them_alone(tmp_path):
    check_writable(tmp_path / "new.json", "--output")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old.json").write_text("old")
    check_writable(tmp_path / "old.json", "--output")
    assert (tmp_path / "old.json").read_text() == "old"


def test_unwritable_paths_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="^--output .* is a directory; expected a file"):
        check_writable(tmp_path, "--output")
    with pytest.raises(ValueError, match="^--output .*missing/run.json: cannot write to .*missing: No such file"):
        check_writable(tmp_path / "missing" / "run.json", "--output")
    with pytest.raises(ValueError, match="Not a directory"):
        check_writable(tmp_path / "file" / "run.json", "--output")
    with pytest.raises(ValueError, match="^--output /proc/run.json: cannot write to /proc: "):  # not even root may
        check_writable("/proc/run.json", "--output")
