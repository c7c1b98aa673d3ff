"""Checkpoints in Meta's format that cannot run: each is named before any work, and nothing is written."""

import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch

from models.tt_transformers.tt.checkpoints.location import locate
from tests.support.meta_checkpoints import EIGHT_PARTS, meta_args, meta_weights, save_layout
from tests.support.model_args import change, environment  # noqa: F401
from tests.support.tiny_models import save_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny("Llama", tmp_path_factory.mktemp("hugging-face"), **EIGHT_PARTS)


def damage(directory, what):
    weights, file = directory / "consolidated.00.pth", directory / "params.json"
    if what == "a missing shard":
        (directory / "consolidated.01.pth").unlink()
    elif what == "the last shards":
        for rank in range(4, 8):
            (directory / f"consolidated.{rank:02}.pth").unlink()
    elif what == "truncated":
        os.truncate(weights, weights.stat().st_size - 100)
    elif what == "a hole":
        content = weights.read_bytes()
        weights.write_bytes(content[:500_000] + content[600_000:])
    elif what == "empty":
        weights.write_bytes(b"")
    elif what == "code":
        with zipfile.ZipFile(weights, "w") as archive:  # what torch.save would write
            archive.writestr("archive/data.pkl", pickle.dumps({"norm.weight": _RunsCode()}, protocol=2))
            archive.writestr("archive/byteorder", "little")
            archive.writestr("archive/version", "3\n")
    elif what == "no dictionary":
        torch.save([torch.ones(2)], weights)
    elif what == "quantised":
        for shard in directory.glob("*.pth"):
            torch.save({name: weight.to(torch.int8) for name, weight in torch.load(shard).items()}, shard)
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
        ("truncated", r"consolidated.00.pth is truncated or not a file of torch.save: it has \d+ bytes and no zip directory"),
        ("a hole", "consolidated.00.pth cannot be read: ValueError: it has 100000 bytes too few before its zip directory"),
        ("empty", "consolidated.00.pth is truncated"),
        ("code", "consolidated.00.pth is refused: its pickle holds more than tensors, such as code"),
        ("no dictionary", "consolidated.00.pth must hold a dictionary of tensors"),
        ("quantised", "has dtype torch.int8; supported are BF16, F16, F32"),
        ("of another model", "hold different tensors: only one of them has"),
        ("no weights", "has no consolidated"),
        ("no tokenizer", "has no tokenizer.model; give a directory with params.json, tokenizer.model and consolidated"),
        ("no params.json", "has no params.json; give"),
        ("a config.json", "has Hugging Face's config.json besides Meta's params.json: move one of the two away, or set HF_MODEL"),
        ({"dim": 1024}, r"tok_embeddings.weight in .* has shape \[520, 512\]; params.json implies \[520, 1024\]"),
        ({"n_kv_heads": 4}, r"wk.weight in .* has shape \[256, 512\]; params.json implies \[128, 512\]"),
        ({"multiple_of": 1024}, r"w1.weight in .* has shape \[1536, 512\]; params.json implies \[2048, 512\]"),
        ({"vocab_size": 1024}, "tokenizer.model has 520 tokens; the model beside it has a vocabulary of 1024"),
        ({"n_layers": 3}, "lacks 9 tensors of the model: layers.2.attention_norm.weight"),
        ({"n_layers": "two"}, "n_layers must be a positive integer, got 'two'"),
        ({"norm_eps": 0}, "norm_eps must be a positive number, got 0"),
        ({"hidden_dim": 512}, "params.json: hidden_dim is not known; known are dim"),
        ({"moe_args": {"num_experts": 16}}, "moe_args is of a mixture of experts, which is not supported"),
        ({"vision_chunk_size": 448}, "vision_max_num_chunks must be a positive integer, got None"),
        ({"quantization_args": {"group_size": 32}}, "quantization_args is of a quantised checkpoint"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else next(iter(value)),
)
def test_a_bad_directory_is_named_before_any_work(tmp_path, model, what, message, capfd):
    directory = save_layout(tmp_path / "Llama-tiny", model, "8 files")
    damage(directory, what)
    before = sorted(directory.iterdir())
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        meta_args(directory)
    assert sorted(directory.iterdir()) == before
    assert "code was run" not in capfd.readouterr().out


def test_a_replicated_tensor_that_differs_is_named_when_it_is_read(tmp_path, model):
    directory = save_layout(tmp_path / "Llama-tiny", model, "2 files")
    shard = torch.load(directory / "consolidated.01.pth")
    shard["norm.weight"] += 1
    torch.save(shard, directory / "consolidated.01.pth")
    with pytest.raises(ValueError, match="norm.weight differs between the files of .*: they are of different models"):
        meta_args(directory).load_state_dict()["norm.weight"]


def test_nan_is_named_when_its_tensor_is_read(tmp_path, model):
    directory = save_layout(tmp_path / "Llama-tiny", model, "1 file")
    weights = meta_weights(model)
    weights["layers.0.attention.wv.weight"][3, 3] = float("nan")
    torch.save(weights, directory / "consolidated.00.pth")
    with pytest.raises(ValueError, match="layers.0.attention.wv.weight in .*consolidated.00.pth holds NaN"):
        meta_args(directory).load_state_dict()["layers.0.attention.wv.weight"]


def test_a_hugging_face_directory_as_llama_dir_is_named(model):
    with pytest.raises(ValueError, match="has Hugging Face's config.json: set HF_MODEL instead of LLAMA_DIR"):
        meta_args(Path(model.config.name_or_path))


@pytest.mark.parametrize("named", ["", "/nowhere", "~nobody-here/model"])
def test_a_llama_dir_that_is_no_directory_is_named(named):
    with pytest.raises(FileNotFoundError, match=f"LLAMA_DIR '{named}' is no directory; give a directory with params.json"):
        locate(llama_dir=named)


def test_a_missing_repacked_file_is_named(tmp_path, model):
    directory = save_layout(tmp_path / "Llama-tiny", model, "repacked")
    shutil.move(directory / "layers_0-0.pth", tmp_path)
    with pytest.raises(FileNotFoundError, match="lacks the repacked layers 0-0, before layers_1-1.pth: repack"):
        meta_args(directory)
