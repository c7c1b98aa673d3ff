"""The JSON record of a demo run."""

import copy
import json
import os
import re

import pytest

from models.common import whole_file
from models.tt_transformers.demo.record import validate, write_record

RECORD = {
    "schema_version": 1,
    "created": "2025-01-01T00:00:00+00:00",
    "backend": "emulator",
    "values_meaningful": True,
    "mesh": "N150",
    "model": "tiny",
    "precision": "performance",
    "precision_settings": "performance: precision_cfg = {...}",
    "case": "batch-1",
    "settings": {"batch_size": 1},
    "notes": [],
    "versions": {"python": "3.12.1"},
    "measurements": [
        {"name": "load_weights", "value": 0.5, "unit": "s"},
        {"name": "TTFT", "value": 12, "unit": "ms", "batch": 0},
    ],
    "users": [
        {
            "batch": 0,
            "user": 0,
            "prompt": "In the",
            "prompt_tokens": 2,
            "token_ids": [5, 6],
            "text": "begïnning",
            "stop_reason": "eos",
        }
    ],
}


def changed(path, value):
    """RECORD with the field at `path` set, or removed where value is `...`."""
    record = copy.deepcopy(RECORD)
    *parents, last = path
    target = record
    for key in parents:
        target = target[key]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return record


def test_a_written_record_reads_back(tmp_path):
    write_record(tmp_path / "run.json", RECORD)
    assert json.loads((tmp_path / "run.json").read_text(encoding="utf-8")) == RECORD


def test_accuracy_is_optional():
    validate(changed(["accuracy"], {"top1": 97.3, "top5": 100}))


@pytest.mark.parametrize(
    "path, value, message",
    [
        (["backend"], ..., "record: field 'backend' is missing"),
        (["speed"], 3, "record: field 'speed' is not known"),
        (["schema_version"], 2, "schema_version is 2; accepted: 1"),
        (["values_meaningful"], 1, "record.values_meaningful is 1; expected bool"),
        (["notes"], "none", "record.notes is 'none'; expected list"),
        (["measurements", 1, "value"], "12", "record.measurements[1].value is '12'; expected int or float"),
        (["measurements", 1, "value"], float("nan"), "record.measurements[1].value is nan"),
        (["measurements", 0, "unit"], ..., "record.measurements[0]: field 'unit' is missing"),
        (["users", 0, "token_ids", 1], 6.0, "record.users[0].token_ids[1] is 6.0; expected int"),
        (["users", 0, "token_ids", 1], True, "record.users[0].token_ids[1] is True; expected int"),
        (["users", 0, "stop_reason"], "tired", "record.users[0].stop_reason is 'tired'; accepted: eos"),
        (["accuracy"], {"top1": 90.0}, "record.accuracy: field 'top5' is missing"),
    ],
)
def test_a_record_that_breaks_the_schema_is_not_written(tmp_path, path, value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        write_record(tmp_path / "run.json", changed(path, value))
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_record_and_nothing_else(tmp_path, monkeypatch):
    write_record(tmp_path / "run.json", RECORD)

    def no_space(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(whole_file.os, "replace", no_space)
    with pytest.raises(OSError, match="No space left"):
        write_record(tmp_path / "run.json", changed(["backend"], "mock"))
    assert os.listdir(tmp_path) == ["run.json"]
    assert json.loads((tmp_path / "run.json").read_text())["backend"] == "emulator"
