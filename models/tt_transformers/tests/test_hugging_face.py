"""Hugging Face's config and model of a checkpoint, as the library reads them."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

import models  # noqa: F401  (makes `import ttnn` resolve)
from models.tt_transformers.tt.checkpoints.state_dict import to_hugging_face
from tests.support.model_args import args_of, change, checkpoint, environment  # noqa: F401


def test_state_dict_and_reference_transformer_hold_the_same_weights(checkpoint):
    args = args_of(checkpoint)
    reference = args.reference_transformer().state_dict()
    weights = to_hugging_face(args.load_state_dict(), args.arch)
    assert set(weights) == set(reference)
    assert all(torch.equal(weight, reference[name]) for name, weight in weights.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_reference_of_dummy_weights_has_these_weights(checkpoint, dtype):
    args = args_of(checkpoint, dummy_weights=True)
    reference = args.reference_transformer(dtype)
    assert reference.dtype == dtype and not reference.training
    for name, weight in to_hugging_face(args.load_state_dict(), args.arch).items():
        assert torch.equal(reference.state_dict()[name], weight.to(dtype)), name


def test_the_reference_keeps_its_rope_frequencies_in_fp32(checkpoint):
    for dummy_weights in (False, True):
        rotary = args_of(checkpoint, dummy_weights=dummy_weights).reference_transformer().model.rotary_emb
        assert torch.equal(rotary.inv_freq, args_of(checkpoint).arch.rope.inv_freq(1))


def test_the_reference_is_kept_only_with_cache_hf(checkpoint):
    kept, loaded = args_of(checkpoint, cache_hf=True), args_of(checkpoint)
    assert kept.reference_transformer() is kept.reference_transformer()
    assert kept.reference_transformer(torch.float32).dtype == torch.float32
    assert loaded.reference_transformer() is not loaded.reference_transformer()


@pytest.mark.parametrize("old_name", ["su", "yarn"])
def test_older_names_of_longrope_run_with_a_reference_though_hugging_face_refuses_one(checkpoint, old_name):
    reference = args_of(checkpoint).reference_transformer(torch.float32)
    scaling = json.loads((checkpoint / "config.json").read_text())["rope_parameters"]
    old = {"type": old_name, **{key: scaling[key] for key in ("short_factor", "long_factor")}}
    change(checkpoint / "config.json", rope_parameters=None, rope_scaling=old)
    if old_name == "su":
        with pytest.raises(Exception, match="original_max_position_embeddings"):
            AutoConfig.from_pretrained(checkpoint)
    args = args_of(checkpoint)
    assert args.arch.rope == args_of(checkpoint).arch.rope and args.arch.rope.kind == "longrope"
    assert args.encode_prompt("So", instruct=False) == [ord("S") - 33, ord("o") - 33]
    tokens = torch.arange(3, 103)[None]
    logits = args.reference_transformer(torch.float32)(tokens).logits
    assert torch.equal(logits, reference(tokens).logits)


def test_a_checkpoint_without_architectures_runs_by_its_model_type(checkpoint):
    change(checkpoint / "config.json", architectures=None)
    assert type(args_of(checkpoint).reference_transformer()).__name__ == "Phi3ForCausalLM"


def test_what_hugging_face_refuses_of_a_config_is_said_of_the_config(checkpoint):
    change(checkpoint / "config.json", initializer_range="wide")
    with pytest.raises(ValueError, match="config.json: Hugging Face refuses it: .*initializer_range"):
        args_of(checkpoint).tokenizer
    with pytest.raises(ValueError, match=f"^{checkpoint}/config.json: Hugging Face refuses it: .*initializer_range"):
        args_of(checkpoint).encode_prompt("Hello", instruct=False)


@pytest.mark.parametrize(
    "habits",
    [
        {"_attn_implementation": "flash_attention_2"},
        {"output_attentions": True, "output_hidden_states": True},
        {"return_dict": False},
        {"dtype": "auto", "torch_dtype": "float17"},
    ],
    ids=lambda habits: next(iter(habits)),
)
def test_the_reference_has_no_habits_of_the_checkpoint(checkpoint, habits):
    change(checkpoint / "config.json", **habits)
    change(checkpoint / "generation_config.json", compile_config={}, num_return_sequences=3)
    reference = args_of(checkpoint).reference_transformer()
    output = reference(torch.arange(3, 9)[None])
    assert reference.config._attn_implementation == "sdpa" and reference.generation_config.num_return_sequences is None
    assert (output.attentions, output.hidden_states) == (None, None)


def test_a_model_that_hugging_face_cannot_make_is_named_in_one_line(checkpoint):
    change(checkpoint / "config.json", pad_token_id=320)
    with pytest.raises(ValueError, match=f"^Hugging Face cannot make the model of {checkpoint}: AssertionError: .*$"):
        args_of(checkpoint).reference_transformer()


def test_a_reference_is_not_made_of_weights_that_are_not_finite(checkpoint):
    weights = load_file(checkpoint / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][3, 4] = float("nan")
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="model.layers.1.mlp.down_proj.weight in .* holds NaN or infinity"):
        args_of(checkpoint).reference_transformer()
