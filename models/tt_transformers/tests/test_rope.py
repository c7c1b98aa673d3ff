"""Every RoPE kind against Hugging Face's own modules, bit for bit in float32; both forms of config.json; what is refused."""

import json
import re
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, Phi3Config
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from models.tt_transformers.tt.checkpoints.location import MODEL_PARAMS
from models.tt_transformers.tt.config.architecture import Architecture
from models.tt_transformers.tt.config.rope import KINDS, DefaultRope, LongRope, make_rope
from models.tt_transformers.tt.families import FAMILIES
from models.tt_transformers.tt.families.llama import LLAMA
from models.tt_transformers.tt.families.phi3 import PHI3
from tests.support.tiny_phi3 import HEAD_DIM, SWITCH_LEN, tiny_config

MINI_128K = json.loads((MODEL_PARAMS / "Phi-3-mini-128k-instruct/config.json").read_text())
ROTARY = {LlamaConfig: LlamaRotaryEmbedding, Phi3Config: Phi3RotaryEmbedding}
CONTEXT = 256


def mini_128k_rope(**changes):
    return make_rope({**MINI_128K, **changes}, PHI3, head_dim=96, max_position_embeddings=131072)


def tiny_rope():
    return make_rope(tiny_config().to_dict(), PHI3, head_dim=HEAD_DIM, max_position_embeddings=256)


def llama_rope(parameters, head_dim=64, family=LLAMA):
    return make_rope({"rope_parameters": parameters}, family, head_dim=head_dim, max_position_embeddings=CONTEXT)


def llama_config(parameters, head_dim=64):
    sizes = dict(hidden_size=4 * head_dim, num_attention_heads=4, max_position_embeddings=CONTEXT)
    return LlamaConfig(**sizes, rope_parameters=dict(parameters))


def hugging_face_cos_sin(config, positions, rotary=None):
    """cos and sin of a sequence that ends at the last position; [n, head_dim] in the interleaved order.

    `rotary`: Hugging Face's module, if it has run other sequences before.
    """
    cos, sin = (rotary or ROTARY[type(config)](config))(torch.zeros(1), positions[None])
    half = cos.shape[-1] // 2
    return tuple(table[0, :, :half].repeat_interleave(2, dim=-1) for table in (cos, sin))


def assert_equal(ours, reference):
    for one, other in zip(ours, reference, strict=True):
        assert torch.equal(one, other)


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0 + i / 10 for i in range(32)],
    "long_factor": [1.0 + i / 3 for i in range(32)],
}
SETS = [
    {},
    {"rope_type": "default", "rope_theta": 1000000},
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "linear", "factor": 2.5, "rope_theta": 100000},
    {"rope_type": "linear", "factor": 3},
    {"rope_type": "linear", "factor": 0.5},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "dynamic", "factor": 2},
    {"rope_type": "dynamic", "factor": 3.7, "rope_theta": 500000.0},
    {"rope_type": "dynamic", "factor": 0.5},
    LLAMA3,
    {**LLAMA3, "original_max_position_embeddings": 100, "rope_theta": 500000.0},
    {**LLAMA3, "factor": 2.5, "low_freq_factor": 1.5, "high_freq_factor": 3, "original_max_position_embeddings": 8192},
    YARN,
    {**YARN, "factor": 2.5, "original_max_position_embeddings": 100},
    {**YARN, "factor": None, "original_max_position_embeddings": 64},
    {**YARN, "factor": 0.5},
    {**YARN, "truncate": False},
    {**YARN, "attention_factor": 1.25},
    {**YARN, "attention_factor": 2},
    {**YARN, "attention_factor": 0.0},
    {**YARN, "attention_factor": None},
    {**YARN, "beta_fast": 20, "beta_slow": 2.5},
    {**YARN, "beta_fast": 0, "beta_slow": 0},
    {**YARN, "beta_fast": 1, "beta_slow": 32},
    {**YARN, "factor": 40, "mscale": 0.707, "mscale_all_dim": 1.0},
    {**YARN, "factor": 40, "mscale": 0.707, "mscale_all_dim": 0},
    {**YARN, "factor": 40, "mscale": 0.707},
    {**YARN, "original_max_position_embeddings": 32768, "rope_theta": 1000000.0},
    LONGROPE,
    {**LONGROPE, "original_max_position_embeddings": 100},
    {**LONGROPE, "original_max_position_embeddings": 100, "factor": 8},
    {**LONGROPE, "original_max_position_embeddings": 100, "attention_factor": 1.5},
]
NAMES = [", ".join(f"{key} {value}" for key, value in given.items() if not isinstance(value, list)) for given in SETS]
LENGTHS = (1, 64, 65, 100, 101, CONTEXT - 1, CONTEXT, CONTEXT + 1, 5003)


def original_len(parameters):
    return parameters.get("original_max_position_embeddings", CONTEXT)


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


@pytest.mark.parametrize("parameters", SETS, ids=NAMES)
def test_old_and_new_form_of_config_give_the_same_rope(parameters):
    new = llama_config(parameters).to_dict()
    assert "rope_parameters" in new and "rope_scaling" not in new
    scaling = {"type" if key == "rope_type" else key: value for key, value in parameters.items() if key != "rope_theta"}
    old = {"rope_scaling": scaling, "rope_theta": parameters.get("rope_theta", 10000.0)}
    ropes = [make_rope(config, LLAMA, head_dim=64, max_position_embeddings=CONTEXT) for config in (old, new)]
    assert ropes == [llama_rope(parameters)] * 2


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
    assert {llama_rope(parameters, family=replace(LLAMA, recomputes_keys=True)).recompute_len for parameters in SETS[:29]} == {None}


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
    assert llama_rope({"partial_rotary_factor": 1.0}, family=FAMILIES[name]) == llama_rope({})
