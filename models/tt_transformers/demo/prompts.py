"""Prompt files: a JSON list of objects with `prompt`, and optionally `context` and `max_length`, or `images`.

`context` names a text that is put before the prompt: a file, relative to the prompt file, or a URL, whose text is kept on
disk once it is downloaded; `max_length` cuts the context to that many characters. `images` is a list of image files,
relative to the prompt file; they stand where the prompt has `<|image|>`, or before it if it has none. Files are UTF-8; a byte order mark at
their beginning is no part of the text.
"""

import hashlib
import http.client
import json
import os
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from models.common import whole_file

DOWNLOADS = Path(__file__).resolve().parents[3] / "generated" / "contexts"

_FIELDS = ("prompt", "context", "max_length", "images")
_SCHEMES = ("http://", "https://")
_TIMEOUT_S = 60


@dataclass(frozen=True)
class Prompt:
    """A prompt, the context that comes before it ("" if there is none), and its image files. `source` names its file and
    entry."""

    prompt: str
    context: str = ""
    source: str = ""
    images: tuple[Path, ...] = ()

    @property
    def text(self) -> str:
        return f"{self.context}\n\n{self.prompt}" if self.context else self.prompt

    def fitted(self, count_tokens: Callable[[str], int], limit: int) -> "Prompt":
        """This prompt with its context cut at the end, so that prompt and context have at most `limit` tokens.

        If the prompt alone is longer than that, it is returned without context and is still too long.
        """
        fitted = self
        while fitted.context and (tokens := count_tokens(fitted.text)) > limit:
            # Cut the same share of characters as of tokens, and a little more, so that few rounds are needed.
            keep = len(fitted.context) * limit // tokens - 8
            fitted = replace(fitted, context=fitted.context[: max(0, keep)])
        return fitted


def load_entries(path: str | Path) -> list[Prompt]:
    """The prompts of a prompt file, in its order, with their contexts.

    Raises:
        ValueError: the file is missing, not JSON, empty, an entry (counted from 0) has a field that is not accepted, or
            a context cannot be read, downloaded or kept.
    """
    path = Path(path)
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ValueError(f"prompts file {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"prompts file {path} is not JSON: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError(f'prompts file {path}: expected a list [{{"prompt": "..."}}, ...] with at least one entry')
    return [_prompt(entry, f"prompts file {path}: entry {index}", path.parent) for index, entry in enumerate(entries)]


def load_prompts(path: str | Path) -> list[str]:
    """The texts of a prompt file, as `load_entries`: the prompt, or context, an empty line and the prompt."""
    return [entry.text for entry in load_entries(path)]


def _prompt(entry, where, folder) -> Prompt:
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is {entry!r}; expected an object with {', '.join(_FIELDS)}")
    unknown = [field for field in entry if field not in _FIELDS]
    if unknown:
        raise ValueError(f"{where}: field {unknown[0]!r} is not known; accepted: {', '.join(_FIELDS)}")
    if "prompt" not in entry:
        raise ValueError(f"{where}: field 'prompt' is missing")
    for field in ("prompt", "context"):
        if field in entry and (not isinstance(entry[field], str) or not entry[field]):
            raise ValueError(f"{where}: field {field!r} is {entry[field]!r}; expected a text that is not empty")
        _check_surrogates(entry.get(field, ""), f"{where}: field {field!r}")
    if "max_length" in entry:
        if "context" not in entry:
            raise ValueError(f"{where}: field 'max_length' cuts the context, but there is no field 'context'")
        if type(entry["max_length"]) is not int or entry["max_length"] < 1:
            raise ValueError(f"{where}: field 'max_length' is {entry['max_length']!r}; expected an integer >= 1")
    images = _images(entry, where, folder)
    if "context" not in entry:
        return Prompt(entry["prompt"], source=where, images=images)
    return Prompt(entry["prompt"], _context(entry, where, folder)[: entry.get("max_length")], where, images)


def _images(entry, where, folder) -> tuple[Path, ...]:
    names = entry.get("images", [])
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"{where}: field 'images' is {names!r}; expected a list of image files")
    files = tuple(folder / name for name in names)
    for file in files:
        if not os.path.isfile(file):
            raise ValueError(f"{where}: image {file}: there is no such file")
    return files


def _check_surrogates(text: str, where) -> None:
    """Raises ValueError for half of a surrogate pair: a JSON file can hold one, but it is not a character."""
    half = next((index for index, character in enumerate(text) if "\ud800" <= character <= "\udfff"), None)
    if half is not None:
        code = f"\\u{ord(text[half]):04x}"
        raise ValueError(f"{where} has {code} at character {half}, half of a surrogate pair; write both halves or the character")


def _context(entry, where, folder) -> str:
    source = entry["context"]
    if "://" in source:
        if not source.startswith(_SCHEMES):
            raise ValueError(f"{where}: field 'context' is {source!r}; accepted: a file, or a URL with http or https")
        file = _download(source, where)
    else:
        file = folder / source
    try:
        content = file.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise ValueError(f"{where}: context {file}: {getattr(error, 'strerror', error)}") from error
    return _check_text(content, where, source)


def _check_text(content: bytes, where, source) -> str:
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: context {source} is not UTF-8: {error}") from error
    if not text:
        raise ValueError(f"{where}: context {source} is empty")
    return text


def _download(url, where) -> Path:
    """The file in `DOWNLOADS` that holds the text at `url`, downloaded if it is not there yet."""
    file = DOWNLOADS / f"{hashlib.blake2b(url.encode(), digest_size=16).hexdigest()}.txt"
    if os.path.isfile(file):
        return file
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response:
            content = response.read()
    # OSError: no such host, no connection; HTTPException: an answer cut off; ValueError: not a URL.
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ValueError(f"{where}: context {url} cannot be downloaded: {error}") from error
    # Checked before it is kept: later runs would read a kept file that is not a text.
    _check_text(content, where, url)
    try:
        DOWNLOADS.mkdir(parents=True, exist_ok=True)
        whole_file.write(file, content)
    except OSError as error:
        raise ValueError(f"{where}: context {url} cannot be kept as {file}: {error.strerror}") from error
    return file


def batches(prompts: list, batch_size: int, repeat_batches: int) -> list[list]:
    """Distributes the prompts to `repeat_batches` batches of `batch_size` users.

    Users take the prompts in turn, and start again from the first one if there are more users than prompts.
    """
    users = [prompts[user % len(prompts)] for user in range(batch_size * repeat_batches)]
    return [users[start : start + batch_size] for start in range(0, len(users), batch_size)]
