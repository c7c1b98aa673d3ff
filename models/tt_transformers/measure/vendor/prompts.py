"""Prompts with a given number of tokens, for runs whose text has no meaning."""

import json
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer

from models.tt_transformers.tt.checkpoints.location import BUNDLED


def write_prompts(path: Path, tokens: Sequence[int], images: Sequence[list[str]] = ()) -> None:
    """Writes a prompt file for the demo: one prompt for each number of tokens, counted by the bundled tokenizer; the first
    prompts have the files of `images`.

    A model with random weights that has no tokenizer of its own uses the bundled one too.
    """
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED, local_files_only=True)
    entries = [{"prompt": _prompt_of(count, tokenizer)} for count in tokens]
    for entry, files in zip(entries, images):
        entry["images"] = files
    path.write_text(json.dumps(entries))


def _prompt_of(tokens: int, tokenizer) -> str:
    words = 0
    while (length := len(tokenizer.encode(" the" * words))) < tokens:
        words += tokens - length
    if length != tokens:
        raise ValueError(f"{words} words are {length} tokens, not {tokens}: the bundled tokenizer splits them")
    return " the" * words
