"""Checkpoints in Meta's format: the same model as in Hugging Face's, in one file, split and repacked."""

import copy
import json
import os
from pathlib import Path

import pytest
import torch

from models.common.mesh import open_mesh
from models.tt_transformers.tt.checkpoints.formats import checkpoint_files, model_config
from models.tt_transformers.tt.checkpoints.identity import checkpoint_identity
from models.tt_transformers.tt.checkpoints.location import MODEL_PARAMS, in_environment, locate
from models.tt_transformers.tt.checkpoints.meta_files import MetaFiles
from models.tt_transformers.tt.checkpoints.state_dict import StateDict
from models.tt_transformers.tt.config.architecture import Architecture, read_config
from models.tt_transformers.tt.generator import Generator
from models.tt_transformers.tt.model_args import ModelArgs
from tests.support.meta_checkpoints import (
    EIGHT_PARTS,
    VOCAB_SIZE,
    meta_args,
    meta_weights,
    save_layout,
    save_meta,
    save_tiktoken,
)
from tests.support.model_args import MeshOf, change, environment  # noqa: F401
from tests.support.tiny_models import save_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model as Hugging Face loads it from `hugging_face(model)`."""
    return save_tiny("Llama", tmp_path_factory.mktemp("hugging-face"), **EIGHT_PARTS)


def hugging_face(model):
    return Path(model.config.name_or_path)


LAYOUTS = ("1 file", "2 files", "8 files", "8 files, Llama 2", "repacked")


@pytest.fixture(params=LAYOUTS)
def directory(request, tmp_path, model):
    return save_layout(tmp_path / "Llama-tiny", model, request.param)


@pytest.fixture
def one_file(tmp_path, model):
    return save_layout(tmp_path / "Llama-tiny", model, "1 file")


def state_dict_of(directory):
    return StateDict(directory, Architecture.from_hf_config(model_config(directory)))


def test_the_config_is_the_one_in_hugging_faces_format(directory, model):
    theirs = Architecture.from_hf_config(model_config(directory))
    ours = Architecture.from_hf_config(json.loads(model.config.to_json_string(use_diff=False)))
    differences = {name for name in vars(ours) if getattr(ours, name) != getattr(theirs, name)}
    # params.json has no context length, and the ids are Llama 3's.
    assert differences == {"max_context_len", "rope", "eos_token_ids"}
    assert theirs.rope.theta == ours.rope.theta


def test_every_weight_is_the_one_in_hugging_faces_format(directory, model):
    ours, theirs = state_dict_of(directory), state_dict_of(hugging_face(model))
    assert list(ours) == list(theirs)
    for name, weight in theirs.items():
        assert torch.equal(ours[name], weight), name


@pytest.mark.parametrize("rows", [(0, 1), (30, 99), (64, 65), (511, 512), (0, 512)])
def test_rows_are_read_across_the_parts(tmp_path, model, rows):
    files = MetaFiles(save_layout(tmp_path / "split", model, "8 files"))
    whole = meta_weights(model)
    for name in ("layers.1.attention.wq.weight", "layers.1.attention.wo.weight", "tok_embeddings.weight", "norm.weight"):
        assert torch.equal(files.read(name, *rows), whole[name][slice(*rows)]), name


def logits(**named):
    with open_mesh("N300") as mesh_device, Generator.build(ModelArgs(mesh_device, max_seq_len=64, **named)) as generator:
        return [generator.prefill([list(range(2, 40))]), generator.decode([7])]


@pytest.mark.whole
@pytest.mark.parametrize("layout", ["1 file", "8 files, Llama 2", "repacked"])
def test_logits_are_those_of_the_model_in_hugging_faces_format(tmp_path, model, layout):
    directory = save_layout(tmp_path / "Llama-tiny", model, layout)
    # Meta's format has Llama 3's ids and context; neither changes a logit.
    for ours, theirs in zip(logits(llama_dir=directory), logits(hf_model=hugging_face(model))):
        assert torch.equal(ours[0], theirs[0])
    assert list((directory / "N300").glob("*.tensorbin"))


def test_hugging_faces_model_of_the_directory_is_the_same(one_file, model):
    reference = meta_args(one_file).reference_transformer(torch.float32)
    tokens = torch.arange(2, 40)[None]
    assert torch.equal(reference(tokens).logits, copy.deepcopy(model).float()(tokens).logits)


@pytest.fixture
def tied(tmp_path):
    return save_tiny("Llama", tmp_path / "tied", tie_word_embeddings=True, **EIGHT_PARTS)


@pytest.mark.parametrize("stored", ["not at all", "as the same tensor", "as a copy"])
def test_an_output_that_is_the_embedding_means_tied_embeddings_and_llama_3_2s_rope(tmp_path, tied, stored):
    save_meta(tmp_path / "meta", tied, use_scaled_rope=True)
    weights = meta_weights(tied)
    embedding = weights["tok_embeddings.weight"]
    if stored != "not at all":
        weights["output.weight"] = embedding if stored == "as the same tensor" else embedding.clone()
    torch.save(weights, tmp_path / "meta/consolidated.00.pth")
    config = model_config(tmp_path / "meta")
    assert config["tie_word_embeddings"] is True
    assert config["rope_scaling"]["factor"] == 32


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, {"rope_theta": 10_000, "max_position_embeddings": 8192}),
        ({"rope_theta": 500_000.0, "use_scaled_rope": True}, {"rope_theta": 500_000, "max_position_embeddings": 131_072}),
        ({"vocab_size": -1}, {"vocab_size": VOCAB_SIZE}),
        ({"n_kv_heads": None}, {"num_key_value_heads": 16}),
        ({"ffn_dim_multiplier": 1.3, "multiple_of": 1024}, {"intermediate_size": 2048}),
        ({"max_seq_len": 2048, "max_batch_size": 32}, {"hidden_size": 512}),
    ],
)
def test_params_json_means_the_config(one_file, changes, expected):
    params = {**json.loads((one_file / "params.json").read_text()), **changes}
    (one_file / "params.json").write_text(json.dumps({key: value for key, value in params.items() if value is not None}))
    config = model_config(one_file)
    assert {key: config[key] for key in expected} == expected
    assert ("rope_scaling" in config) == ("use_scaled_rope" in changes)


def published(dim, n_heads, n_layers, multiplier, multiple):
    """`params.json` of a Llama 3.1 or 3.2 as Meta publishes it."""
    sizes = {"dim": dim, "n_heads": n_heads, "n_layers": n_layers, "ffn_dim_multiplier": multiplier, "multiple_of": multiple}
    return {**sizes, "n_kv_heads": 8, "norm_eps": 1e-5, "rope_theta": 500_000.0, "use_scaled_rope": True, "vocab_size": 128_256}


@pytest.mark.parametrize(
    "name, params",
    [
        ("Llama-3.1-8B", published(4096, 32, 32, 1.3, 1024)),
        ("Llama-3.1-70B", published(8192, 64, 80, 1.3, 4096)),
        ("Llama-3.2-1B", published(2048, 32, 16, 1.5, 256)),
        ("Llama-3.2-3B", published(3072, 24, 28, 1.0, 256)),
    ],
)
def test_params_json_of_a_published_model_means_its_config_json(tmp_path, name, params):
    theirs = read_config(MODEL_PARAMS / name / "config.json")
    weights = {"tok_embeddings.weight": torch.zeros(1, 1)}
    if not theirs["tie_word_embeddings"]:
        weights["output.weight"] = torch.ones(1, 1)
    torch.save(weights, tmp_path / "consolidated.00.pth")
    (tmp_path / "params.json").write_text(json.dumps(params))
    save_tiktoken(tmp_path, [rank.to_bytes(3) for rank in range(128_000)])
    ours = model_config(tmp_path)
    assert ours.pop("eos_token_id") == [128_001, 128_008, 128_009]  # Meta's for all; Hugging Face's for chat models
    assert theirs.items() >= ours.items()


@pytest.mark.parametrize(
    "dim, multiplier, multiple, size",
    [(4096, None, 256, 11_008), (8192, 1.3, 4096, 28_672)],
    ids=["Llama 2 7B", "Llama 2 70B"],
)
def test_the_width_of_the_mlp_follows_from_params_json(one_file, dim, multiplier, multiple, size):
    change(one_file / "params.json", dim=dim, ffn_dim_multiplier=multiplier, multiple_of=multiple)
    assert model_config(one_file)["intermediate_size"] == size


def test_the_first_layers_run_alone(directory):
    assert set(meta_args(directory, num_layers=1).load_state_dict()) < set(meta_args(directory).load_state_dict())


def test_layers_that_params_json_leaves_out_are_noted(one_file, warnings):
    change(one_file / "params.json", n_layers=1)
    assert meta_args(one_file).load_state_dict().n_layers == 2
    assert "the files have 2 layers; params.json says 1, which are used" in warnings[0]


# Identity of files


def test_a_change_of_any_tensor_changes_the_identity_and_a_copy_does_not(tmp_path, model):
    def identity(name, weights):
        directory = tmp_path / name
        save_meta(directory, model)
        torch.save(weights, directory / "consolidated.00.pth")
        os.utime(directory / "consolidated.00.pth", (1, 1))
        return checkpoint_identity(checkpoint_files(directory))

    weights = meta_weights(model)
    original = identity("original", weights)
    assert identity("copy", weights) == original
    for name in ("norm.weight", "layers.1.feed_forward.w2.weight"):
        assert identity("changed", {**weights, name: weights[name] + 1}) != original


def test_full_verification_passes_over_times(one_file, monkeypatch):
    monkeypatch.setenv("TT_CACHE_VERIFY", "full")
    before = checkpoint_identity(checkpoint_files(one_file))
    os.utime(one_file / "consolidated.00.pth", (1, 1))
    assert checkpoint_identity(checkpoint_files(one_file)) == before


# The choice of the model


def test_llama_dir_names_the_model_and_its_cache(one_file, monkeypatch):
    monkeypatch.setenv("LLAMA_DIR", str(one_file))
    assert locate(**in_environment()).cache_directory("N150", {}) == one_file / "N150"
    assert ModelArgs(MeshOf(1), max_seq_len=64).model_name == "Llama-tiny"


def test_hf_model_and_llama_dir_together_are_an_error(one_file, monkeypatch):
    monkeypatch.setenv("LLAMA_DIR", str(one_file))
    monkeypatch.setenv("HF_MODEL", "org/name")
    with pytest.raises(ValueError, match=f"HF_MODEL 'org/name' and LLAMA_DIR '{one_file}' are both set; unset one"):
        ModelArgs(MeshOf(1), max_seq_len=64)


def test_the_repacked_files_are_read_and_the_others_named(tmp_path, model, warnings):
    meta_args(save_layout(tmp_path / "Llama-tiny", model, "repacked"))
    assert "weights are read from layers_0-0.pth, layers_1-1.pth, not from consolidated.00.pth" in warnings[0]
