import json
import shutil
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models as tokenizer_models, pre_tokenizers
from transformers import AutoConfig, PreTrainedTokenizerFast

import models  # noqa: F401  (makes `import ttnn` resolve)
from models.tt_transformers.tt.checkpoints import location as model_location
from models.tt_transformers.tt.checkpoints.location import BUNDLED, PROJECT, ModelLocation, locate
from models.tt_transformers.tt.checkpoints.state_dict import to_hugging_face
from models.tt_transformers.tt.config.precision import DecodersPrecision, ModelOptimizations
from models.tt_transformers.tt.model_args import ModelArgs
from models.tt_transformers.tt.runtime.page_table import PagedAttentionConfig
from tests.support.tiny_phi3 import save_tiny_phi3

MINI_128K = "microsoft/Phi-3-mini-128k-instruct"
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class MeshOf:
    """The part of a mesh device that `ModelArgs` uses; nothing is computed here."""

    def __init__(self, num_devices):
        self.shape = (1, num_devices)

    def get_num_devices(self):
        return self.shape[1]

    def compute_with_storage_grid_size(self):
        return SimpleNamespace(x=8, y=8)

    def dram_grid_size(self):
        return SimpleNamespace(x=12, y=1)


def save_tokenizer(directory, chat_template=None):
    """A byte-level tokenizer: one token per byte, then the special tokens."""
    special = ["<|end|>", "<|user|>", "<|assistant|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(alphabet)}
    tokenizer = Tokenizer(tokenizer_models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    fast.chat_template = chat_template
    fast.save_pretrained(directory)
    return {token: fast.convert_tokens_to_ids(token) for token in special}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for variable in ("HF_MODEL", "TT_CACHE_PATH", "MAX_PREFILL_CHUNK_SIZE"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def checkpoint(tmp_path):
    directory = tmp_path / "tiny-phi3"
    save_tiny_phi3(directory)
    save_tokenizer(directory, CHAT_TEMPLATE)
    return directory


def args_of(directory, *, num_devices=1, max_seq_len=128, **options):
    return ModelArgs(MeshOf(num_devices), hf_model=directory, max_seq_len=max_seq_len, **options)


def test_a_checkpoint_directory_gives_its_facts(checkpoint):
    args = args_of(checkpoint, num_devices=2)
    assert (args.model_name, args.model_dir, args.device_name, args.placement.num_devices) == ("tiny-phi3", checkpoint, "N300", 2)
    assert (args.arch.dim, args.max_seq_len, args.max_batch_size) == (128, 128, 1)
    assert args.precision.describe() == DecodersPrecision(2, ModelOptimizations.performance()).describe()


def test_hf_model_in_the_environment_is_the_default(checkpoint, monkeypatch):
    monkeypatch.setenv("HF_MODEL", str(checkpoint))
    assert ModelArgs(MeshOf(1), max_seq_len=128).model_dir == checkpoint


def test_state_dict_and_reference_transformer_hold_the_same_weights(checkpoint):
    args = args_of(checkpoint)
    reference = args.reference_transformer().state_dict()
    weights = to_hugging_face(args.load_state_dict(), args.arch)
    assert set(weights) == set(reference)
    assert all(torch.equal(weight, reference[name]) for name, weight in weights.items())


@pytest.mark.parametrize("dummy_weights", [False, True])
def test_num_layers_limits_weights_reference_and_precision_alike(checkpoint, dummy_weights):
    args = args_of(checkpoint, num_layers=1, dummy_weights=dummy_weights)
    assert len(args.reference_transformer().model.layers) == args.arch.n_layers == args.precision.num_decoders == 1
    assert not any(name.startswith("layers.1.") for name in args.load_state_dict())


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
        assert torch.equal(rotary.inv_freq, args_of(checkpoint).arch.rope.inv_freq(long=False))


def test_the_reference_is_kept_only_with_cache_hf(checkpoint):
    kept, loaded = args_of(checkpoint, cache_hf=True), args_of(checkpoint)
    assert kept.reference_transformer() is kept.reference_transformer()
    assert kept.reference_transformer(torch.float32).dtype == torch.float32
    assert loaded.reference_transformer() is not loaded.reference_transformer()


def change(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


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


def test_a_sliding_window_is_accepted_while_nothing_slides(checkpoint):
    change(checkpoint / "config.json", sliding_window=128)
    assert args_of(checkpoint, max_seq_len=128).arch.sliding_window == 128
    with pytest.raises(ValueError, match="max_seq_len 129 is more than tiny-phi3's sliding_window 128"):
        args_of(checkpoint, max_seq_len=129)


def test_layers_that_the_config_leaves_out_are_noted(checkpoint):
    assert args_of(checkpoint, num_layers=1).notes == []
    change(checkpoint / "config.json", num_hidden_layers=1)
    assert args_of(checkpoint).notes == ["the files have 2 layers; config.json says 1, which are used"]


def test_more_layers_than_the_files_have_are_refused(checkpoint):
    change(checkpoint / "config.json", num_hidden_layers=3)
    with pytest.raises(ValueError, match="lacks 6 tensors of the model: model.layers.2"):
        args_of(checkpoint)


@pytest.mark.parametrize(
    "template, reason",
    [
        ("{{ raise_exception('System role not supported') }}", "TemplateError: System role not supported"),
        ("{% for m in messages %}{{ m['content'] }", "TemplateSyntaxError: "),
        ("{{ messages[7].content.strip() }}", "UndefinedError: "),
        ("{{ 1 / 0 }}", "ZeroDivisionError: "),
        ("{{ messages + 1 }}", "TypeError: "),
        ("{# no text #}", "ValueError: it gives no text"),
    ],
)
@pytest.mark.parametrize("own_file", [False, True], ids=["tokenizer_config", "jinja"])
def test_a_chat_template_that_fails_is_named_with_its_file_in_one_line(checkpoint, template, reason, own_file):
    (checkpoint / "chat_template.jinja").unlink(missing_ok=True)
    if own_file:
        (checkpoint / "chat_template.jinja").write_text(template)
    else:
        change(checkpoint / "tokenizer_config.json", chat_template=template)
    name = "chat_template.jinja" if own_file else "tokenizer_config.json"
    with pytest.raises(ValueError, match=f"the chat template in {checkpoint}/{name} cannot be applied: {reason}") as error:
        args_of(checkpoint, instruct=True).encode_prompt("Hello")
    assert "\n" not in str(error.value)


def test_a_text_that_the_tokenizer_cannot_encode_is_said_with_its_directory(checkpoint):
    with pytest.raises(ValueError, match=f"the tokenizer in {checkpoint} cannot encode a text"):
        args_of(checkpoint).encode_prompt("\ud83d", instruct=False)


def test_full_size_facts_come_with_dummy_weights_and_no_download():
    for num_devices in (1, 2, 8):
        args = ModelArgs(MeshOf(num_devices), hf_model=MINI_128K, dummy_weights=True, max_seq_len=131072)
        assert (args.arch.dim, args.arch.n_layers, args.model_name) == (3072, 32, "Phi-3-mini-128k-instruct")


def test_dummy_weights_for_a_mesh_without_values_have_none():
    mesh_device = MeshOf(1)
    mesh_device.shape_only = True
    state_dict = ModelArgs(mesh_device, hf_model=MINI_128K, dummy_weights=True).load_state_dict()
    assert all(weight.is_meta for weight in state_dict.values()) and len(state_dict) == 32 * 9 + 3


def test_a_random_model_without_tokenizer_uses_the_bundled_one_and_says_so():
    args = ModelArgs(MeshOf(1), hf_model=MINI_128K, dummy_weights=True)
    assert args.text.tokenizer_is_stand_in and args.text.tokenizer_dir == BUNDLED
    assert args.decode(args.encode_prompt("In the beginning")) == "In the beginning"


def test_a_random_model_whose_vocabulary_is_smaller_than_the_stand_in_is_refused(checkpoint):
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="the bundled one has 4096 tokens, more than the model's vocabulary of 320"):
        args_of(checkpoint, dummy_weights=True).encode_prompt("hi")


def test_a_config_alone_is_enough_for_dummy_weights(checkpoint, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    config = json.loads((checkpoint / "config.json").read_text())
    (bare / "config.json").write_text(json.dumps({**config, "vocab_size": 4096}))
    args = args_of(bare, dummy_weights=True)
    assert args.load_state_dict()["output.weight"].shape == (4096, 128)
    assert args.reference_transformer().lm_head.weight.shape == (4096, 128)


def test_the_bundled_checkpoint_is_the_default():
    args = ModelArgs(MeshOf(1))
    assert args.model_dir == BUNDLED and not args.text.tokenizer_is_stand_in
    assert (args.arch.n_heads, args.arch.head_dim, args.arch.rope.switch_len) == (8, 96, 512)
    assert set(to_hugging_face(args.load_state_dict(), args.arch)) == set(load_file(BUNDLED / "model.safetensors"))


def test_prompts_go_through_the_chat_template_only_with_instruct(checkpoint):
    ids = {token: args_of(checkpoint).tokenizer.convert_tokens_to_ids(token) for token in ("<|user|>", "<|assistant|>")}
    plain, instruct = args_of(checkpoint), args_of(checkpoint, instruct=True)
    assert plain.decode(plain.encode_prompt("héllo")) == "héllo"
    tokens = instruct.encode_prompt("hi")
    assert tokens[0] == ids["<|user|>"] and tokens[-1] == ids["<|assistant|>"]
    assert tokens[1:3] == plain.encode_prompt("hi") == instruct.encode_prompt("hi", instruct=False)


def test_instruct_without_a_chat_template_is_an_error(checkpoint):
    save_tokenizer(checkpoint)
    (checkpoint / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="instruct: .* has no chat template"):
        args_of(checkpoint, instruct=True)
    with pytest.raises(ValueError, match="instruct: .* has no chat template"):
        args_of(checkpoint).encode_prompt("hi", instruct=True)


def test_texts_end_at_the_stop_tokens_of_config_generation_config_and_tokenizer(checkpoint):
    (checkpoint / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    args = args_of(checkpoint)
    assert args.stop_token_ids == {2, 7, 9, args.tokenizer.convert_tokens_to_ids("<|end|>")}


@pytest.mark.parametrize(
    "options, mode",
    [
        ({}, ModelOptimizations.performance()),
        ({"optimizations": "accuracy"}, ModelOptimizations.accuracy()),
        ({"optimizations_base": "accuracy"}, ModelOptimizations.accuracy()),
        ({"optimizations": ModelOptimizations.bf16()}, ModelOptimizations.bf16()),
        ({"optimizations": DecodersPrecision(2, ModelOptimizations.bf16())}, ModelOptimizations.bf16()),
    ],
)
def test_precision_may_be_a_name_a_mode_or_complete(checkpoint, options, mode):
    assert args_of(checkpoint, **options).precision.layer(1) == mode.layer


def test_cache_location_follows_the_rules(tmp_path):
    in_directory = ModelLocation("name", tmp_path)
    by_name = ModelLocation("name", tmp_path, hub_name="org/name")
    assert in_directory.cache_directory("N150", {}) == tmp_path / "N150"
    assert by_name.cache_directory("T3K", {}) == PROJECT / "model_cache/org/name/T3K"
    for location in (in_directory, by_name):
        assert location.cache_directory("N300", {"TT_CACHE_PATH": "/cache"}).as_posix() == "/cache/name/N300"
    with pytest.raises(ValueError, match="TT_CACHE_PATH is empty"):
        in_directory.cache_directory("N150", {"TT_CACHE_PATH": ""})
    with pytest.raises(ValueError, match="TT_CACHE_PATH '~nobody-here/cache': there is no such user's home"):
        in_directory.cache_directory("N150", {"TT_CACHE_PATH": "~nobody-here/cache"})


def test_weights_are_cached_beside_the_checkpoint_and_dummy_weights_nowhere(checkpoint, monkeypatch, tmp_path):
    assert args_of(checkpoint).weight_cache.directory == checkpoint / "N150"
    assert args_of(checkpoint, dummy_weights=True).weight_cache.directory is None
    monkeypatch.setenv("TT_CACHE_PATH", str(tmp_path / "cache"))
    assert args_of(checkpoint).weight_cache.directory == tmp_path / "cache/tiny-phi3/N150"


def test_a_directory_in_the_hubs_cache_is_named_by_its_model(checkpoint, tmp_path):
    snapshot = tmp_path / f"models--microsoft--Phi-3-mini-128k-instruct/snapshots/{'0' * 40}"
    shutil.copytree(checkpoint, snapshot)
    assert locate(snapshot).name == "Phi-3-mini-128k-instruct"


@pytest.mark.parametrize(
    "hf_model, message",
    [
        ("", "HF_MODEL is empty"),
        ("/nowhere/model", "HF_MODEL '/nowhere/model' is not there; give a directory with a config.json, or org/name"),
        ("no-such-model", "HF_MODEL 'no-such-model' is not there"),
        ("~nobody-here/model", "HF_MODEL '~nobody-here/model' is not there"),
        ("/" + "n" * 300, "HF_MODEL '/nnn.*' is not there"),
        (__file__, "is a file; give the directory"),
    ],
)
def test_a_model_that_is_not_there_is_named(hf_model, message):
    with pytest.raises(FileNotFoundError, match=message):
        args_of(hf_model)


def test_a_directory_that_is_no_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}' is not a Hugging Face model: it has no config.json$"):
        args_of(tmp_path)
    (tmp_path / "params.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="Meta's params.json, a format that is not supported"):
        args_of(tmp_path)


def test_a_directory_without_tokenizer_is_an_error(checkpoint):
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match="has no tokenizer.json or tokenizer.model"):
        args_of(checkpoint).encode_prompt("hi")


def test_a_tokenizer_that_cannot_be_read_is_named(checkpoint):
    (checkpoint / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(ValueError, match=f"the tokenizer in {checkpoint} cannot be read"):
        args_of(checkpoint).encode_prompt("hi")


def test_stop_tokens_that_are_no_token_ids_are_refused_at_once(checkpoint):
    (checkpoint / "generation_config.json").write_text('{"eos_token_id": "</s>"}')
    with pytest.raises(ValueError, match="generation_config.json: eos_token_id must be an integer or a list"):
        args_of(checkpoint)


def test_an_empty_cache_path_is_refused_at_once(checkpoint, monkeypatch):
    monkeypatch.setenv("TT_CACHE_PATH", "")
    with pytest.raises(ValueError, match="TT_CACHE_PATH is empty: unset it or give a directory"):
        args_of(checkpoint)


def test_a_mesh_of_two_dimensions_is_refused_at_once(checkpoint):
    mesh = MeshOf(2)
    mesh.shape = (2, 1)
    mesh.get_num_devices = lambda: 2
    with pytest.raises(ValueError, match="mesh 2x1: tensor parallel runs on 1xN meshes"):
        ModelArgs(mesh, hf_model=checkpoint, max_seq_len=128)


def test_a_directory_without_weights_is_an_error_before_they_are_needed(checkpoint):
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="has neither model.safetensors nor"):
        args_of(checkpoint)


def test_a_model_given_by_name_is_checked_before_its_weights_are_downloaded(checkpoint, monkeypatch):
    downloads = []

    def download(hub_name, patterns):
        downloads.append((hub_name, "model*.safetensors" in patterns))
        return checkpoint

    monkeypatch.setattr(model_location, "download", download)
    args = args_of("org/name")
    assert downloads == [("org/name", False)] and args.model_name == "name"
    args.load_state_dict(), args.load_state_dict()
    assert downloads == [("org/name", False), ("org/name", True)]


@pytest.mark.parametrize("network", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}], ids=str)
def test_a_name_without_network_says_what_to_do(tmp_path, network):
    script = """
        from models.tt_transformers.tt.checkpoints.location import locate
        try:
            locate("some-org/some-model")
        except RuntimeError as error:
            print(error)
    """
    offline = {**network, "HF_HOME": str(tmp_path), "PYTHONPATH": str(PROJECT), "PATH": ""}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    output = subprocess.run(command, env=offline, cwd=PROJECT, check=True, capture_output=True, text=True).stdout
    assert "'some-org/some-model' is not a directory here and could not be downloaded" in output
    assert "Without a network, set HF_MODEL to a directory" in output


@pytest.mark.parametrize(
    "options, message",
    [
        ({"max_seq_len": 257}, "max_seq_len 257 is outside 1 to 256, the context of tiny-phi3"),
        ({"max_seq_len": 0}, "max_seq_len 0 is outside 1 to 256"),
        ({"max_batch_size": 3}, "max_batch_size 3 is not supported; supported are 1, 2, 4, 8, 16, 32"),
        ({"num_layers": 3}, "num_layers 3 is outside 1 to 2"),
        ({"num_devices": 8}, r"hidden_size 128 .* cannot be split over 8 devices; meshes that work: N150 \(1\), N300 \(2\)$"),
        ({"optimizations": "fast"}, "cannot read 'fast'"),
        ({"optimizations": ""}, "optimizations"),
        ({"optimizations": DecodersPrecision(3, ModelOptimizations.bf16())}, "are for 3 decoders, the model has 2"),
        ({"page_params": {"block_size": 32}}, "must have exactly the keys block_size and max_num_blocks"),
        ({"page_params": {"block_size": 33, "max_num_blocks": 4}}, "block_size 33 is not supported; supported are 32"),
        ({"page_params": {"block_size": 32, "max_num_blocks": 0}}, "max_num_blocks must be a positive integer, got 0"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(checkpoint, options, message):
    with pytest.raises(ValueError, match=message):
        args_of(checkpoint, **options)


def test_the_prefill_chunk_size_is_the_environments_or_the_models(checkpoint, monkeypatch):
    page_params = {"block_size": 32, "max_num_blocks": 64}
    mini = ModelArgs(MeshOf(1), hf_model=MINI_128K, dummy_weights=True, page_params=page_params)
    assert (mini.prefill_chunk_size, args_of(checkpoint).prefill_chunk_size) == (1024, None)
    monkeypatch.setenv("MAX_PREFILL_CHUNK_SIZE", "8")
    assert args_of(checkpoint).prefill_chunk_size == 8192


def test_page_params_make_the_cache_paged(checkpoint):
    args = args_of(checkpoint, page_params={"block_size": 32, "max_num_blocks": 1024})
    assert args.paged_attention_config == PagedAttentionConfig(block_size=32, max_num_blocks=1024)
    assert args_of(checkpoint).paged_attention_config is None
