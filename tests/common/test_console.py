"""Printing never ends a run: text that cannot be printed is escaped or lost, and the exit status reports a loss."""

import io
import os
import sys

import pytest

from models.common import console
from models.common.whole_file import NotWritten


def text_stream(descriptor, encoding="utf-8"):
    return io.TextIOWrapper(open(descriptor, "wb", buffering=0), encoding=encoding, write_through=True)


def closed_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    return text_stream(writer)


def full_disk():
    return text_stream("/dev/full")


@pytest.mark.parametrize(
    "encoding, text, shown",
    [("ascii", "naïve 🙂", b"na\\xefve \\U0001f642"), ("utf-8", "naïve \udce9", "naïve \\udce9".encode())],
)
def test_a_character_that_the_stream_cannot_hold_is_escaped(tmp_path, warnings, encoding, text, shown):
    with text_stream(tmp_path / "out", encoding) as stream:
        output = console.Output(stream)
        print(text, end="", file=stream)
        assert output.is_whole()
    assert (tmp_path / "out").read_bytes() == shown and warnings == []


@pytest.mark.parametrize("broken, reason", [(closed_pipe, "Broken pipe"), (full_disk, "No space left on device")])
def test_a_stream_that_takes_no_more_loses_what_is_printed_with_one_warning(warnings, broken, reason):
    with broken() as stream:
        output = console.Output(stream)
        for _ in range(3):
            print("lost", file=stream, flush=True)
        assert not output.is_whole()
    assert warnings == [f"stdout: {reason}; what is printed from here on is lost, the run goes on"]


def test_a_write_that_fails_late_is_found(warnings):
    stream = io.TextIOWrapper(io.BufferedWriter(full := io.FileIO("/dev/full", "w")))
    output = console.Output(stream)
    print("still in the buffer", file=stream)
    assert warnings == [] and not output.is_whole() and len(warnings) == 1
    full.close()


@pytest.mark.parametrize("stream", [None, io.StringIO()])
def test_a_stream_that_is_no_file_is_left_as_it_is(stream):
    assert console.Output(stream).is_whole()


def not_written():
    raise NotWritten("--output a.json: No space left on device")


@pytest.mark.parametrize(
    "stream, main, status",
    [
        (io.StringIO, lambda: print("all"), 0),
        (io.StringIO, lambda: 3, 3),
        (io.StringIO, not_written, "--output a.json: No space left on device"),
        (closed_pipe, lambda: print("lost"), 1),
        (full_disk, lambda: print("lost"), 1),
    ],
)
def test_a_program_goes_on_and_its_exit_status_says_what_was_lost(monkeypatch, stream, main, status):
    monkeypatch.setattr(sys, "stdout", stream())
    with pytest.raises(SystemExit) as ended:
        console.run(main)
    assert ended.value.code == status
