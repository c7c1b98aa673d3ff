"""The bundled checkpoint on the 2x4 mesh follows Hugging Face, in bf16, on both sides of the LongRoPE switch."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import eval as evaluation

from .conftest import BUNDLED, PROMPT_FILE, ROOT

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
    # bf16 keeps 8 bits: what a few layers of different summation orders leave.
    assert result.logits_pcc >= 0.999


def test_generated_text_equals_hugging_face(model, reference, tokenizer):
    """Ten prompts of different lengths in one padded batch here, one by one there."""
    prompts_file = ROOT / "models/tt_transformers/demo/sample_prompts/input_data_questions_prefill_128.json"
    prompts = [entry["prompt"] for entry in json.loads(prompts_file.read_text())][:10]
    batch = tokenizer(prompts, padding=True, return_tensors="pt", return_token_type_ids=False)
    assert batch.attention_mask.sum(dim=1).unique().numel() > 1
    settings = dict(max_new_tokens=NEW_TOKENS, do_sample=False)
    ours = model.generate(**batch, **settings)[:, batch.input_ids.shape[1] :]

    different = []
    for prompt, our_tokens in zip(prompts, ours.tolist()):
        alone = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        output = reference.generate(**alone, **settings, output_logits=True, return_dict_in_generate=True)
        their_tokens = output.sequences[0, alone.input_ids.shape[1] :].tolist()
        steps = [i for i, pair in enumerate(zip(our_tokens, their_tokens)) if pair[0] != pair[1]]
        if steps:
            different.append((prompt, output.logits[steps[0]][0].float(), our_tokens[steps[0]], their_tokens[steps[0]]))
    assert len(prompts) == 10
    assert len(different) <= 1
    for prompt, logits, our_token, their_token in different:
        # bf16 numbers of this size are 2**-7 of it apart; a tie is two logits within two such steps.
        gap, step = logits[their_token] - logits[our_token], 2**-7 * logits[their_token].abs()
        assert gap <= 2 * step, f"{prompt!r}: {our_token} is {gap} below {their_token}"


def test_generation_across_the_switch_equals_hugging_face(model, reference, long_text):
    prompt = long_text[:, : SWITCH_LEN - 6]
    settings = dict(attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False)
    ours, theirs = model.generate(prompt, **settings), reference.generate(prompt, **settings)
    assert ours.shape[1] == SWITCH_LEN + 6
    assert torch.equal(ours, theirs)
