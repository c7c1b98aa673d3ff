"""The files that are read are those that Hugging Face reads, and a choice between two is never silent."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Phi3ForCausalLM

from models.tt_transformers.tt.checkpoints.state_dict import StateDict
from models.tt_transformers.tt.config.architecture import Architecture, read_config
from tests.support.tiny_phi3 import save_tiny_phi3

SHARD = "model-00001-of-00001.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def directory(tmp_path):
    save_tiny_phi3(tmp_path)
    return tmp_path


def load(directory):
    return StateDict(directory, Architecture.from_hf_config(read_config(directory / "config.json")))


def assert_reads_what_hugging_face_reads(directory):
    reference = Phi3ForCausalLM.from_pretrained(directory, dtype=torch.bfloat16)
    state_dict = load(directory)
    assert torch.equal(state_dict["output.weight"], reference.lm_head.weight)
    return state_dict


def other_tensors(directory):
    return {name: tensor + 1 for name, tensor in load_file(directory / "model.safetensors").items()}


def write_index(directory, files):
    (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))


def set_in_config(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("shards", ["there", "missing"])
def test_the_single_file_comes_before_an_index_of_others(directory, shards):
    tensors = other_tensors(directory)
    write_index(directory, dict.fromkeys(tensors, SHARD))
    if shards == "there":
        save_file(tensors, directory / SHARD, metadata={"format": "pt"})
    state_dict = assert_reads_what_hugging_face_reads(directory)
    (note,) = state_dict.notes
    assert note.startswith("weights are read from model.safetensors, not from ") and INDEX in note


@pytest.mark.parametrize(
    "name",
    ["model.fp16.safetensors", "pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "consolidated.safetensors",
     "consolidated.00.pth", "model-q4.gguf"],
)  # fmt: skip
def test_other_weights_beside_the_file_are_not_read_and_named(directory, name):
    save_file(other_tensors(directory), directory / name, metadata={"format": "pt"})
    state_dict = assert_reads_what_hugging_face_reads(directory)
    assert state_dict.notes == [f"weights are read from model.safetensors, not from {name}"]


def test_files_that_hold_no_weights_need_no_note(directory):
    for name in ("training_args.bin", "optimizer.pt", "tokenizer.json", "generation_config.json"):
        (directory / name).write_text("{}")
    assert load(directory).notes == []


def test_shards_alone_need_no_note(tmp_path):
    save_tiny_phi3(tmp_path, max_shard_size="100KB")
    assert assert_reads_what_hugging_face_reads(tmp_path).notes == []


def test_a_file_named_in_the_config_comes_first(directory):
    save_file(other_tensors(directory), directory / "best.safetensors", metadata={"format": "pt"})
    set_in_config(directory, transformers_weights="best.safetensors")
    state_dict = assert_reads_what_hugging_face_reads(directory)
    assert state_dict.notes == ["weights are read from best.safetensors, not from model.safetensors"]


def test_an_index_named_in_the_config_comes_first(directory):
    tensors = other_tensors(directory)
    save_file(tensors, directory / "best.safetensors", metadata={"format": "pt"})
    (directory / "best.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": dict.fromkeys(tensors, "best.safetensors")})
    )
    set_in_config(directory, transformers_weights="best.safetensors.index.json")
    assert_reads_what_hugging_face_reads(directory)


@pytest.mark.parametrize(
    "name, error, message",
    [
        ("gone.safetensors", FileNotFoundError, "transformers_weights names gone.safetensors, which is not in"),
        ("../model.safetensors", ValueError, "transformers_weights is '../model.safetensors'; accepted: the name of a file"),
        ("weights.bin", ValueError, "transformers_weights is 'weights.bin'; accepted"),
        (3, ValueError, "transformers_weights is 3; accepted"),
    ],
)
def test_a_file_named_in_the_config_that_cannot_be_read_is_refused(directory, name, error, message):
    set_in_config(directory, transformers_weights=name)
    with pytest.raises(error, match=message):
        load(directory)


@pytest.mark.parametrize("base", [True, False], ids=["beside-weights", "alone"])
def test_an_adapter_is_refused_with_its_base(directory, base):
    (directory / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    if not base:
        (directory / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"holds an adapter \(adapter_config.json\) for org/base: .* not supported"):
        load(directory)


def test_a_variant_alone_is_named(directory):
    (directory / "model.safetensors").rename(directory / "model.fp16.safetensors")
    with pytest.raises(FileNotFoundError, match="neither model.safetensors nor .*; found model.fp16.safetensors"):
        load(directory)


@pytest.mark.parametrize("kind", ["broken link", "folder"])
def test_what_is_no_file_under_the_files_name_is_said_to_be_none(directory, kind):
    path = directory / "model.safetensors"
    path.unlink()
    path.symlink_to("../blobs/gone") if kind == "broken link" else path.mkdir()
    with pytest.raises(FileNotFoundError, match="model.safetensors is no file, or a link to one that is not there$"):
        load(directory)


def test_a_broken_link_beside_an_index_is_passed_over_as_by_hugging_face(directory):
    (directory / "model.safetensors").rename(directory / SHARD)
    write_index(directory, dict.fromkeys(load_file(directory / SHARD), SHARD))
    (directory / "model.safetensors").symlink_to("../blobs/gone")
    assert_reads_what_hugging_face_reads(directory)


@pytest.mark.parametrize("name", ["model.safetensors", INDEX])
def test_a_header_or_index_nested_too_deep_is_named(directory, name):
    (directory / "model.safetensors").unlink()
    nested = b"[" * 100_000
    (directory / name).write_bytes(nested if name == INDEX else len(nested).to_bytes(8, "little") + nested)
    with pytest.raises(ValueError, match=f"{name} is corrupt: .*recursion"):
        load(directory)


def test_a_tensor_in_two_shards_is_refused_with_both(directory):
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    save_file(tensors, directory / "a.safetensors", metadata={"format": "pt"})
    save_file({"lm_head.weight": tensors["lm_head.weight"] + 1}, directory / "b.safetensors", metadata={"format": "pt"})
    write_index(directory, {**dict.fromkeys(tensors, "a.safetensors"), "lm_head.weight": "b.safetensors"})
    with pytest.raises(ValueError, match="a.safetensors and b.safetensors both hold lm_head.weight"):
        load(directory)
