"""Prompt files of the demo."""

import json
import re
from pathlib import Path

import pytest

from models.tt_transformers.demo.prompts import batches, load_prompts

SAMPLE_PROMPTS = Path(__file__).parents[1] / "demo" / "sample_prompts"


def write(tmp_path, content):
    path = tmp_path / "prompts.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_prompts_come_in_the_order_of_the_file(tmp_path):
    assert load_prompts(write(tmp_path, [{"prompt": "b"}, {"prompt": "ä\n"}])) == ["b", "ä\n"]


def test_context_precedes_the_prompt_and_is_cut_to_max_length_characters(tmp_path):
    (tmp_path / "story.txt").write_text("äbcdef", encoding="utf-8")
    entries = [{"prompt": "p", "context": "story.txt"}, {"prompt": "p", "context": "story.txt", "max_length": 2}]
    assert load_prompts(write(tmp_path, entries)) == ["äbcdef\n\np", "äb\n\np"]


@pytest.mark.parametrize("path", sorted(SAMPLE_PROMPTS.glob("*.json")), ids=lambda path: path.name)
def test_sample_prompts_load(path):
    assert all(load_prompts(path))


def test_users_take_prompts_in_turn_and_start_over():
    assert batches(["a", "b", "c"], 2, 2) == [["a", "b"], ["c", "a"]]
    assert batches(["a", "b", "c"], 1, 2) == [["a"], ["b"]]


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "is not JSON"),
        ([], "at least one entry"),
        ({"prompt": "x"}, "expected a list"),
        (["x"], "entry 0 is 'x'"),
        ([{"prompt": "x"}, {}], "entry 1: field 'prompt' is missing"),
        ([{"prompt": "x", "maxlength": 3}], "entry 0: field 'maxlength' is not known; accepted: prompt, context"),
        ([{"prompt": ""}], "field 'prompt' is ''"),
        ([{"prompt": 3}], "field 'prompt' is 3"),
        ([{"prompt": "x", "max_length": 3}], "there is no field 'context'"),
        ([{"prompt": "x", "context": "here.txt", "max_length": 0}], "field 'max_length' is 0; expected an integer"),
        ([{"prompt": "x", "context": "here.txt", "max_length": True}], "field 'max_length' is True"),
        ([{"prompt": "x", "context": "nowhere.txt"}], "nowhere.txt: No such file"),
        ([{"prompt": "x", "context": "empty.txt"}], "empty.txt is empty"),
        ([{"prompt": "x", "context": "binary.txt"}], "binary.txt is not UTF-8"),
        ([{"prompt": "x", "context": "https://example.org/a.txt"}], "only local files"),
    ],
)
def test_malformed_prompt_files_are_refused_naming_entry_and_field(tmp_path, content, message):
    (tmp_path / "here.txt").write_text("text")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    path = write(tmp_path, content)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        load_prompts(path)
    assert str(path) in str(error.value)


def test_a_missing_prompt_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere.json: No such file"):
        load_prompts(tmp_path / "nowhere.json")
