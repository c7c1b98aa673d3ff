"""`ModelArgs`: the facts of a run, and what is refused before any work."""

import json
import shutil
import subprocess
import sys
import textwrap

import pytest
from safetensors.torch import load_file

import models  # noqa: F401  (makes `import ttnn` resolve)
from models.common.mesh import open_mesh
from models.common.mesh_names import MESHES
from models.tt_transformers.tt.checkpoints import location as model_location
from models.tt_transformers.tt.checkpoints.location import BUNDLED, PROJECT, ModelLocation, locate
from models.tt_transformers.tt.checkpoints.state_dict import to_hugging_face
from models.tt_transformers.tt.config.precision import DecodersPrecision, ModelOptimizations
from models.tt_transformers.tt.model_args import ModelArgs
from models.tt_transformers.tt.runtime.page_table import PagedAttentionConfig
from tests.support.model_args import MeshOf, args_of, change, checkpoint, environment  # noqa: F401

MINI_128K = "microsoft/Phi-3-mini-128k-instruct"


def test_a_checkpoint_directory_gives_its_facts(checkpoint):
    args = args_of(checkpoint, num_devices=2)
    assert (args.model_name, args.model_dir, args.device_name, args.placement.num_devices) == ("tiny-phi3", checkpoint, "N300", 2)
    assert (args.arch.dim, args.max_seq_len, args.max_batch_size) == (128, 128, 1)
    assert args.precision.describe() == DecodersPrecision(2, ModelOptimizations.performance()).describe()


def test_hf_model_in_the_environment_is_the_default(checkpoint, monkeypatch):
    monkeypatch.setenv("HF_MODEL", str(checkpoint))
    assert ModelArgs(MeshOf(1), max_seq_len=128).model_dir == checkpoint


@pytest.mark.parametrize("dummy_weights", [False, True])
def test_num_layers_limits_weights_reference_and_precision_alike(checkpoint, dummy_weights):
    args = args_of(checkpoint, num_layers=1, dummy_weights=dummy_weights)
    assert len(args.reference_transformer().model.layers) == args.arch.n_layers == args.precision.num_decoders == 1
    assert not any(name.startswith("layers.1.") for name in args.load_state_dict())


def test_layers_that_the_config_leaves_out_are_noted(checkpoint):
    assert args_of(checkpoint, num_layers=1).notes == []
    change(checkpoint / "config.json", num_hidden_layers=1)
    assert args_of(checkpoint).notes == ["the files have 2 layers; config.json says 1, which are used"]


def test_more_layers_than_the_files_have_are_refused(checkpoint):
    change(checkpoint / "config.json", num_hidden_layers=3)
    with pytest.raises(ValueError, match="lacks 6 tensors of the model: model.layers.2"):
        args_of(checkpoint)


def test_full_size_facts_come_with_dummy_weights_and_no_download():
    for num_devices in (1, 2, 8):
        args = ModelArgs(MeshOf(num_devices), hf_model=MINI_128K, dummy_weights=True, max_seq_len=131072)
        assert (args.arch.dim, args.arch.n_layers, args.model_name) == (3072, 32, "Phi-3-mini-128k-instruct")


def test_dummy_weights_for_a_mesh_without_values_have_none():
    mesh_device = MeshOf(1)
    mesh_device.shape_only = True
    state_dict = ModelArgs(mesh_device, hf_model=MINI_128K, dummy_weights=True).load_state_dict()
    assert all(weight.is_meta for weight in state_dict.values()) and len(state_dict) == 32 * 9 + 3


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
    assert (args.arch.n_heads, args.arch.head_dim, args.arch.rope.recompute_len) == (8, 96, 513)
    assert set(to_hugging_face(args.load_state_dict(), args.arch)) == set(load_file(BUNDLED / "model.safetensors"))


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


def test_weights_are_cached_beside_the_checkpoint_and_dummy_weights_only_where_the_user_says(checkpoint, monkeypatch, tmp_path):
    assert args_of(checkpoint).weight_cache.directory == checkpoint / "N150"
    assert args_of(checkpoint, dummy_weights=True).weight_cache.directory is None
    monkeypatch.setenv("TT_CACHE_PATH", str(tmp_path / "cache"))
    assert args_of(checkpoint).weight_cache.directory == tmp_path / "cache/tiny-phi3/N150"
    assert args_of(checkpoint, dummy_weights=True).weight_cache.directory == tmp_path / "cache/tiny-phi3/N150/random"


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
    with pytest.raises(FileNotFoundError, match="Meta's params.json: set LLAMA_DIR instead of HF_MODEL"):
        args_of(tmp_path)


def test_an_empty_cache_path_is_refused_at_once(checkpoint, monkeypatch):
    monkeypatch.setenv("TT_CACHE_PATH", "")
    with pytest.raises(ValueError, match="TT_CACHE_PATH is empty: unset it or give a directory"):
        args_of(checkpoint)


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


def test_more_kv_heads_than_a_device_takes_are_refused_with_the_meshes_that_work(checkpoint):
    change(checkpoint / "config.json", num_attention_heads=40, num_key_value_heads=40, head_dim=32)
    assert args_of(checkpoint, num_devices=2, dummy_weights=True).device_name == "N300"
    with pytest.raises(ValueError, match="40 KV heads are 40 on each device of N150.*meshes that work: N300, T3K"):
        args_of(checkpoint, dummy_weights=True)


@pytest.mark.parametrize("cores, num_devices, width", [(None, 1, 192), (None, 2, 96), ("8", 1, 256), ("8", 2, 256), ("64", 1, 2048)])
def test_pad_mlp_cores_pads_a_devices_hidden_columns(checkpoint, monkeypatch, cores, num_devices, width):
    if cores is not None:
        monkeypatch.setenv("PAD_MLP_CORES", cores)
    assert args_of(checkpoint, num_devices=num_devices).mlp_width == width


@pytest.mark.parametrize("cores", ["", "0", "12", "72", "8.0", "many"])
def test_pad_mlp_cores_that_is_no_multiple_of_8_up_to_64_is_refused(checkpoint, monkeypatch, cores):
    monkeypatch.setenv("PAD_MLP_CORES", cores)
    with pytest.raises(ValueError, match=f"PAD_MLP_CORES='{cores}' is not accepted: a number of cores, one of 8, 16, .*, 64$"):
        args_of(checkpoint)


def test_page_params_make_the_cache_paged(checkpoint):
    args = args_of(checkpoint, page_params={"block_size": 32, "max_num_blocks": 1024})
    assert args.paged_attention_config == PagedAttentionConfig(block_size=32, max_num_blocks=1024)
    assert args_of(checkpoint).paged_attention_config is None


@pytest.mark.parametrize("name", MESHES)
def test_every_mesh_has_its_name_from_its_shape_and_chip_and_weights_of_its_own(checkpoint, monkeypatch, name):
    monkeypatch.delenv("TT_CACHE_PATH", raising=False)
    with open_mesh(name) as mesh_device:
        args = ModelArgs(
            mesh_device, hf_model=checkpoint, max_seq_len=128, page_params={"block_size": 32, "max_num_blocks": 64}
        )
    assert args.device_name == name and args.weight_cache.directory == checkpoint / name
