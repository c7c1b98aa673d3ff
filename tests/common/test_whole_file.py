"""Files are written whole or not at all, and a path that cannot be written is named before any work."""

import json
import os
import stat

import pytest

from models.common import whole_file
from models.common.whole_file import check_writable, write, write_json


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
