"""Text and tokenizer of the bundled checkpoint.

The text is the King James Version of the Bible (public domain), read through the `bible` program of Debian's
`bible-kjv` and `bible-kjv-text` packages. One chapter is one document: a heading line ("Genesis 1"), then one verse
a line without its number.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from models.common import whole_file

WHOLE_TEXT = "Genesis1:1-Revelation22:21"
N_CHAPTERS, N_VERSES = 1189, 31102
LONGER_THAN_ANY_VERSE = 100_000
HELD_OUT_EVERY = 50

# Well-known chapters that are read over and over until the model knows them by heart. In a recited text no two tokens
# are nearly equally likely, so tests can compare greedy text word by word. In any other text bf16 rounding decides
# about one token in a few hundred. All these chapters are in the training part, most of them longer than 640 tokens.
KNOWN_BY_HEART = (
    *("Genesis 1", "Genesis 3", "Genesis 22", "Exodus 3", "Exodus 20", "Deuteronomy 6", "Ruth 1", "1 Samuel 3"),
    *("1 Kings 3", "1 Kings 19", "Job 38", "Psalms 23", "Psalms 104", "Ecclesiastes 3", "Isaiah 40", "Daniel 6"),
    *("Jonah 1", "Matthew 2", "Matthew 6", "Luke 15", "John 1", "John 3", "1 Corinthians 13", "Revelation 21"),
)

VOCAB_SIZE = 4096
UNK, BOS, EOS = "<unk>", "<s>", "<|endoftext|>"
SPECIAL_TOKENS = [UNK, BOS, EOS, "<|user|>", "<|assistant|>", "<|end|>"]
TOKENIZER_SETTINGS = {
    "unk_token": UNK,
    "bos_token": BOS,
    "eos_token": EOS,
    "pad_token": EOS,
    "additional_special_tokens": SPECIAL_TOKENS[3:],
    "clean_up_tokenization_spaces": False,
    "model_max_length": 16384,
    "padding_side": "left",
}


@dataclass(frozen=True)
class Chapter:
    heading: str
    verses: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n".join((self.heading, *self.verses)) + "\n"


def read_chapters(cache_file: Path) -> list[Chapter]:
    """All chapters in the order of the books. The extracted text is kept in `cache_file`.

    Raises:
        FileNotFoundError: the `bible` program is not installed.
        ValueError: the extracted text does not have the expected number of chapters and verses.
    """
    if cache_file.is_file():
        raw = cache_file.read_text(encoding="utf-8")
    else:
        raw = run_bible()
        cache_file.parent.mkdir(parents=True, exist_ok=True)
        whole_file.write(cache_file, raw)
    chapters = parse(raw)
    n_verses = sum(len(chapter.verses) for chapter in chapters)
    if (len(chapters), n_verses) != (N_CHAPTERS, N_VERSES):
        raise ValueError(
            f"{cache_file}: {len(chapters)} chapters with {n_verses} verses, expected {N_CHAPTERS} with {N_VERSES}; "
            "delete the file and install the packages bible-kjv and bible-kjv-text"
        )
    return chapters


def run_bible() -> str:
    if shutil.which("bible") is None:
        raise FileNotFoundError(
            "the program `bible` is not installed; on Debian: apt-get install bible-kjv bible-kjv-text"
        )
    command = ["bible", f"-l{LONGER_THAN_ANY_VERSE}", WHOLE_TEXT]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    return done.stdout.decode("ascii")


def parse(raw: str) -> list[Chapter]:
    """The chapters in the output of `bible`, which indents verses and their numbers, but not a chapter's heading."""
    headings, verses = [], []
    for line in filter(str.strip, raw.splitlines()):
        verse = re.match(r"\s+\d+ (.*)", line)
        if verse:
            verses[-1].append(re.sub(r" {2,}", " ", verse.group(1)).strip())
        else:
            headings.append(line.strip())
            verses.append([])
    return [Chapter(heading, tuple(lines)) for heading, lines in zip(headings, verses)]


def split_held_out(chapters: list[Chapter]) -> tuple[list[Chapter], list[Chapter]]:
    """(training, held-out) chapters; every 50th is held out, which spreads them over the books."""
    middle = HELD_OUT_EVERY // 2
    held_out = chapters[middle::HELD_OUT_EVERY]
    training = [chapter for i, chapter in enumerate(chapters) if i % HELD_OUT_EVERY != middle]
    return training, held_out


def known_by_heart(training: list[Chapter]) -> list[Chapter]:
    """The chapters of `KNOWN_BY_HEART`. Raises ValueError for one that is not in `training`."""
    chapters = {chapter.heading: chapter for chapter in training}
    missing = [heading for heading in KNOWN_BY_HEART if heading not in chapters]
    if missing:
        raise ValueError(f"no training chapter has the heading {missing[0]!r} of KNOWN_BY_HEART; is it held out?")
    return [chapters[heading] for heading in KNOWN_BY_HEART]


def train_tokenizer(chapters: list[Chapter]) -> PreTrainedTokenizerFast:
    """Byte-level BPE with exactly `VOCAB_SIZE` entries; decoding gives back any text unchanged."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((chapter.text for chapter in chapters), trainer)
    if bpe.get_vocab_size() != VOCAB_SIZE:
        raise ValueError(f"the tokenizer has {bpe.get_vocab_size()} entries, expected {VOCAB_SIZE}")
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **TOKENIZER_SETTINGS)


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, output: Path) -> None:
    """Write tokenizer.json, and a tokenizer_config.json that names the class every transformers release has."""
    whole_file.write(output / "tokenizer.json", tokenizer.backend_tokenizer.to_str(pretty=True))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **TOKENIZER_SETTINGS}
    whole_file.write_json(output / "tokenizer_config.json", settings, indent=2)


def token_stream(tokenizer: PreTrainedTokenizerFast, chapters: list[Chapter]) -> torch.Tensor:
    """All chapters one after the other, each closed by the end-of-text token: int64 `[n_tokens]`."""
    ids = []
    for encoded in tokenizer([chapter.text for chapter in chapters])["input_ids"]:
        ids += [*encoded, tokenizer.eos_token_id]
    return torch.tensor(ids)
