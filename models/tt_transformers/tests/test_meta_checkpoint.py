"""Checkpoints in Meta's format: the same model as in Hugging Face's, in one file, split and repacked; and bad ones."""

import copy
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from loguru import logger

from models.common.mesh import open_mesh
from models.tt_transformers.tools.repack_weights import repack
from models.tt_transformers.tt.checkpoints.formats import checkpoint_files, model_config
from models.tt_transformers.tt.checkpoints.identity import checkpoint_identity
from models.tt_transformers.tt.checkpoints.location import in_environment, locate
from models.tt_transformers.tt.checkpoints.meta_files import MetaFiles
from models.tt_transformers.tt.checkpoints.state_dict import StateDict
from models.tt_transformers.tt.config.architecture import Architecture
from models.tt_transformers.tt.generator import Generator
from models.tt_transformers.tt.model_args import ModelArgs
from tests.support.meta_checkpoints import VOCAB_SIZE, meta_weights, save_meta
from tests.support.model_args import MeshOf, change, environment  # noqa: F401
from tests.support.tiny_models import save_tiny

# Eight files can have a part of every head. The MLP has two thirds of 4 * 512, rounded up to `multiple_of`.
SIZES = dict(
    vocab_size=VOCAB_SIZE, hidden_size=512, intermediate_size=1536, num_attention_heads=16, num_key_value_heads=8
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model as Hugging Face loads it from `hugging_face(model)`."""
    return save_tiny("Llama", tmp_path_factory.mktemp("hugging-face"), **SIZES)


def hugging_face(model):
    return Path(model.config.name_or_path)


def save(directory, model, layout):
    """Writes `model` in Meta's format: in one file, split (as Llama 2 or Llama 3 does it), or split and repacked."""
    save_meta(directory, model, {"1 file": 1, "2 files": 2}.get(layout, 8), embedding_dim=int(layout == "8 files, Llama 2"))
    if layout == "repacked":
        repack(directory, directory, chunk_size=1)
    return directory


LAYOUTS = ("1 file", "2 files", "8 files", "8 files, Llama 2", "repacked")


@pytest.fixture(params=LAYOUTS)
def directory(request, tmp_path, model):
    return save(tmp_path / "Llama-tiny", model, request.param)


@pytest.fixture
def one_file(tmp_path, model):
    return save(tmp_path / "Llama-tiny", model, "1 file")


def state_dict_of(directory):
    return StateDict(directory, Architecture.from_hf_config(model_config(directory)))


def args_of(directory, **options):
    return ModelArgs(MeshOf(1), llama_dir=directory, max_seq_len=64, **options)


def test_the_config_is_the_one_in_hugging_faces_format(directory, model):
    theirs = Architecture.from_hf_config(model_config(directory))
    ours = Architecture.from_hf_config(json.loads(model.config.to_json_string(use_diff=False)))
    differences = {name for name in vars(ours) if getattr(ours, name) != getattr(theirs, name)}
    # params.json has no context length, and the ids are Llama 3's.
    assert differences == {"max_context_len", "rope", "bos_token_id", "eos_token_ids", "pad_token_id"}
    assert theirs.rope.theta == ours.rope.theta


def test_every_weight_is_the_one_in_hugging_faces_format(directory, model):
    ours, theirs = state_dict_of(directory), state_dict_of(hugging_face(model))
    assert list(ours) == list(theirs)
    for name, weight in theirs.items():
        assert torch.equal(ours[name], weight), name


@pytest.mark.parametrize("rows", [(0, 1), (30, 99), (64, 65), (511, 512), (0, 512)])
def test_rows_are_read_across_the_parts(tmp_path, model, rows):
    files = MetaFiles(save(tmp_path / "split", model, "8 files"))
    whole = meta_weights(model)
    for name in ("layers.1.attention.wq.weight", "layers.1.attention.wo.weight", "tok_embeddings.weight", "norm.weight"):
        assert torch.equal(files.read(name, *rows), whole[name][slice(*rows)]), name


def logits(**named):
    with open_mesh("N300") as mesh_device, Generator.build(ModelArgs(mesh_device, max_seq_len=64, **named)) as generator:
        return [generator.prefill([list(range(2, 40))]), generator.decode([7])]


@pytest.mark.whole
@pytest.mark.parametrize("layout", ["1 file", "8 files, Llama 2", "repacked"])
def test_logits_are_those_of_the_model_in_hugging_faces_format(tmp_path, model, layout):
    directory = save(tmp_path / "Llama-tiny", model, layout)
    # Meta's format has Llama 3's ids and context; neither changes a logit.
    for ours, theirs in zip(logits(llama_dir=directory), logits(hf_model=hugging_face(model))):
        assert torch.equal(ours[0], theirs[0])
    assert list((directory / "N300").glob("*.tensorbin"))


def test_hugging_faces_model_of_the_directory_is_the_same(one_file, model):
    reference = args_of(one_file).reference_transformer(torch.float32)
    tokens = torch.arange(2, 40)[None]
    assert torch.equal(reference(tokens).logits, copy.deepcopy(model).float()(tokens).logits)


@pytest.fixture
def tied(tmp_path):
    return save_tiny("Llama", tmp_path / "tied", tie_word_embeddings=True, **SIZES)


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


def test_published_sizes_of_the_mlp_follow_from_params_json(one_file):
    """params.json of Meta's Llama 2 7B, 2 70B, 3.1 8B, 3.2 1B and 3.2 3B; intermediate_size of their config.json."""
    for dim, multiplier, multiple, size in (
        (4096, None, 256, 11008),
        (8192, 1.3, 4096, 28672),
        (4096, 1.3, 1024, 14336),
        (2048, 1.5, 256, 8192),
        (3072, 1.0, 256, 8192),
    ):
        change(one_file / "params.json", dim=dim, ffn_dim_multiplier=multiplier, multiple_of=multiple)
        assert model_config(one_file)["intermediate_size"] == size


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


def test_the_repacked_files_are_read_and_the_others_named(tmp_path, model):
    directory = save(tmp_path / "Llama-tiny", model, "repacked")
    messages = []
    handler = logger.add(lambda message: messages.append(message.record["message"]))
    args_of(directory)
    logger.remove(handler)
    assert "weights are read from layers_0-0.pth, layers_1-1.pth, not from consolidated.00.pth" in messages[0]


# Bad input


def damage(directory, what):
    weights, file = directory / "consolidated.00.pth", directory / "params.json"
    if what == "a missing shard":
        (directory / "consolidated.01.pth").unlink()
    elif what == "the last shards":
        for rank in range(4, 8):
            (directory / f"consolidated.{rank:02}.pth").unlink()
    elif what == "truncated":
        os.truncate(weights, weights.stat().st_size - 100)
    elif what == "empty":
        weights.write_bytes(b"")
    elif what == "code":
        with zipfile.ZipFile(weights, "w") as archive:  # what torch.save would write
            archive.writestr("archive/data.pkl", pickle.dumps({"norm.weight": _RunsCode()}, protocol=2))
            archive.writestr("archive/byteorder", "little")
            archive.writestr("archive/version", "3\n")
    elif what == "no dictionary":
        torch.save([torch.ones(2)], weights)
    elif what == "of another model":
        torch.save({"norm.weight": torch.ones(2)}, weights)
    elif what == "no weights":
        for shard in directory.glob("*.pth"):
            shard.unlink()
    elif what == "no tokenizer":
        (directory / "tokenizer.model").unlink()
    elif what == "no params.json":
        file.unlink()
    elif what == "a config.json":
        (directory / "config.json").write_text("{}")
    else:
        change(file, **what)


class _RunsCode:
    def __reduce__(self):
        return (print, ("code was run",))


@pytest.mark.parametrize(
    "what, message",
    [
        ("a missing shard", "lacks consolidated.01.pth$"),
        ("the last shards", r"lacks consolidated.04.pth, .*07.pth: consolidated.00.pth holds one of 8 parts"),
        ("truncated", r"consolidated.00.pth is truncated or not a file of torch.save: \d+ bytes"),
        ("empty", "consolidated.00.pth is truncated"),
        ("code", "consolidated.00.pth is refused: its pickle holds more than tensors, such as code"),
        ("no dictionary", "consolidated.00.pth must hold a dictionary of tensors"),
        ("of another model", "hold different tensors: only one of them has"),
        ("no weights", "has no consolidated"),
        ("no tokenizer", "has no tokenizer.model; give a directory with params.json, tokenizer.model and consolidated"),
        ("no params.json", "has no params.json; give"),
        ("a config.json", "has Hugging Face's config.json besides Meta's params.json: move one of the two away, or set HF_MODEL"),
        ({"dim": 1024}, r"tok_embeddings.weight in .* has shape \[520, 512\]; params.json implies \[520, 1024\]"),
        ({"n_kv_heads": 4}, r"wk.weight in .* has shape \[256, 512\]; params.json implies \[128, 512\]"),
        ({"multiple_of": 1024}, r"w1.weight in .* has shape \[1536, 512\]; params.json implies \[2048, 512\]"),
        ({"vocab_size": 1024}, "tokenizer.model has 520 tokens; the model in .* has a vocabulary of 1024"),
        ({"n_layers": 3}, "lacks 9 tensors of the model: layers.2.attention_norm.weight"),
        ({"n_layers": "two"}, "n_layers must be a positive integer, got 'two'"),
        ({"norm_eps": 0}, "norm_eps must be a positive number, got 0"),
        ({"hidden_dim": 512}, "params.json: hidden_dim is not known; known are dim"),
        ({"moe_args": {"num_experts": 16}}, "moe_args is of a mixture of experts, which is not supported"),
        ({"vision_chunk_size": 448}, "vision_chunk_size is of a model with vision, which is not supported"),
        ({"quantization_args": {"group_size": 32}}, "quantization_args is of a quantised checkpoint"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else next(iter(value)),
)
def test_a_bad_directory_is_named_before_any_work(tmp_path, model, what, message, capfd):
    directory = save(tmp_path / "Llama-tiny", model, "8 files")
    damage(directory, what)
    before = sorted(directory.iterdir())
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        args_of(directory)
    assert sorted(directory.iterdir()) == before
    assert "code was run" not in capfd.readouterr().out


def test_a_replicated_tensor_that_differs_is_named_when_it_is_read(tmp_path, model):
    directory = save(tmp_path / "Llama-tiny", model, "2 files")
    shard = torch.load(directory / "consolidated.01.pth")
    shard["norm.weight"] += 1
    torch.save(shard, directory / "consolidated.01.pth")
    with pytest.raises(ValueError, match="norm.weight differs between the files of .*: they are of different models"):
        state_dict_of(directory)["norm.weight"]


def test_nan_is_named_when_its_tensor_is_read(one_file, model):
    weights = meta_weights(model)
    weights["layers.0.attention.wv.weight"][3, 3] = float("nan")
    torch.save(weights, one_file / "consolidated.00.pth")
    with pytest.raises(ValueError, match="layers.0.attention.wv.weight in .*consolidated.00.pth holds NaN"):
        state_dict_of(one_file)["layers.0.attention.wv.weight"]


def test_a_hugging_face_directory_as_llama_dir_is_named(model):
    with pytest.raises(ValueError, match="has Hugging Face's config.json: set HF_MODEL instead of LLAMA_DIR"):
        args_of(hugging_face(model))


@pytest.mark.parametrize("named", ["", "/nowhere", "~nobody-here/model"])
def test_a_llama_dir_that_is_no_directory_is_named(named):
    with pytest.raises(FileNotFoundError, match=f"LLAMA_DIR '{named}' is no directory; give a directory with params.json"):
        locate(llama_dir=named)


def test_a_missing_repacked_file_is_named(tmp_path, model):
    directory = save(tmp_path / "Llama-tiny", model, "repacked")
    shutil.move(directory / "layers_0-0.pth", tmp_path)
    with pytest.raises(FileNotFoundError, match="lacks the repacked layers 0-0, before layers_1-1.pth: repack"):
        args_of(directory)
