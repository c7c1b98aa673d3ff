import json
import re

import pytest
import torch
from transformers import Phi3Config
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from models.tt_transformers.tt.checkpoints.location import MODEL_PARAMS
from models.tt_transformers.tt.config.architecture import Architecture
from models.tt_transformers.tt.config.rope import DefaultRope, LongRope, make_rope
from tests.support.tiny_phi3 import HEAD_DIM, SWITCH_LEN, tiny_config

MINI_128K = json.loads((MODEL_PARAMS / "Phi-3-mini-128k-instruct/config.json").read_text())


def mini_128k_rope(**changes):
    return make_rope({**MINI_128K, **changes}, head_dim=96, max_context_len=131072)


def tiny_rope():
    return make_rope(tiny_config().to_dict(), head_dim=HEAD_DIM, max_context_len=256)


def hugging_face_cos_sin(config, positions):
    """cos and sin of a sequence that ends at the last position; [n, head_dim] in the interleaved order."""
    cos, sin = Phi3RotaryEmbedding(config)(torch.zeros(1), positions[None])
    half = cos.shape[-1] // 2
    return tuple(table[0, :, :half].repeat_interleave(2, dim=-1) for table in (cos, sin))


def assert_equal(ours, reference):
    for one, other in zip(ours, reference, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("seq_len", [1, 4096, 4097, 131072])
def test_cos_and_sin_are_hugging_faces_to_the_last_bit(seq_len):
    positions = torch.tensor(sorted({0, seq_len // 3, seq_len - 1}))
    ours = mini_128k_rope().cos_sin(positions, long=seq_len > 4096)
    assert_equal(ours, hugging_face_cos_sin(Phi3Config(**MINI_128K), positions))


def test_rope_without_scaling_is_hugging_faces():
    config = tiny_config(rope_scaling=None)
    rope = make_rope(config.to_dict(), head_dim=HEAD_DIM, max_context_len=256)
    assert type(rope) is DefaultRope
    assert_equal(rope.table(256), hugging_face_cos_sin(config, torch.arange(256)))


@pytest.mark.parametrize("changes", [{}, {"attention_factor": 1.5}, {"attention_factor": 0.0}, {"factor": 8.0}, {"factor": 0.5}, {"factor": 0}])
def test_attention_factor_is_hugging_faces(changes):
    scaling = {**MINI_128K["rope_scaling"], **changes}
    reference = Phi3RotaryEmbedding(Phi3Config(**{**MINI_128K, "rope_scaling": dict(scaling)})).attention_scaling
    assert mini_128k_rope(rope_scaling=scaling).attention_factor == reference


def test_attention_factor_of_phi_3_mini_128k_is_the_published_formula():
    # sqrt(1 + ln(131072 / 4096) / ln(4096)) = sqrt(1 + 5/12)
    assert mini_128k_rope().attention_factor == pytest.approx((17 / 12) ** 0.5)


@pytest.mark.parametrize("max_seq_len", [SWITCH_LEN // 2, SWITCH_LEN, SWITCH_LEN + 1, 256])
def test_table_rows_serve_each_sequence_length_on_both_sides_of_the_switch(max_seq_len):
    rope = tiny_rope()
    cos, sin = rope.table(max_seq_len)
    for seq_len in {1, SWITCH_LEN - 1, SWITCH_LEN, SWITCH_LEN + 1, max_seq_len}:
        if seq_len > max_seq_len:
            continue
        rows = [rope.row(position, seq_len) for position in range(seq_len)]
        assert_equal((cos[rows], sin[rows]), hugging_face_cos_sin(tiny_config(), torch.arange(seq_len)))


def test_table_holds_short_rows_only_where_no_sequence_can_cross_the_switch():
    assert tiny_rope().table(SWITCH_LEN)[0].shape == (SWITCH_LEN, HEAD_DIM)
    assert tiny_rope().table(SWITCH_LEN + 1)[0].shape == (SWITCH_LEN + SWITCH_LEN + 1, HEAD_DIM)


@pytest.mark.parametrize("position, seq_len", [(-1, 4), (4, 4)])
def test_a_position_outside_its_sequence_has_no_row(position, seq_len):
    with pytest.raises(ValueError, match="not inside a sequence of 4 tokens"):
        tiny_rope().row(position, seq_len)


@pytest.mark.parametrize("name", ["su", "yarn", "longrope"])
def test_names_of_longrope_in_older_checkpoints(name):
    scaling = {**MINI_128K["rope_scaling"], "type": name}
    aliases = {"su": "longrope", "yarn": "longrope"}
    rope = make_rope({**MINI_128K, "rope_scaling": scaling}, head_dim=96, max_context_len=131072, aliases=aliases)
    assert rope == mini_128k_rope()


def test_old_and_new_form_of_config_give_the_same_rope():
    new = Phi3Config(**MINI_128K).to_dict()
    assert "rope_parameters" in new and "rope_scaling" not in new
    assert make_rope(new, head_dim=96, max_context_len=131072) == mini_128k_rope()
    assert isinstance(mini_128k_rope(), LongRope)


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
        ours = arch.rope.cos_sin(torch.arange(seq_len), long=seq_len > SWITCH_LEN)
        assert_equal(ours, hugging_face_cos_sin(reference, torch.arange(seq_len)))
    assert len(arch.notes) == (note is not None)
    assert note is None or re.search(note, arch.notes[0])


@pytest.mark.parametrize(
    "scaling, message",
    [
        ({"type": "ntk"}, "'ntk' is not supported; supported are default, longrope"),
        ({"rope_type": "llama3", "factor": 8.0}, "'llama3' is not supported"),
        ({**MINI_128K["rope_scaling"], "long_factor": [1.0] * 47}, "long_factor has 47 entries; head_dim 96 needs 48"),
        ({**MINI_128K["rope_scaling"], "short_factor": [0.0] * 48}, "short_factor must hold positive numbers"),
        ({**MINI_128K["rope_scaling"], "short_factor": "1"}, "needs a list of numbers short_factor"),
        ({**MINI_128K["rope_scaling"], "short_factor": ["a"] * 48}, "short_factor must be a number, got 'a'"),
        ({**MINI_128K["rope_scaling"], "partial_rotary_factor": 0.75}, "partial_rotary_factor 0.75 is not supported"),
        ({**MINI_128K["rope_scaling"], "partial_rotary_factor": None}, "partial_rotary_factor None is not supported"),
        ({**MINI_128K["rope_scaling"], "rope_theta": None}, "rope_theta must be a number, got None"),
        ({**MINI_128K["rope_scaling"], "rope_type": 3}, "rope_type must be a text, got 3"),
        ({**MINI_128K["rope_scaling"], "mscale": 1.0}, "keys that are not supported: mscale"),
        ({**MINI_128K["rope_scaling"], "short_mscale": 1.0, "long_mscale": 1.1}, "not supported: long_mscale, short_mscale"),
        ({**MINI_128K["rope_scaling"], "original_max_position_embeddings": 512}, "is 512 in rope_parameters but 4096"),
        ([1], "must be an object"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(scaling, message):
    with pytest.raises(ValueError, match=message):
        mini_128k_rope(rope_scaling=scaling)
