"""The bundled checkpoint on the 2x4 mesh agrees with Hugging Face, in bf16, on both sides of the LongRoPE switch."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import eval as evaluation
from tests.support.wide import some_of

from .conftest import BUNDLED, PROMPT_FILE, ROOT

PROMPTS = ROOT / "models/tt_transformers/demo/sample_prompts/input_data_questions_prefill_128.json"
KNOWN_BY_HEART = PROMPTS.with_name("input_data_known_by_heart.json")
SWITCH_LEN = 512
NEW_TOKENS = 64


@pytest.fixture(scope="module")
def reference():
    return AutoModelForCausalLM.from_pretrained(BUNDLED, dtype=torch.bfloat16).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(BUNDLED, padding_side="left")


@pytest.fixture(scope="module")
def model(functional, reference, mesh):
    return functional.build_model(reference, mesh, max_seq_len=1280)


@pytest.fixture(scope="module")
def long_text(tokenizer):
    return tokenizer(PROMPT_FILE.read_text(), return_tensors="pt").input_ids


def test_prompt_file_crosses_the_switch(long_text):
    assert long_text.shape[1] > SWITCH_LEN + 200


@pytest.mark.parametrize("prompt_tokens", [100, 470, 700], ids=["below", "across", "above"])
def test_teacher_forced_accuracy_over_100_tokens(model, reference, long_text, prompt_tokens):
    result = evaluation.compare(model, reference, long_text[:, :prompt_tokens], steps=100)
    assert (result.prompt_tokens, result.new_tokens) == (prompt_tokens, 100)
    assert result.top1 >= 99
    assert result.top5 == 100
    # bf16 has 8 significant bits. The order of sums differs in a few layers.
    assert result.logits_pcc >= 0.999


@torch.no_grad()
def texts_equal(model, reference, tokenizer, prompts):
    """Whether the greedy text of each prompt is Hugging Face's.

    The model runs the prompts as one padded batch, Hugging Face runs them one by one. At the first difference, the two
    tokens must be a tie within the rounding of bf16. That is, the distance of their float32 logits is at most the
    change that bf16 makes to one of that step's logits.
    """
    settings = dict(max_new_tokens=NEW_TOKENS, do_sample=False)
    batch = tokenizer(prompts, padding=True, return_tensors="pt", return_token_type_ids=False)
    assert batch.attention_mask.sum(dim=1).unique().numel() >= 10
    ours = model.generate(**batch, **settings)[:, batch.input_ids.shape[1] :]
    exact = AutoModelForCausalLM.from_pretrained(BUNDLED, dtype=torch.float32).eval()
    equal = []
    for prompt, our_tokens in zip(prompts, ours, strict=True):
        alone = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        output = reference.generate(**alone, **settings, output_logits=True, return_dict_in_generate=True)
        their_tokens = output.sequences[0, alone.input_ids.shape[1] :]
        different = (our_tokens[: len(their_tokens)] != their_tokens).nonzero()
        equal.append(len(different) == 0)
        if len(different):
            step = different[0].item()
            logits = exact(output.sequences[:, : alone.input_ids.shape[1] + step]).logits[0, -1]
            rounding = (output.logits[step][0].float() - logits).abs().max()
            gap = (logits[their_tokens[step]] - logits[our_tokens[step]]).abs()
            assert gap <= rounding, f"{prompt!r}: step {step} is {gap} off"
    return equal


def test_text_known_by_heart_equals_hugging_faces(model, reference, tokenizer):
    chapters = [entry["prompt"] for entry in json.loads(KNOWN_BY_HEART.read_text())][:10]
    prompts = [chapter[: 100 * (index + 1)] for index, chapter in enumerate(chapters)]
    assert sum(texts_equal(model, reference, tokenizer, prompts)) >= 9


@pytest.mark.parametrize("count", some_of((12, 32), 12))
def test_text_of_any_prompt_equals_hugging_faces_but_for_ties(model, reference, tokenizer, count):
    """About one text in five meets a tie. The same holds if Hugging Face's own float32 is compared with its bf16."""
    prompts = [entry["prompt"] for entry in json.loads(PROMPTS.read_text())][:count]
    assert len(prompts) == count and sum(texts_equal(model, reference, tokenizer, prompts)) >= count // 2


def test_generation_across_the_switch_equals_hugging_face(model, reference, tokenizer):
    (chapter, *_) = json.loads(KNOWN_BY_HEART.read_text())
    prompt = tokenizer(chapter["prompt"], return_tensors="pt").input_ids[:, : SWITCH_LEN - 6]
    settings = dict(attention_mask=torch.ones_like(prompt), max_new_tokens=100, do_sample=False)
    ours, theirs = model.generate(prompt, **settings), reference.generate(prompt, **settings)
    assert ours.shape[1] == SWITCH_LEN + 94
    assert torch.equal(ours, theirs)
