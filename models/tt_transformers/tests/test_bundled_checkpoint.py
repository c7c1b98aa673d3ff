"""The bundled checkpoint: it loads in plain transformers, reads well on both sides of the LongRoPE switch, and its
scripts rebuild its configuration. Nothing here needs the corpus."""

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from models.tt_transformers.tools import bundled_corpus, train_bundled_checkpoint

pytestmark = pytest.mark.whole

PACKAGE = Path(__file__).resolve().parents[1]
CHECKPOINT = PACKAGE.parent / "checkpoints" / "Phi-3-tiny-kjv"
PROMPTS = PACKAGE / "demo" / "sample_prompts"

# The card measures 22 to 24 on held-out chapters; two thirds of the prompts open those, the others imitate their style.
# A model that guesses evenly has 4096.
READABLE_PERPLEXITY = 35
# In chapters that were read over and over, the share of tokens that are the model's likeliest ones.
RECITED = 0.97


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(CHECKPOINT)


@pytest.fixture(scope="module")
def loaded():
    return AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32, output_loading_info=True)


@pytest.fixture(scope="module")
def model(loaded):
    return loaded[0].eval()


@pytest.fixture
def scripts():
    return bundled_corpus, train_bundled_checkpoint


def prompts(name: str) -> list[str]:
    return [entry["prompt"] for entry in json.loads((PROMPTS / name).read_text())]


def test_every_weight_loads_in_plain_transformers(loaded):
    model, info = loaded
    assert type(model).__name__ == "Phi3ForCausalLM"
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]


def test_attention_has_the_head_shape_of_phi_3_mini(model):
    attention = model.model.layers[0].self_attn
    assert (model.config.num_attention_heads, attention.num_key_value_heads, attention.head_dim) == (8, 8, 96)
    assert model.model.rotary_emb.inv_freq.shape == (48,)


def test_it_has_four_layers_and_switches_factors_at_512_of_16384_tokens(model):
    config = model.config
    assert len(model.model.layers) == config.num_hidden_layers == 4
    rope = config.rope_parameters
    assert (rope["original_max_position_embeddings"], config.max_position_embeddings) == (512, 16384)
    assert rope["short_factor"] != rope["long_factor"]


def test_configuration_is_the_training_scripts(scripts):
    assert json.loads((CHECKPOINT / "config.json").read_text()) == scripts[1].checkpoint_config()


@pytest.mark.parametrize("scale", [1.3, 32.0])
def test_rope_factors_grow_from_one_to_the_scale(scripts, scale):
    factors = scripts[1].rope_factors(scale)
    assert factors[0] == 1.0 and factors[-1] == scale and factors == sorted(factors)


@pytest.mark.parametrize("text", ["Genesis 1\nIn the beginning", "two  spaces, tab\t, Wörld 汉字 \n\n", ""])
def test_decoding_gives_back_the_text(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_tokenizer_has_the_models_vocabulary(tokenizer, model):
    assert len(tokenizer) == model.config.vocab_size == 4096
    assert tokenizer.eos_token_id == model.config.eos_token_id == model.generation_config.eos_token_id
    assert tokenizer.bos_token_id == model.config.bos_token_id == 1


def test_prompts_are_32_distinct_ones_under_128_tokens(tokenizer):
    texts = prompts("input_data_questions_prefill_128.json")
    lengths = [len(ids) for ids in tokenizer(texts)["input_ids"]]
    assert len(texts) == len(set(texts)) == len(set(lengths)) == 32
    assert 60 <= min(lengths) and max(lengths) < 128


def test_reasoning_prompt_is_one_under_128_tokens(tokenizer):
    (text,) = prompts("input_data_reasoning.json")
    assert len(tokenizer(text)["input_ids"]) < 128


def test_prompts_known_by_heart_reach_over_the_switch(tokenizer, model):
    texts = prompts("input_data_known_by_heart.json")
    assert len(texts) == len(set(texts)) == 12
    assert all(len(ids) >= 520 > model.config.original_max_position_embeddings for ids in tokenizer(texts)["input_ids"])


@torch.no_grad()
def test_they_are_known_by_heart_on_both_sides_of_the_switch(tokenizer, model):
    """After a chapter's heading and first words, nearly every token of it is the model's likeliest one."""
    for text in prompts("input_data_known_by_heart.json"):
        for length in (512, 520):
            ids = tokenizer(text, return_tensors="pt").input_ids[:, :length]
            likeliest = model(ids).logits[0, :-1].argmax(-1)
            assert (likeliest == ids[0, 1:])[20:].double().mean() > RECITED, text[:20]


@torch.no_grad()
def mean_loss(model, ids: list[int]) -> float:
    batch = torch.tensor([ids])
    return model(batch, labels=batch).loss.item()


def test_text_is_readable_on_both_sides_of_the_switch_to_long_factors(tokenizer, model):
    encoded = tokenizer(prompts("input_data_questions_prefill_128.json"))["input_ids"]
    long_ids = [token for ids in encoded for token in (*ids, tokenizer.eos_token_id)]
    assert len(long_ids) > 4 * model.config.original_max_position_embeddings
    short = math.exp(sum(mean_loss(model, ids) for ids in encoded) / len(encoded))
    long = math.exp(mean_loss(model, long_ids))
    assert short < READABLE_PERPLEXITY and long < READABLE_PERPLEXITY


def test_weights_have_no_outliers_that_a_shared_exponent_would_drown_in(model):
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            # Of a million normally distributed weights the largest lies at 5 standard deviations. A weight at 24 makes
            # bfp8's step a quarter of a standard deviation for the 16 weights of its block.
            assert weight.abs().max() < 24 * weight.std(), name


def test_parsing_keeps_headings_and_verses_apart(scripts):
    raw = "\n1 John 2\n\n  1 First  verse.\n  2 Second, of 40 words.\n\nJude 1\n\n  1 Third.\n"
    chapters = scripts[0].parse(raw)
    assert [chapter.text for chapter in chapters] == [
        "1 John 2\nFirst verse.\nSecond, of 40 words.\n",
        "Jude 1\nThird.\n",
    ]


def test_missing_corpus_names_the_packages(scripts, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="apt-get install bible-kjv bible-kjv-text"):
        scripts[0].read_chapters(tmp_path / "kjv.txt")


def test_truncated_corpus_is_refused(scripts, tmp_path):
    cached = tmp_path / "kjv.txt"
    cached.write_text("\nJude 1\n\n  1 Only this.\n")
    with pytest.raises(ValueError, match="1 chapters with 1 verses, expected 1189 with 31102"):
        scripts[0].read_chapters(cached)


def test_no_chapter_is_both_trained_on_and_held_out(scripts):
    chapters = [scripts[0].Chapter(f"Book {i}", ("verse",)) for i in range(1189)]
    training, held_out = scripts[0].split_held_out(chapters)
    assert len(held_out) == 24 and sorted(training + held_out, key=chapters.index) == chapters


def test_chapters_known_by_heart_are_among_those_trained_on(scripts):
    corpus = scripts[0]
    training = [corpus.Chapter(heading, ("verse",)) for heading in (*reversed(corpus.KNOWN_BY_HEART), "Jude 1")]
    assert [chapter.heading for chapter in corpus.known_by_heart(training)] == list(corpus.KNOWN_BY_HEART)
    with pytest.raises(ValueError, match="no training chapter has the heading 'Genesis 1'"):
        corpus.known_by_heart([chapter for chapter in training if chapter.heading != "Genesis 1"])


@pytest.mark.parametrize("length, rows", [(512, 8), (8192, 1)])
def test_each_row_of_a_recital_begins_with_a_whole_chapter_and_goes_on_with_others(scripts, length, rows):
    documents = [torch.arange(1000 * i, 1000 * i + 100 + i) for i in range(100)]
    batch = scripts[1].Recitals(documents, length).batch()
    assert batch.shape == (rows, length + 1)
    for row in batch.tolist():
        while row:
            document = documents[row[0] // 1000].tolist()
            assert row[: len(document)] == document[: len(row)]
            row = row[len(document) :]


def test_card_without_the_section_is_refused(scripts, tmp_path):
    (tmp_path / "README.md").write_text("# Card\n<!-- evaluation -->\nold\n<!-- end -->\n")
    scripts[1].write_to_card(tmp_path, "evaluation", "new")
    assert (tmp_path / "README.md").read_text() == "# Card\n<!-- evaluation -->\nnew\n<!-- end -->\n"
    with pytest.raises(ValueError, match="training"):
        scripts[1].write_to_card(tmp_path, "training", "new")
