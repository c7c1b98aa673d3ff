"""Prompt files: a JSON list of objects with `prompt`, and optionally `context` and `max_length`.

`context` names a text file, relative to the prompt file, that is put before the prompt; `max_length` cuts the context to
that many characters.
"""

import json
from pathlib import Path

_FIELDS = ("prompt", "context", "max_length")


def load_prompts(path: str | Path) -> list[str]:
    """The texts of a prompt file, in its order: the prompt, or context, an empty line and the prompt.

    Raises:
        ValueError: the file is missing, not JSON, empty, or an entry (counted from 0) has a field that is not accepted.
    """
    path = Path(path)
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"prompts file {path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"prompts file {path} is not JSON: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError(f'prompts file {path}: expected a list [{{"prompt": "..."}}, ...] with at least one entry')
    return [_text(entry, f"prompts file {path}: entry {index}", path.parent) for index, entry in enumerate(entries)]


def _text(entry, where, folder):
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
    if "max_length" in entry:
        if "context" not in entry:
            raise ValueError(f"{where}: field 'max_length' cuts the context, but there is no field 'context'")
        if type(entry["max_length"]) is not int or entry["max_length"] < 1:
            raise ValueError(f"{where}: field 'max_length' is {entry['max_length']!r}; expected an integer >= 1")
    if "context" not in entry:
        return entry["prompt"]
    return f"{_context(entry, where, folder)}\n\n{entry['prompt']}"


def _context(entry, where, folder):
    if "://" in entry["context"]:
        raise ValueError(f"{where}: field 'context' is {entry['context']!r}; only local files can be read")
    try:
        text = (folder / entry["context"]).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{where}: context {folder / entry['context']}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: context {folder / entry['context']} is not UTF-8: {error}") from error
    if not text:
        raise ValueError(f"{where}: context {folder / entry['context']} is empty")
    return text[: entry.get("max_length")]


def batches(prompts: list[str], batch_size: int, repeat_batches: int) -> list[list[str]]:
    """Deals the prompts to `repeat_batches` batches of `batch_size` users.

    Users take the prompts in turn, and again from the first one when there are more users than prompts.
    """
    users = [prompts[user % len(prompts)] for user in range(batch_size * repeat_batches)]
    return [users[start : start + batch_size] for start in range(0, len(users), batch_size)]
