"""RoPE in config.json: its two forms, Hugging Face's choice where they differ, what is refused."""

import json
import re

import pytest
import torch
from transformers import Phi3Config

from models.tt_transformers.tt.config.architecture import Architecture
from models.tt_transformers.tt.config.rope import LongRope, make_rope
from models.tt_transformers.tt.families import FAMILIES
from models.tt_transformers.tt.families.llama import LLAMA
from models.tt_transformers.tt.families.phi3 import PHI3
from tests.support.ropes import (
    CONTEXT,
    LLAMA3,
    LONGROPE,
    MINI_128K,
    NAMES,
    SETS,
    YARN,
    assert_equal,
    hugging_face_cos_sin,
    llama_config,
    llama_rope,
    mini_128k_rope,
)
from tests.support.tiny_phi3 import SWITCH_LEN, tiny_config


@pytest.mark.parametrize("parameters", SETS, ids=NAMES)
def test_old_and_new_form_of_config_give_the_same_rope(parameters):
    new = llama_config(parameters).to_dict()
    assert "rope_parameters" in new and "rope_scaling" not in new
    scaling = {"type" if key == "rope_type" else key: value for key, value in parameters.items() if key != "rope_theta"}
    old = {"rope_scaling": scaling, "rope_theta": parameters.get("rope_theta", 10000.0)}
    ropes = [make_rope(config, LLAMA, head_dim=64, max_position_embeddings=CONTEXT) for config in (old, new)]
    assert ropes == [llama_rope(parameters)] * 2


@pytest.mark.parametrize("name", ["su", "yarn", "longrope"])
def test_names_of_longrope_in_older_checkpoints_of_phi_3(name):
    assert mini_128k_rope(rope_scaling={**MINI_128K["rope_scaling"], "type": name}) == mini_128k_rope()
    assert isinstance(mini_128k_rope(), LongRope)


def test_old_and_new_form_of_phi_3s_config_give_the_same_rope():
    new = Phi3Config(**MINI_128K).to_dict()
    assert "rope_parameters" in new and "rope_scaling" not in new
    assert make_rope(new, PHI3, head_dim=96, max_position_embeddings=131072) == mini_128k_rope()


LONG = {"type": "longrope", "short_factor": [1.0] * 16, "long_factor": [1.0 + i / 4 for i in range(16)]}
OTHER = {**LONG, "type": "longrope", "long_factor": [2.0 + i for i in range(16)], "rope_theta": 500.0}


@pytest.mark.parametrize(
    "written_twice, note",
    [
        ({"rope_scaling": LONG, "rope_parameters": OTHER}, "rope_scaling and rope_parameters that differ; rope_scaling"),
        ({"rope_scaling": LONG, "rope_parameters": {"rope_type": "default"}}, "differ; rope_scaling is used"),
        ({"rope_scaling": {"type": "default"}, "rope_parameters": OTHER}, "differ; rope_scaling is used"),
        ({"rope_scaling": None, "rope_parameters": OTHER}, None),
        ({"rope_scaling": {}, "rope_parameters": OTHER}, None),
        ({"rope_scaling": LONG, "rope_parameters": {**LONG, "rope_type": "longrope"}}, None),
        ({"rope_scaling": {**LONG, "type": "default", "rope_type": "longrope"}}, "'longrope' and type 'default'; rope_type"),
        ({"rope_parameters": OTHER, "rope_theta": 10000.0}, "rope_theta 10000.0 outside .* 500.0 inside, which is used"),
        ({"rope_scaling": LONG, "rope_theta": 500.0}, None),
        ({"rope_scaling": LONG, "rope_theta": 500.0, "rope_parameters": OTHER}, "differ; rope_scaling is used"),
    ],
)
def test_of_what_is_written_twice_hugging_faces_choice_is_taken_and_said(tmp_path, written_twice, note):
    config = {key: value for key, value in tiny_config().to_dict().items() if not key.startswith("rope")}
    config |= {"architectures": ["Phi3ForCausalLM"], **written_twice}
    (tmp_path / "config.json").write_text(json.dumps(config))
    reference = Phi3Config.from_pretrained(tmp_path)
    arch = Architecture.from_hf_config(config)
    for seq_len in (SWITCH_LEN, SWITCH_LEN + 1):
        ours = arch.rope.cos_sin(torch.arange(seq_len), seq_len)
        assert_equal(ours, hugging_face_cos_sin(reference, torch.arange(seq_len)))
    assert len(arch.notes) == (note is not None)
    assert note is None or re.search(note, arch.notes[0])


@pytest.mark.parametrize("parameters", [LLAMA3, YARN, LONGROPE], ids=lambda p: p["rope_type"])
def test_the_original_length_may_be_outside_the_parameters_but_not_differ(parameters):
    key = "original_max_position_embeddings"

    def rope(outside, **inside):
        config = {"rope_scaling": {**parameters, **inside}, key: outside}
        return make_rope(config, LLAMA, head_dim=64, max_position_embeddings=CONTEXT)

    assert rope(100) == rope(100, **{key: 100}) == llama_rope({**parameters, key: 100})
    with pytest.raises(ValueError, match=f"{key} is 99 in rope_parameters but 100 at the top level"):
        rope(100, **{key: 99})


@pytest.mark.parametrize(
    "scaling, message",
    [
        ({"type": "ntk"}, "'ntk' is not supported; supported are default, longrope, su, yarn for Phi3ForCausalLM"),
        ({"rope_type": "llama3", "factor": 8.0}, "'llama3' is not supported"),
        ({**MINI_128K["rope_scaling"], "long_factor": [1.0] * 47}, "long_factor has 47 entries; 96 rotated columns need 48"),
        ({**MINI_128K["rope_scaling"], "short_factor": [0.0] * 48}, "short_factor must hold positive numbers"),
        ({**MINI_128K["rope_scaling"], "short_factor": "1"}, "needs a list of numbers short_factor"),
        ({**MINI_128K["rope_scaling"], "short_factor": ["a"] * 48}, "short_factor must be a number, got 'a'"),
        ({**MINI_128K["rope_scaling"], "partial_rotary_factor": 0.75}, "entries; 72 rotated columns need 36"),
        ({**MINI_128K["rope_scaling"], "partial_rotary_factor": None}, "partial_rotary_factor must be a number, got None"),
        ({**MINI_128K["rope_scaling"], "rope_theta": None}, "rope_theta must be a number, got None"),
        ({**MINI_128K["rope_scaling"], "rope_type": 3}, "rope_type must be a text, got 3"),
        ({**MINI_128K["rope_scaling"], "mscale": 1.0}, "keys that are not supported: mscale"),
        ({**MINI_128K["rope_scaling"], "short_mscale": 1.0, "long_mscale": 1.1}, "not supported: long_mscale, short_mscale"),
        ({**MINI_128K["rope_scaling"], "original_max_position_embeddings": 512}, "is 512 in rope_parameters but 4096"),
        ({"type": "longrope", "factor": 2.0}, "'longrope' needs short_factor, long_factor"),
        ({"type": "default", "partial_rotary_factor": 0.0}, "head_dim 96 with partial_rotary_factor 0.0 has 0"),
        ({"type": "default", "partial_rotary_factor": 0.39}, "even number of rotated columns .* has 37"),
        ({"type": "default", "partial_rotary_factor": 1.5}, "partial_rotary_factor 1.5 has 144"),
        ([1], "must be an object"),
        (False, "must be an object"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(scaling, message):
    with pytest.raises(ValueError, match=message):
        mini_128k_rope(rope_scaling=scaling)


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"rope_type": "ntk"}, "'ntk' is not supported; supported are default, linear, dynamic, llama3, yarn, longrope for Llama"),
        ({"rope_type": "su"}, "'su' is not supported"),
        ({"rope_type": "proportional"}, "'proportional' is not supported"),
        ({"rope_type": "default", "factor": 2.0}, "'default' has keys that are not supported: factor"),
        ({"full_attention": {"rope_type": "default"}}, "keys that are not supported: full_attention"),
        ({"rope_type": "linear"}, "'linear' needs factor"),
        ({"rope_type": "linear", "factor": None}, "factor must be a number, got None"),
        ({"rope_type": "linear", "factor": "2"}, "factor must be a number, got '2'"),
        ({"rope_type": "linear", "factor": 0}, "factor must be positive, got 0"),
        ({"rope_type": "dynamic"}, "'dynamic' needs factor"),
        ({"rope_type": "dynamic", "factor": -1.0}, "factor must be positive, got -1.0"),
        ({"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 64}, "not supported: original_max"),
        ({"rope_type": "llama3", "factor": 8.0}, "'llama3' needs low_freq_factor, high_freq_factor"),
        ({**LLAMA3, "high_freq_factor": 1.0}, "high_freq_factor 1.0 must be over low_freq_factor 1.0"),
        ({**LLAMA3, "low_freq_factor": 0}, "low_freq_factor must be positive, got 0"),
        ({**LLAMA3, "original_max_position_embeddings": 64.5}, "original_max_position_embeddings must be an integer, got 64.5"),
        ({**LLAMA3, "original_max_position_embeddings": None}, "original_max_position_embeddings must be an integer, got None"),
        ({**LLAMA3, "original_max_position_embeddings": 0}, "original_max_position_embeddings must be positive, got 0"),
        ({"rope_type": "yarn"}, "'yarn' needs factor"),
        ({**YARN, "factor": 0}, "factor must be positive, got 0"),
        ({**YARN, "beta_fast": -1}, "beta_fast must not be negative, got -1"),
        ({**YARN, "truncate": 1}, "truncate must be true or false, got 1"),
        ({**YARN, "mscale": True}, "mscale must be a number, got True"),
        ({**YARN, "rope_theta": 1.0}, "yarn needs a rope_theta over 1, got 1.0"),
        ({**YARN, "finetuned": True}, "'yarn' has keys that are not supported: finetuned"),
        ({**LONGROPE, "original_max_position_embeddings": 257}, "257 must be over 1 and at most max_position_embeddings 256"),
        ({"rope_theta": float("inf")}, "rope_theta must be a number, got inf"),
        ({"rope_theta": 0}, "rope_theta must be positive, got 0"),
    ],
)
def test_so_is_it_in_other_families(parameters, message):
    with pytest.raises(ValueError, match=message):
        llama_rope(parameters)


def test_dynamic_ntk_needs_more_than_one_frequency():
    with pytest.raises(ValueError, match="dynamic needs more than 2 rotated columns"):
        llama_rope({"rope_type": "dynamic", "factor": 2.0}, head_dim=2)


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"Phi3ForCausalLM"}))
def test_partial_rotation_is_refused_for_families_whose_attention_rotates_whole_heads(name):
    with pytest.raises(ValueError, match=f"partial_rotary_factor 0.5 is not supported: {name} rotates whole heads"):
        llama_rope({"rope_type": "default", "partial_rotary_factor": 0.5}, family=FAMILIES[name])
    assert llama_rope({"partial_rotary_factor": 1.0}, family=FAMILIES[name]) == llama_rope({}, family=FAMILIES[name])
