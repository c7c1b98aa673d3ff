"""Prompt files of the demo."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from models.tt_transformers.demo import prompts as prompts_module
from models.tt_transformers.demo.prompts import Prompt, batches, load_prompts
from models.tt_transformers.tools import make_long_context

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


def test_a_pair_of_surrogates_is_the_character_that_it_means(tmp_path):
    assert load_prompts(write(tmp_path, '[{"prompt": "\\ud83d\\ude4f"}]')) == ["\N{PERSON WITH FOLDED HANDS}"]


def test_a_byte_order_mark_is_no_part_of_a_prompt_file_or_a_context(tmp_path):
    (tmp_path / "story.txt").write_text("story", encoding="utf-8-sig")
    path = tmp_path / "prompts.json"
    path.write_text('[{"prompt": "p", "context": "story.txt", "max_length": 5}]', encoding="utf-8-sig")
    assert load_prompts(path) == ["story\n\np"]


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
        ("[" * 100_000, "is not JSON"),
        ('[{"prompt": "x"}, {"prompt": "And \\ud83d it"}]', r"entry 1: field 'prompt' has \ud83d at character 4, half of a"),
        ('[{"prompt": "x", "context": "\\udc00.txt"}]', r"entry 0: field 'context' has \udc00 at character 0"),
        ([{"prompt": "x", "context": "a\0b"}], "embedded null byte"),
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
        ([{"prompt": "x", "context": "mark.txt"}], "mark.txt is empty"),
        ([{"prompt": "x", "context": "binary.txt"}], "binary.txt is not UTF-8"),
        ([{"prompt": "x", "context": "ftp://example.org/a.txt"}], "accepted: a file, or a URL with http or https"),
    ],
)
def test_malformed_prompt_files_are_refused_naming_entry_and_field(tmp_path, content, message):
    (tmp_path / "here.txt").write_text("text")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "mark.txt").write_text("", encoding="utf-8-sig")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    path = write(tmp_path, content)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        load_prompts(path)
    assert str(path) in str(error.value)


def test_a_missing_prompt_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere.json: No such file"):
        load_prompts(tmp_path / "nowhere.json")


@pytest.fixture
def server(monkeypatch, tmp_path):
    """Serves `/text`, half of it as `/broken`, a text in another encoding as `/latin-1`, and counts the requests.
    Downloads go to a folder of the test."""
    monkeypatch.setattr(prompts_module, "DOWNLOADS", tmp_path / "downloads")

    class Handler(BaseHTTPRequestHandler):
        requests = 0

        def do_GET(self):
            Handler.requests += 1
            text = "the cöntext".encode()
            if self.path == "/latin-1":
                text = "the cöntext".encode("latin-1")
            self.send_response(200 if self.path in ("/text", "/broken", "/latin-1") else 404)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text[:6] if self.path == "/broken" else text)

        def log_message(self, *args):
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        Handler.address = f"http://127.0.0.1:{http.server_port}"
        yield Handler
        http.shutdown()


def test_a_context_is_downloaded_once(server, tmp_path):
    path = write(tmp_path, [{"prompt": "p", "context": f"{server.address}/text", "max_length": 6}])
    assert load_prompts(path) == load_prompts(path) == ["the cö\n\np"]
    assert server.requests == 1


def test_a_failed_download_is_an_error_and_leaves_nothing(server, tmp_path):
    path = write(tmp_path, [{"prompt": "p", "context": f"{server.address}/nothing"}])
    with pytest.raises(ValueError, match=f"entry 0: context {server.address}/nothing cannot be downloaded: .*404"):
        load_prompts(path)
    assert not (tmp_path / "downloads").exists()


def test_a_host_that_is_not_there_is_an_error(server, tmp_path):
    path = write(tmp_path, [{"prompt": "p", "context": "http://127.0.0.1:9/text"}])
    with pytest.raises(ValueError, match="http://127.0.0.1:9/text cannot be downloaded"):
        load_prompts(path)


def test_a_download_that_breaks_off_is_an_error_and_leaves_nothing(server, tmp_path):
    path = write(tmp_path, [{"prompt": "p", "context": f"{server.address}/broken"}])
    message = f"entry 0: context {server.address}/broken cannot be downloaded: IncompleteRead(6 bytes read, 6 more"
    with pytest.raises(ValueError, match=re.escape(message)):
        load_prompts(path)
    assert not (tmp_path / "downloads").exists()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/a text", "http://127.0.0.1:port/", "http://[1/", "http://127.0.0.1:9/ä"])
def test_what_is_no_url_is_an_error(server, tmp_path, url):
    path = write(tmp_path, [{"prompt": "p", "context": url}])
    with pytest.raises(ValueError, match=re.escape(f"entry 0: context {url} cannot be downloaded: ")):
        load_prompts(path)


def test_a_download_that_is_no_text_is_an_error_and_leaves_nothing(server, tmp_path):
    path = write(tmp_path, [{"prompt": "p", "context": f"{server.address}/latin-1"}])
    with pytest.raises(ValueError, match=f"entry 0: context {server.address}/latin-1 is not UTF-8"):
        load_prompts(path)
    assert not (tmp_path / "downloads").exists()


def test_downloads_that_cannot_be_kept_are_an_error(server, tmp_path):
    path = write(tmp_path, [{"prompt": "p", "context": f"{server.address}/text"}])
    (tmp_path / "downloads").touch()
    kept = f"entry 0: context {server.address}/text cannot be kept as {tmp_path / 'downloads'}/"
    with pytest.raises(ValueError, match=f"{re.escape(kept)}.*: File exists"):
        load_prompts(path)


def test_a_download_that_cannot_take_its_name_leaves_no_other_file(server, tmp_path):
    path = write(tmp_path, [{"prompt": "p", "context": f"{server.address}/text"}])
    load_prompts(path)
    (file,) = (tmp_path / "downloads").iterdir()
    file.unlink()
    file.mkdir()
    with pytest.raises(ValueError, match=re.escape(f"cannot be kept as {file}: is a directory")):
        load_prompts(path)
    assert list((tmp_path / "downloads").iterdir()) == [file]


@pytest.mark.parametrize("limit", [900, 100, 20])
def test_a_context_is_cut_at_its_end_until_the_prompt_fits(limit):
    prompt = Prompt("the question", "a word and " * 200)
    fitted = prompt.fitted(lambda text: len(text.split()), limit)
    assert limit - 10 <= len(fitted.text.split()) <= limit if limit < 602 else fitted == prompt
    assert prompt.context.startswith(fitted.context) and fitted.prompt == prompt.prompt


def test_a_prompt_without_context_is_never_cut():
    prompt = Prompt("too long " * 9)
    assert prompt.fitted(len, 10) == prompt
    assert Prompt("too long " * 9, "context").fitted(len, 10).text == prompt.text


def test_the_long_context_is_what_its_script_makes():
    assert make_long_context.FILE.read_text(encoding="utf-8") == make_long_context.chronicle()
