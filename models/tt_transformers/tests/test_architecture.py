import pytest

from models.tt_transformers.tt.checkpoints.location import MODEL_PARAMS
from models.tt_transformers.tt.config.architecture import Architecture, read_config
from tests.support.tiny_phi3 import tiny_config


def mini_128k(**changes):
    return {**read_config(MODEL_PARAMS / "Phi-3-mini-128k-instruct/config.json"), **changes}


def test_facts_of_phi_3_mini_128k():
    arch = Architecture.from_hf_config(mini_128k())
    assert (arch.dim, arch.n_layers, arch.n_heads, arch.n_kv_heads, arch.head_dim) == (3072, 32, 32, 32, 96)
    assert (arch.hidden_dim, arch.vocab_size, arch.max_context_len) == (8192, 32064, 131072)
    assert (arch.norm_eps, arch.eos_token_ids, arch.tie_word_embeddings) == (1e-5, (32000,), False)
    assert arch.rope.recompute_len == 4097


def test_a_config_written_by_transformers_is_read(tmp_path):
    tiny_config(architectures=["Phi3ForCausalLM"]).save_pretrained(tmp_path)
    arch = Architecture.from_hf_config(read_config(tmp_path / "config.json"))
    assert (arch.dim, arch.n_heads, arch.n_kv_heads, arch.head_dim, arch.rope.recompute_len) == (128, 4, 2, 32, 65)


def test_keys_left_out_have_hugging_faces_defaults():
    left_out = ("rms_norm_eps", "eos_token_id", "num_key_value_heads")
    config = {key: value for key, value in mini_128k().items() if key not in left_out}
    assert Architecture.from_hf_config(config) == Architecture.from_hf_config(mini_128k())


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "'GPT2LMHeadModel' is not supported; supported are LlamaForCausalLM"),
        ({"architectures": []}, "must name one architecture"),
        ({"architectures": None, "model_type": "gpt2"}, "names no architecture, and model_type 'gpt2' implies none"),
        ({"model_type": "llama"}, "'Phi3ForCausalLM' has model_type 'phi3', and model_type is 'llama'"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported; supported is 'silu'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "RoPE type 'dynamic' is not supported; supported are"),
        ({"sliding_window": 0}, "sliding_window must be a positive integer or null, got 0"),
        ({"sliding_window": "2047"}, "sliding_window must be a positive integer or null, got '2047'"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings must be true or false, got 'false'"),
        ({"tie_word_embeddings": None}, "tie_word_embeddings must be true or false, got None"),
        ({"quantization_config": {"bits": 4}}, "quantised checkpoints are not supported"),
        ({"hidden_size": 3000}, "hidden_size 3000 is not a multiple of num_attention_heads 32"),
        ({"num_key_value_heads": 5}, "num_attention_heads 32 is not a multiple of num_key_value_heads 5"),
        ({"head_dim": 288, "rope_scaling": None}, "head_dim 288 is more than 256, the most that the rotary op takes"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a positive integer, got 0"),
        ({"vocab_size": "many"}, "vocab_size must be a positive integer, got 'many'"),
        ({"rms_norm_eps": 0.0}, "rms_norm_eps must be a positive number"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps must be a positive number, got nan"),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps must be a positive number, got inf"),
        ({"head_dim": "96"}, "head_dim must be a positive integer, got '96'"),
        ({"head_dim": 0}, "head_dim must be a positive integer, got 0"),
        # Hugging Face takes no default for a null either.
        ({"rope_theta": None}, "rope_theta must be a number, got None"),
        ({"rope_theta": None, "rope_scaling": None}, "rope_theta must be a number, got None"),
        ({"partial_rotary_factor": None}, "partial_rotary_factor must be a number, got None"),
        ({"eos_token_id": "</s>"}, "eos_token_id must be an integer or a list"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        Architecture.from_hf_config(mini_128k(**changes))


@pytest.mark.parametrize("changes", [{"architectures": None}, {"model_type": None}, {"dtype": "float32", "torch_dtype": "float16"}])
def test_what_leaves_no_doubt_changes_nothing(changes):
    assert Architecture.from_hf_config(mini_128k(**changes)) == Architecture.from_hf_config(mini_128k())


def of(architecture, **changes):
    """The facts of a config with the keys of any architecture."""
    config = dict(
        architectures=[architecture], hidden_size=128, num_attention_heads=4, num_key_value_heads=4, num_hidden_layers=3,
        intermediate_size=96,
        vocab_size=32064, max_position_embeddings=4096,
    )  # fmt: skip
    return Architecture.from_hf_config({**config, **changes})


@pytest.mark.parametrize(
    "architecture, changes, windows",
    [
        ("LlamaForCausalLM", {"sliding_window": 64}, (None, None, None)),  # Hugging Face's Llama does not read it
        ("MistralForCausalLM", {}, (4096, 4096, 4096)),  # Hugging Face's default
        ("MistralForCausalLM", {"sliding_window": None}, (None, None, None)),
        ("Phi3ForCausalLM", {"sliding_window": 64}, (64, 64, 64)),
        ("Qwen2ForCausalLM", {"sliding_window": 64}, (None, None, None)),  # use_sliding_window is false
        ("Qwen2ForCausalLM", {"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 2}, (None, None, 64)),
        (
            "Qwen3ForCausalLM",
            {
                "sliding_window": 64, "use_sliding_window": True, "head_dim": 32,
                "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            },
            (None, 64, None),
        ),
    ],
)  # fmt: skip
def test_each_layer_has_the_window_that_hugging_face_gives_it(architecture, changes, windows):
    arch = of(architecture, **changes)
    assert arch.windows == windows
    assert arch.with_layers(2).windows == windows[:2]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"layer_types": ["full_attention"]}, "layer_types must be a list of 3 of full_attention, sliding_attention, got"),
        ({"layer_types": ["full_attention", "chunked_attention", "full_attention"]}, "layer_types must be a list of 3"),
        ({"layer_types": ["sliding_attention"] * 3}, "layer_types has sliding_attention, but sliding_window is null or"),
        ({"use_sliding_window": True, "max_window_layers": 0, "sliding_window": 0}, "sliding_window must be a positive"),
        ({"use_sliding_window": "no"}, "use_sliding_window must be true or false, got 'no'"),
        (
            {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": None},
            "max_window_layers must be an integer, got None",
        ),
    ],
)
def test_layer_types_that_are_not_known_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        of("Qwen2ForCausalLM", **changes)


def test_layer_types_that_hugging_face_does_not_read_are_noted():
    types = ["full_attention", "sliding_attention", "full_attention"]
    arch = of("MistralForCausalLM", sliding_window=64, layer_types=types)
    assert arch.windows == (64, 64, 64)
    assert arch.notes == ("config.json has layer_types, which MistralForCausalLM does not read: all its layers are alike",)


@pytest.mark.parametrize(
    "architecture, changes, parts",
    [
        ("LlamaForCausalLM", {}, []),
        ("LlamaForCausalLM", {"attention_bias": True}, ["qkv_bias", "output_bias"]),
        ("LlamaForCausalLM", {"mlp_bias": True}, ["mlp_bias"]),
        ("MistralForCausalLM", {"attention_bias": True}, []),  # Hugging Face's Mistral does not read it
        ("Qwen2ForCausalLM", {}, ["qkv_bias"]),
        ("Qwen3ForCausalLM", {"head_dim": 32}, ["qk_norm"]),
        ("Qwen3ForCausalLM", {"head_dim": 32, "attention_bias": True}, ["qkv_bias", "output_bias", "qk_norm"]),
    ],
)
def test_biases_and_head_norms_are_hugging_faces(architecture, changes, parts):
    arch = of(architecture, **changes)
    assert [part for part in ("qkv_bias", "output_bias", "mlp_bias", "qk_norm") if getattr(arch, part)] == parts


def test_a_bias_that_is_neither_true_nor_false_is_refused():
    with pytest.raises(ValueError, match="attention_bias must be true or false, got None"):
        of("LlamaForCausalLM", attention_bias=None)


def test_a_missing_head_dim_is_hugging_faces():
    assert of("LlamaForCausalLM").head_dim == 32
    assert of("Qwen3ForCausalLM").head_dim == 128


def test_a_missing_key_is_named():
    config = mini_128k()
    del config["vocab_size"]
    with pytest.raises(ValueError, match="config.json has no 'vocab_size'"):
        Architecture.from_hf_config(config)


@pytest.mark.parametrize("text", ["{", "[]", "\udcff", "[" * 100_000], ids=["open", "list", "not-utf-8", "nested"])
def test_a_config_that_is_not_a_json_object_is_named(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=f"{path} (is not valid JSON|must hold a JSON object)"):
        read_config(path)


def test_with_layers_keeps_the_first_layers_only():
    arch = Architecture.from_hf_config(mini_128k())
    assert arch.with_layers(2).n_layers == 2
    assert arch.with_layers(None) == arch.with_layers(32) == arch


@pytest.mark.parametrize("n_layers", [0, -1, 33])
def test_more_or_fewer_layers_than_there_are_is_an_error(n_layers):
    with pytest.raises(ValueError, match=f"num_layers {n_layers} is outside 1 to 32"):
        Architecture.from_hf_config(mini_128k()).with_layers(n_layers)
