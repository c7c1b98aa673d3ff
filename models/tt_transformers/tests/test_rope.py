"""The tables of every RoPE kind against Hugging Face's own modules, bit for bit in float32."""

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, Phi3Config
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from models.tt_transformers.tt.config.rope import KINDS, DefaultRope, make_rope
from models.tt_transformers.tt.families.llama import LLAMA
from models.tt_transformers.tt.families.phi3 import PHI3
from tests.support.ropes import (
    CONTEXT,
    LLAMA3,
    LONGROPE,
    MINI_128K,
    NAMES,
    ROTARY,
    SETS,
    YARN,
    assert_equal,
    hugging_face_cos_sin,
    llama_config,
    llama_rope,
    mini_128k_rope,
    tiny_rope,
)
from tests.support.tiny_phi3 import HEAD_DIM, SWITCH_LEN, tiny_config

LENGTHS = (1, 64, 65, 100, 101, CONTEXT - 1, CONTEXT, CONTEXT + 1, 5003)


@pytest.mark.parametrize("parameters", SETS, ids=NAMES)
def test_cos_and_sin_of_a_prompt_are_hugging_faces(parameters):
    config, rope = llama_config(parameters), llama_rope(parameters)
    assert type(rope) is KINDS[parameters.get("rope_type", "default")]
    for length in LENGTHS:
        positions = torch.tensor(sorted({0, length // 3, length - 1}))
        expected = hugging_face_cos_sin(config, positions)
        assert_equal(rope.cos_sin(positions, length), expected)
        if rope.in_table(length):
            rows = [rope.row(position, length) for position in positions.tolist()]
            assert_equal((table[rows] for table in rope.table(length)), expected)


@pytest.mark.parametrize("parameters", SETS, ids=NAMES)
def test_rows_of_decoded_tokens_are_hugging_faces(parameters):
    """From a short prompt to beyond the lengths at which frequencies change. The module is one that has seen each step."""
    config, rope = llama_config(parameters), llama_rope(parameters)
    tables, rotary = rope.table(CONTEXT + 60), ROTARY[LlamaConfig](config)
    hugging_face_cos_sin(config, torch.arange(90), rotary)
    for position in range(90, CONTEXT + 60):
        expected = hugging_face_cos_sin(config, torch.tensor([position]), rotary)
        row = rope.row(position, position + 1)
        assert_equal((table[row : row + 1] for table in tables), expected)


@pytest.mark.parametrize("head_dim", [16, 48, 80, 96, 128, 256])
@pytest.mark.parametrize("parameters", [{}, {"rope_type": "dynamic", "factor": 2.5}, LLAMA3, YARN], ids=lambda p: p.get("rope_type"))
def test_so_they_are_for_every_width_of_a_head(parameters, head_dim):
    config, rope = llama_config(parameters, head_dim), llama_rope(parameters, head_dim)
    for length in (CONTEXT, CONTEXT + 44):
        positions = torch.arange(length)
        assert_equal(rope.cos_sin(positions, length), hugging_face_cos_sin(config, positions))
    last = torch.tensor([CONTEXT + 43])
    assert_equal((table[-1:] for table in rope.table(CONTEXT + 44)), hugging_face_cos_sin(config, last))


@pytest.mark.parametrize("parameters", [given for given in SETS[1:] if given.get("rope_type") != "default"], ids=NAMES[2:])
def test_a_part_of_a_head_is_rotated_as_by_hugging_face_and_the_rest_stays(parameters):
    parameters = {**parameters, "partial_rotary_factor": 0.75}
    for name in {"short_factor", "long_factor"} & set(parameters):
        parameters[name] = parameters[name][:24]
    rope = llama_rope(parameters, family=replace(LLAMA, partial_rotation=True))
    assert rope.rotary_dim == 48
    for length in (CONTEXT, CONTEXT + 1):
        positions = torch.arange(length)
        for tables in (rope.cos_sin(positions, length), rope.cos_sin(positions, length, width=96)):
            assert_equal((table[:, :48] for table in tables), hugging_face_cos_sin(llama_config(parameters), positions))
            assert (tables[0][:, 48:] == 1).all() and (tables[1][:, 48:] == 0).all()


@pytest.mark.parametrize("scaling", [None, {**LONGROPE, "short_factor": [1.0] * 12, "long_factor": [2.0] * 12}])
@pytest.mark.parametrize("inside", [True, False])
def test_the_factor_of_partial_rotation_may_be_inside_the_parameters_or_outside(scaling, inside):
    part = {"partial_rotary_factor": 0.75}
    config = {**tiny_config().to_dict(), "rope_parameters": {**(scaling or {"rope_type": "default"}), **(part if inside else {})}}
    config |= {} if inside else part
    rope = make_rope(config, PHI3, head_dim=HEAD_DIM, max_position_embeddings=256)
    positions = torch.arange(SWITCH_LEN + 1)
    ours = rope.cos_sin(positions, len(positions))
    assert_equal((table[:, :24] for table in ours), hugging_face_cos_sin(Phi3Config(**config), positions))


@pytest.mark.parametrize("max_seq_len", [64, CONTEXT + 5])
@pytest.mark.parametrize("parameters", [{}, {"rope_type": "dynamic", "factor": 2.0}, {**LONGROPE, "original_max_position_embeddings": 100}])
def test_tables_may_be_wider_than_a_head(parameters, max_seq_len):
    rope = llama_rope(parameters)
    for wide, narrow, beyond in zip(rope.table(max_seq_len, 96), rope.table(max_seq_len), (1, 0), strict=True):
        assert wide.shape[1] == 96 and torch.equal(wide[:, :64], narrow)
        assert (wide[:, 64:] == beyond).all()


@pytest.mark.parametrize(
    "parameters, context_len",
    [
        ({}, 256),
        ({"rope_type": "linear", "factor": 4.0}, 256),
        (LLAMA3, 256),
        (LONGROPE, 256),
        ({"rope_type": "dynamic", "factor": 2.5}, 640),
        ({"rope_type": "dynamic", "factor": 0.5}, 256),
        ({**YARN, "original_max_position_embeddings": 64}, 256),
        ({**YARN, "original_max_position_embeddings": 256}, 1024),
        ({**YARN, "factor": None, "original_max_position_embeddings": 64}, 256),
    ],
)
def test_the_context_is_that_of_the_config_or_what_dynamic_and_yarn_extend_it_to(parameters, context_len):
    assert llama_rope(parameters).context_len == context_len


def test_frequencies_of_prompts_depend_on_their_length_in_dynamic_and_longrope_only():
    def sets(parameters):
        return [llama_rope(parameters).frequency_set(length) for length in (1, 100, 101, 256, 257, 300)]

    assert [len(set(sets(parameters))) for parameters in ({}, {"rope_type": "linear", "factor": 2.0}, LLAMA3, YARN)] == [1] * 4
    assert sets({"rope_type": "dynamic", "factor": 2.0}) == [256, 256, 256, 256, 257, 300]
    short, *_, long = longrope = sets({**LONGROPE, "original_max_position_embeddings": 100})
    assert longrope == [short] * 2 + [long] * 4 and short != long


def test_keys_are_computed_again_where_hugging_faces_class_does_it():
    assert tiny_rope().recompute_len == SWITCH_LEN + 1
    assert llama_rope({**LONGROPE, "original_max_position_embeddings": 100}).recompute_len is None
    others, recomputing = [given for given in SETS if given.get("rope_type") != "longrope"], replace(LLAMA, recomputes_keys=True)
    assert {llama_rope(parameters, family=recomputing).recompute_len for parameters in others} == {None}


@pytest.mark.parametrize("seq_len", [1, 4096, 4097, 131072])
def test_those_of_phi_3_mini_128k_are_hugging_faces(seq_len):
    positions = torch.tensor(sorted({0, seq_len // 3, seq_len - 1}))
    ours = mini_128k_rope().cos_sin(positions, seq_len)
    assert_equal(ours, hugging_face_cos_sin(Phi3Config(**MINI_128K), positions))


def test_rope_without_scaling_is_hugging_faces():
    config = tiny_config(rope_scaling=None)
    rope = make_rope(config.to_dict(), PHI3, head_dim=HEAD_DIM, max_position_embeddings=256)
    assert type(rope) is DefaultRope
    assert_equal(rope.table(256), hugging_face_cos_sin(config, torch.arange(256)))


@pytest.mark.parametrize("changes", [{}, {"attention_factor": 1.5}, {"attention_factor": 0.0}, {"factor": 8.0}, {"factor": 0.5}, {"factor": 0}])
def test_attention_scaling_is_hugging_faces(changes):
    scaling = {**MINI_128K["rope_scaling"], **changes}
    reference = Phi3RotaryEmbedding(Phi3Config(**{**MINI_128K, "rope_scaling": dict(scaling)})).attention_scaling
    assert mini_128k_rope(rope_scaling=scaling).attention_scaling == reference


def test_attention_scaling_of_phi_3_mini_128k_is_the_published_formula():
    # sqrt(1 + ln(131072 / 4096) / ln(4096)) = sqrt(1 + 5/12)
    assert mini_128k_rope().attention_scaling == pytest.approx((17 / 12) ** 0.5)


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
