"""Public `config.json` files, each with its own set of keys (`public_configs.json`): accepted or refused by name.

They are Hugging Face's own and those of fine-tunes, quantisations and architectures that do not run here. What is
accepted is read as the installed `transformers` reads it.
"""

import json
from pathlib import Path

import pytest

from models.tt_transformers.tt.checkpoints.hugging_face import load_config
from models.tt_transformers.tt.checkpoints.location import MODEL_PARAMS
from models.tt_transformers.tt.config.architecture import Architecture, read_config

PUBLIC = json.loads(Path(__file__).with_name("public_configs.json").read_text(encoding="utf-8"))
KNOWN = {f"model_params/{path.parent.name}": read_config(path) for path in sorted(MODEL_PARAMS.glob("*/config.json"))}
ACCEPTED = {**PUBLIC["accepted"], **KNOWN}


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_config_is_read_as_transformers_reads_it(name, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(ACCEPTED[name]))
    arch, theirs = Architecture.from_hf_config(ACCEPTED[name]), load_config(tmp_path).get_text_config()
    heads = theirs.num_attention_heads
    assert (arch.dim, arch.n_layers, arch.n_heads) == (theirs.hidden_size, theirs.num_hidden_layers, heads)
    assert (arch.n_kv_heads, arch.hidden_dim, arch.vocab_size) == (
        theirs.num_key_value_heads, theirs.intermediate_size, theirs.vocab_size
    )
    assert arch.head_dim == (getattr(theirs, "head_dim", None) or theirs.hidden_size // heads)
    assert (arch.norm_eps, arch.tie_word_embeddings) == (theirs.rms_norm_eps, theirs.tie_word_embeddings)
    assert arch.max_context_len == theirs.max_position_embeddings
    eos = theirs.eos_token_id if isinstance(theirs.eos_token_id, list) else [theirs.eos_token_id]
    assert list(arch.eos_token_ids) == eos
    assert arch.windows == _windows(theirs)


def _windows(theirs) -> tuple:
    """The window of each layer, as transformers' models use it: Llama has none, even if its config has the key."""
    window = None if theirs.model_type in ("llama", "mllama_text_model") else theirs.sliding_window
    kinds = getattr(theirs, "layer_types", None) or ["sliding_attention"] * theirs.num_hidden_layers
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


@pytest.mark.parametrize("name", PUBLIC["refused"])
def test_a_config_that_cannot_run_is_refused_by_the_key_or_the_architecture(name):
    refused = PUBLIC["refused"][name]
    with pytest.raises(ValueError) as error:
        Architecture.from_hf_config(refused["config"])
    assert refused["message"] in str(error.value)


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("Llama-2-7b-hf", {"num_attention_heads": 30}, "hidden_size 4096 is not a multiple of num_attention_heads 30"),
        ("Llama-2-7b-hf", {"num_key_value_heads": 6}, "num_attention_heads 32 is not a multiple of num_key_value_heads 6"),
        ("Mistral-7B-v0.1", {"num_key_value_heads": 64}, "num_attention_heads 32 is not a multiple of num_key_value_heads 64"),
        ("Qwen3-8B", {"head_dim": 0}, "head_dim must be a positive integer, got 0"),
        ("Qwen2.5-0.5B", {"num_attention_heads": "14"}, "num_attention_heads must be a positive integer, got '14'"),
        ("Llama-2-7b-hf", {"eos_token_id": 32000}, "eos_token_id 32000 is outside the vocabulary of 32000"),
        ("Phi-3.5-mini-instruct", {"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
    ],
)
def test_sizes_that_contradict_each_other_are_named(name, changes, message):
    with pytest.raises(ValueError) as error:
        Architecture.from_hf_config({**PUBLIC["accepted"][name], **changes})
    assert message in str(error.value)
