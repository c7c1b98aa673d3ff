"""The bundled checkpoint on the 2x4 mesh follows Hugging Face, in bf16, on both sides of the LongRoPE switch."""

import json
import math
import statistics

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import eval as evaluation

from .conftest import BUNDLED, PROMPT_FILE, ROOT

PROMPTS = ROOT / "models/tt_transformers/demo/sample_prompts/input_data_questions_prefill_128.json"
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


# Where the two likeliest tokens are a bf16 step apart, either may win; four hundred tokens past the switch meet a few such.
@pytest.mark.parametrize(
    "starts", [(100, 300), (470,), (600, 700, 800, 900)], ids=["below", "across", "above"]
)
def test_teacher_forced_accuracy_over_100_tokens_from_each_start(model, reference, long_text, starts):
    results = [evaluation.compare(model, reference, long_text[:, :start], steps=100) for start in starts]
    assert [(result.prompt_tokens, result.new_tokens) for result in results] == [(start, 100) for start in starts]
    assert statistics.mean(result.top1 for result in results) >= 99
    assert all(result.top5 == 100 for result in results)
    # bf16 keeps 8 bits: what a few layers of different summation orders leave.
    assert all(result.logits_pcc >= 0.999 for result in results)


def bf16_step(value: float) -> float:
    """The distance between neighbouring bf16 numbers of this size: they keep 8 bits."""
    return 2.0 ** (math.floor(math.log2(abs(value))) - 7)


def test_generated_text_equals_hugging_face(model, reference, tokenizer):
    """32 prompts of different lengths in one padded batch here, one by one there.

    Both round to bf16 in places of their own, so a text may turn off where the two most likely tokens are one step of
    bf16 apart, and nowhere else. How many texts meet such a place is the checkpoint's doing: Hugging Face's own differ
    between float32 and bf16, and at least as many as are equal there have to be equal here.
    """
    prompts = [entry["prompt"] for entry in json.loads(PROMPTS.read_text())]
    batch = tokenizer(prompts, padding=True, return_tensors="pt", return_token_type_ids=False)
    assert len(prompts) == 32 and batch.attention_mask.sum(dim=1).unique().numel() > 10
    settings = dict(max_new_tokens=NEW_TOKENS, do_sample=False)
    ours = model.generate(**batch, **settings)[:, batch.input_ids.shape[1] :]
    exact = AutoModelForCausalLM.from_pretrained(BUNDLED, dtype=torch.float32).eval()

    n_equal, n_equal_exact = 0, 0
    for prompt, our_tokens in zip(prompts, ours):
        alone = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        output = reference.generate(**alone, **settings, output_logits=True, return_dict_in_generate=True)
        their_tokens, logits = output.sequences[0, alone.input_ids.shape[1] :], torch.cat(output.logits).float()
        different = (our_tokens[: len(their_tokens)] != their_tokens).nonzero()
        if len(different):
            step = different[0].item()
            best = logits[step].max()
            gap = best - logits[step, our_tokens[step]]
            assert gap <= bf16_step(best), f"{prompt!r}: step {step} is {gap} off"
        n_equal += len(different) == 0
        n_equal_exact += torch.equal(exact.generate(**alone, **settings), output.sequences)
    assert n_equal >= n_equal_exact


def test_generation_across_the_switch_equals_hugging_face(model, reference, long_text):
    prompt = long_text[:, : SWITCH_LEN - 6]
    settings = dict(attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False)
    ours, theirs = model.generate(prompt, **settings), reference.generate(prompt, **settings)
    assert ours.shape[1] == SWITCH_LEN + 6
    assert torch.equal(ours, theirs)
