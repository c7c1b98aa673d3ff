"""The promises of the bring-up's model to its callers: batches, caches, positions, and clear refusals."""

import copy

import pytest
import torch
import ttnn
from transformers import DynamicCache, GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from models.common.pcc import pcc
from tests.support.tiny_phi3 import SWITCH_LEN

MAX_SEQ_LEN = 128
# PCC of two layers in bf16 whose sums are in another order.
SAME = 0.9995


@pytest.fixture(scope="module")
def reference(make_tiny):
    return make_tiny()


@pytest.fixture(scope="module")
def model(functional, reference, mesh):
    return functional.build_model(reference, mesh, MAX_SEQ_LEN)


def tokens(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 320, (batch, length), generator=torch.Generator().manual_seed(seed))


def test_model_follows_the_contract(model):
    assert isinstance(model, torch.nn.Module) and isinstance(model, GenerationMixin)
    out = model(tokens(2, 5))
    assert isinstance(out, CausalLMOutputWithPast)
    assert list(out.logits.shape) == [2, 5, 320]
    assert out.past_key_values.get_seq_length() == 5


def test_cache_is_on_the_devices_by_heads(model, mesh):
    cache = model(tokens(3, 40)).past_key_values
    # 8 KV heads over 8 devices.
    for layer in (*cache.keys, *cache.values):
        assert layer.storage_type() == ttnn.StorageType.DEVICE
        assert [list(shard.shape) for shard in ttnn.get_device_tensors(layer)] == [[3, 1, MAX_SEQ_LEN, 32]] * 8


def test_a_generation_leaves_nothing_allocated(model, mesh):
    def allocated():
        return ttnn.get_memory_view(mesh, ttnn.BufferType.DRAM).total_bytes_allocated_per_bank

    before = allocated()
    model.generate(tokens(2, 60), attention_mask=torch.ones(2, 60), max_new_tokens=8)
    assert allocated() == before


@pytest.mark.parametrize("changes", [{}, dict(hidden_size=512, num_attention_heads=16)], ids=["mha", "gqa"])
@pytest.mark.parametrize("length", [1, 33, SWITCH_LEN, SWITCH_LEN + 1, MAX_SEQ_LEN])
def test_prefill_follows_hugging_face(functional, make_tiny, mesh, changes, length):
    reference = make_tiny(**changes)
    model = functional.build_model(reference, mesh, MAX_SEQ_LEN)
    prompt = tokens(2, length)
    assert pcc(model(prompt).logits, reference(prompt).logits) >= SAME


def test_decode_follows_hugging_face_for_32_users(model, reference):
    prompt, new = tokens(32, 20), tokens(32, 4, seed=1)
    ours, theirs = model(prompt), reference(prompt)
    for step in range(4):
        token = new[:, step : step + 1]
        ours = model(token, past_key_values=ours.past_key_values)
        theirs = reference(token, past_key_values=theirs.past_key_values)
        assert pcc(ours.logits, theirs.logits) >= SAME


def test_several_tokens_continue_a_sequence_as_one_prompt(model):
    prompt = tokens(2, 50)
    whole = model(prompt).logits
    start = model(prompt[:, :40], logits_to_keep=1)
    rest = model(prompt[:, 40:], past_key_values=start.past_key_values)
    assert list(rest.logits.shape) == [2, 10, 320]
    assert pcc(rest.logits, whole[:, 40:]) >= SAME


def test_token_by_token_across_the_switch_gives_what_one_prompt_gives(model, reference):
    """After the switch, the long factors also rotate all earlier tokens."""
    text = tokens(1, SWITCH_LEN + 3)
    out = model(text[:, : SWITCH_LEN - 2])
    for length in range(SWITCH_LEN - 1, SWITCH_LEN + 4):
        out = model(text[:, length - 1 : length], past_key_values=out.past_key_values)
        assert pcc(out.logits[:, -1], reference(text[:, :length]).logits[:, -1]) >= SAME
        assert out.past_key_values.get_seq_length() == length


def test_short_and_long_factors_differ_enough_to_be_told_apart(model, reference):
    text = tokens(1, SWITCH_LEN + 1)
    long = model(text).logits[:, :SWITCH_LEN]
    assert pcc(long, reference(text[:, :SWITCH_LEN]).logits) < SAME


def test_padding_on_the_left_changes_nothing(model):
    lengths, width = (7, 30, 19), 30
    prompts = [tokens(1, length, seed=length) for length in lengths]
    batch, mask = torch.zeros(3, width, dtype=torch.long), torch.zeros(3, width, dtype=torch.long)
    for user, prompt in enumerate(prompts):
        batch[user, width - prompt.shape[1] :], mask[user, width - prompt.shape[1] :] = prompt[0], 1
    together = model(batch, attention_mask=mask)
    settings = dict(max_new_tokens=6, do_sample=False)
    generated = model.generate(batch, attention_mask=mask, **settings)
    for user, (prompt, length) in enumerate(zip(prompts, lengths)):
        assert torch.equal(together.logits[user, width - length :], model(prompt).logits[0])
        assert not together.logits[user, : width - length].any()
        alone = model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)
        assert torch.equal(generated[user, width:], alone[0, length:])


def test_logits_to_keep_gives_the_last_ones(model):
    prompt = tokens(2, 45)
    whole = model(prompt).logits
    for kept in (1, 14, 45, 60):
        assert torch.equal(model(prompt, logits_to_keep=kept).logits, whole[:, -kept:])


def test_without_a_cache_generate_gives_the_same_text(model):
    prompt = tokens(1, 10)
    settings = dict(attention_mask=torch.ones_like(prompt), max_new_tokens=5, do_sample=False)
    assert model(prompt, use_cache=False).past_key_values is None
    assert torch.equal(model.generate(prompt, use_cache=False, **settings), model.generate(prompt, **settings))


def test_sampling_depends_on_the_seed_alone(model):
    prompt = tokens(4, 10)
    settings = dict(attention_mask=torch.ones_like(prompt), max_new_tokens=8)
    samples = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        samples.append(model.generate(prompt, do_sample=True, top_k=0, **settings))
    assert torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], samples[2])


def test_sampling_from_one_token_takes_a_most_likely_one(model):
    prompt = tokens(4, 10)
    settings = dict(attention_mask=torch.ones_like(prompt), max_new_tokens=8, eos_token_id=None)
    out = model.generate(prompt, do_sample=True, top_k=1, output_logits=True, return_dict_in_generate=True, **settings)
    logits = torch.stack(out.logits, dim=1)
    assert torch.equal(logits.gather(2, out.sequences[:, 10:, None])[..., 0], logits.amax(dim=2))


def test_a_sequence_can_be_as_long_as_max_seq_len_and_no_longer(model):
    prompt = tokens(1, MAX_SEQ_LEN - 3)
    settings = dict(attention_mask=torch.ones_like(prompt), do_sample=False, eos_token_id=None)
    assert model.generate(prompt, max_new_tokens=3, **settings).shape[1] == MAX_SEQ_LEN
    with pytest.raises(ValueError, match=f"sequence of {MAX_SEQ_LEN + 1} tokens is past max_seq_len {MAX_SEQ_LEN}"):
        model.generate(prompt, max_new_tokens=4, **settings)
    with pytest.raises(ValueError, match=f"sequence of {MAX_SEQ_LEN + 1} tokens is past max_seq_len {MAX_SEQ_LEN}"):
        model(tokens(1, MAX_SEQ_LEN + 1))


RIGHT_PADDED = torch.tensor([[1, 1, 1, 1, 0]])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(input_ids=tokens(33, 5)), r"input_ids \[33, 5\] have to be \[1 to 32 sequences"),
        (dict(input_ids=tokens(1, 5)[0]), r"input_ids \[5\] have to be"),
        (dict(input_ids=tokens(1, 5)[:, :0]), r"input_ids \[1, 0\] have to be"),
        (dict(input_ids=torch.tensor([[1, 320]])), "input_ids 1 to 320 are not within vocab_size 320"),
        (dict(input_ids=tokens(1, 5), attention_mask=RIGHT_PADDED), "padding on the left"),
        (dict(input_ids=tokens(1, 5), attention_mask=torch.zeros(1, 5)), "padding on the left"),
        (dict(input_ids=tokens(1, 5), attention_mask=torch.ones(1, 6)), r"attention_mask \[1, 6\] has to be \[1, 5\]"),
        (dict(input_ids=tokens(1, 5), past_key_values=DynamicCache()), "past_key_values are a DynamicCache"),
        (dict(input_ids=tokens(1, 5), return_dict=False), "return_dict=False, logits_to_keep=0: accepted are True, 0"),
        (dict(input_ids=tokens(1, 5), logits_to_keep=-1), "return_dict=True, logits_to_keep=-1: accepted are True, 0"),
    ],
)
def test_forward_refuses(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        model(**arguments)


def test_a_cache_is_refused_for_other_sequences(model):
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    cache = model(tokens(2, 3), attention_mask=mask).past_key_values
    with pytest.raises(ValueError, match="past_key_values are of 2 sequences, not .* 1 sequences"):
        model(tokens(1, 1), past_key_values=cache)
    with pytest.raises(ValueError, match="attention_mask does not continue"):
        model(tokens(2, 1), past_key_values=cache, attention_mask=torch.ones(2, 4))
    with pytest.raises(NotImplementedError, match="filled, continued and reset"):
        cache.crop(-1)


@pytest.mark.parametrize("mode", [dict(num_beams=2), dict(cache_implementation="static")])
def test_generate_refuses_what_the_devices_cannot_do(model, mode):
    prompt = tokens(1, 5)
    with pytest.raises(ValueError, match="only supports|is not supported"):
        model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=2, **mode)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(num_key_value_heads=4), "num_key_value_heads 4 does not divide by 8 devices"),
        (dict(num_attention_heads=4, num_key_value_heads=4), "num_attention_heads 4 does not divide by 8 devices"),
        (dict(vocab_size=324), "vocab_size 324 does not divide"),
        (dict(intermediate_size=196), "intermediate_size 196 does not divide"),
        (dict(quantization_config={"quant_method": "fp8"}), "quantization_config .* is not supported"),
        (dict(hidden_act="gelu"), "hidden_act 'gelu' is not supported"),
        (dict(sliding_window=64), "max_seq_len 128 is past sliding_window 64"),
        (dict(max_position_embeddings=100), "max_seq_len 128: has to be 1 to max_position_embeddings 100"),
        (dict(hidden_size=384), "hidden_size 384 and head_dim 48 have to be multiples of 32"),
        (dict(rope_parameters={"rope_type": "linear", "factor": 2.0}), "rope_type 'linear' is not supported"),
        (dict(rope_parameters={"rope_type": "default", "partial_rotary_factor": 0.5}), "partial_rotary_factor 0.5"),
        (dict(model_type="llama"), "model_type 'llama' is not supported; supported is 'phi3'"),
    ],
)
def test_build_refuses_checkpoints_it_cannot_run(functional, reference, changes, message):
    config = copy.deepcopy(reference.config)
    for name, value in changes.items():
        setattr(config, name, value)
    with pytest.raises(ValueError, match=message):
        functional.check_supported(config, num_devices=8, max_seq_len=MAX_SEQ_LEN)
