"""Streaming of generated text, with a byte-level tokenizer whose tokens cut characters apart."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from models.tt_transformers.demo.text_stream import TextStream

TEXT = "Straße, naïve 中文字 🙂👩‍👩‍👧 end\n\n of  it"


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=270, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(["the end of it and the end of that"] * 9, trainer)
    return tokenizer


def test_pieces_join_to_the_text_and_never_show_half_a_character(tokenizer):
    token_ids = tokenizer.encode(TEXT).ids
    assert len(token_ids) > len(TEXT), "characters must be spread over tokens for this test to mean something"
    stream = TextStream(tokenizer.decode)
    pieces = [stream.add(token_id) for token_id in token_ids]
    assert "".join(pieces) == TEXT and stream.finish() == ""
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces)


@pytest.mark.parametrize("length", range(1, 30))
def test_text_cut_off_anywhere_joins_to_what_decode_gives(tokenizer, length):
    token_ids = tokenizer.encode(TEXT[8:]).ids[:length]
    stream = TextStream(tokenizer.decode)
    assert "".join([*map(stream.add, token_ids), stream.finish()]) == tokenizer.decode(token_ids)


def test_a_piece_comes_as_soon_as_its_character_is_complete(tokenizer):
    token_ids = tokenizer.encode("字a").ids
    stream = TextStream(tokenizer.decode)
    assert [stream.add(token_id) for token_id in token_ids] == ["", "", "字", "a"]


def test_a_word_after_a_special_token_keeps_its_space():
    """A vocabulary in SentencePiece's style writes a word's space before it, and leaves it out at the beginning of a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer.train_from_iterator(["the end"] * 9, trainers.BpeTrainer(special_tokens=["</s>"]))
    token_ids = tokenizer.encode("the end</s></s>the end").ids
    stream = TextStream(tokenizer.decode)
    assert "".join(map(stream.add, token_ids)) == tokenizer.decode(token_ids) == "the end the end"
