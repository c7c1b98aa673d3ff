"""Repacking Meta's split checkpoints: which file holds what, and runs that fail, are killed or run twice."""

import errno
import os
import re
import signal
import subprocess
import sys

import pytest
import torch

from models.tt_transformers.tools import repack_weights
from models.tt_transformers.tools.repack_weights import repack
from models.tt_transformers.tt.checkpoints.location import PROJECT
from models.tt_transformers.tt.checkpoints.meta_files import MetaFiles
from tests.support.meta_checkpoints import VOCAB_SIZE, meta_weights, save_meta, shards
from tests.support.tiny_models import save_tiny

SIZES = dict(vocab_size=VOCAB_SIZE, hidden_size=64, intermediate_size=192, num_attention_heads=4, num_key_value_heads=4)
SCRIPTS = (
    "models/tt_transformers/scripts/repack_weights_70b.py",
    "models/tt_transformers/scripts/repack_weights_90b.py",
    "models/demos/llama3/scripts/repack_weights_70b.py",
)


@pytest.fixture
def model(tmp_path):
    return save_tiny("Llama", tmp_path / "hf", num_hidden_layers=12, **SIZES)


@pytest.fixture
def checkpoint(tmp_path, model):
    save_meta(tmp_path / "Llama3.1-70B", model, 4)
    return tmp_path / "Llama3.1-70B"


def with_vision(text):
    """A model with vision in the layout of Llama 3.2 90B, as far as its names and splits go."""
    cross = {
        f"text_model.cross_attention_layers.{i}.{name}": torch.randn(shape)
        for i in range(2)
        for name, shape in (("attention.wq.weight", (64, 64)), ("attention.q_norm.weight", (16,)), ("gate_attn", (1,)))
    }
    vision = {
        "vision_model.vision_encoder.transformer.resblocks.3.attn.wo.weight": torch.randn(64, 64),
        "vision_model.vision_encoder.transformer.resblocks.3.mlp.c_fc.bias": torch.randn(64),
        "vision_model.vision_encoder.transformer.resblocks.3.mlp.c_proj.weight": torch.randn(64, 64),
        "vision_model.vision_encoder.transformer.resblocks.3.mlp.c_proj.bias": torch.randn(64),
        "vision_model.vision_encoder.class_embedding": torch.randn(64),
        "vision_model.vision_projection.bias": torch.randn(64),
        "text_model.learnable_embedding.weight": torch.randn(8, 64),
    }
    return {**{f"text_model.{name}": weight for name, weight in text.items()}, **cross, **vision}


def save_with_vision(directory, weights):
    directory.mkdir()
    (directory / "params.json").write_text('{"vision_chunk_size": 560}')
    split = shards(weights, 4)
    dims = {"attn.wo.weight": 1, "c_fc.bias": 0, "mlp.c_proj.weight": 1, "vision_projection.bias": 0}
    dims["learnable_embedding.weight"] = 0
    for name, weight in weights.items():
        for ending, dim in dims.items():
            if name.endswith(ending):
                for shard, part in zip(split, weight.chunk(4, dim)):
                    shard[name] = part.clone()
    for rank, shard in enumerate(split):
        torch.save(shard, directory / f"consolidated.{rank:02}.pth")


def test_a_file_has_ten_layers_and_the_first_the_rest(checkpoint, model, tmp_path):
    repack(checkpoint, tmp_path / "repacked")
    files = {file.name: torch.load(file) for file in (tmp_path / "repacked").glob("*.pth")}
    assert set(files) == {"layers_0-9.pth", "layers_10-11.pth"}
    of_layers_10_and_11 = {name for name in meta_weights(model) if re.match(r"layers\.1[01]\.", name)}
    assert set(files["layers_10-11.pth"]) == of_layers_10_and_11
    found = files["layers_0-9.pth"] | files["layers_10-11.pth"]
    assert set(found) == set(meta_weights(model))
    for name, weight in meta_weights(model).items():
        assert torch.equal(found[name], weight), name
    assert {file.name for file in (tmp_path / "repacked").iterdir()} == {*files, "params.json", "tokenizer.model"}


def test_the_first_file_of_a_model_with_vision_has_that_and_one_layer(tmp_path, model):
    weights = with_vision(meta_weights(model))
    save_with_vision(tmp_path / "Llama3.2-90B", weights)
    repack(tmp_path / "Llama3.2-90B", tmp_path / "repacked", vision=True)
    files = {file.name: torch.load(file) for file in (tmp_path / "repacked").glob("*.pth")}
    assert set(files) == {"vision-model-and-layers_0-0.pth", "layers_1-10.pth", "layers_11-11.pth"}
    layers = re.compile(r"text_model\.(?:cross_attention_)?layers\.([1-9]\d*)\.")
    assert set(files["vision-model-and-layers_0-0.pth"]) == {name for name in weights if not layers.match(name)}
    assert "text_model.cross_attention_layers.1.gate_attn" in files["layers_1-10.pth"]
    found = MetaFiles(tmp_path / "repacked")
    assert set(found.tensors) == set(weights)
    for name, weight in weights.items():
        assert torch.equal(found.read(name, 0, len(weight)), weight), name


def test_a_failing_run_leaves_the_directory_as_it_was(checkpoint, monkeypatch):
    before = sorted(checkpoint.iterdir())
    written = []

    def fill_the_disk(folder, files, names):
        folder.write_bytes(b"half")
        written.append(folder)
        if len(written) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(repack_weights, "_write", fill_the_disk)
    with pytest.raises(ValueError, match="layers_10-11.pth cannot be written to .*: OSError: .* No space left"):
        repack(checkpoint, checkpoint)
    assert sorted(checkpoint.iterdir()) == before


SMALL_FILES = """
import resource, signal, sys
from models.tt_transformers.tools.repack_weights import repack_70b

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
repack_70b()
"""


def test_a_file_that_torch_cannot_write_is_named_in_one_line(checkpoint, tmp_path):
    command = [sys.executable, "-c", SMALL_FILES, checkpoint, tmp_path / "out"]
    failed = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert re.fullmatch("error: layers_0-9.pth cannot be written to .*/out: RuntimeError: .*\n", failed.stderr)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_run_that_is_killed_while_files_get_their_names_leaves_none_that_are_read(checkpoint, monkeypatch):
    def killed(file, name):
        if name.name == "layers_0-9.pth":
            raise KeyboardInterrupt
        os.rename(file, name)

    monkeypatch.setattr(repack_weights.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        repack(checkpoint, checkpoint)
    with pytest.raises(FileNotFoundError, match="lacks the repacked layers 0-9, before layers_10-11.pth"):
        MetaFiles(checkpoint)


KILLED = """
import os, signal, sys
from pathlib import Path
import models
from models.tt_transformers.tools import repack_weights

write = repack_weights._write
def killed_at_the_second(path, files, names):
    if path.name == "layers_10-11.pth":
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, files, names)

repack_weights._write = killed_at_the_second
repack_weights.repack(Path(sys.argv[1]), Path(sys.argv[1]))
"""


def test_a_killed_run_leaves_no_weights_and_the_next_begins_again(checkpoint, tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED, checkpoint], cwd=PROJECT, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not list(checkpoint.glob("layers_*"))
    assert (checkpoint / ".repacking/layers_0-9.pth").is_file()
    assert MetaFiles(checkpoint).note is None
    repack(checkpoint, checkpoint, chunk_size=6)
    assert [file.name for file in sorted(checkpoint.glob("*layers*"))] == ["layers_0-5.pth", "layers_6-11.pth"]
    assert not (checkpoint / ".repacking").exists()


def test_two_runs_into_one_directory_are_refused(checkpoint):
    with repack_weights._working_folder(checkpoint) as folder:
        with pytest.raises(ValueError, match="another run is repacking into"):
            repack(checkpoint, checkpoint)
        assert folder.is_dir()


def test_repacked_weights_are_not_replaced(checkpoint):
    repack(checkpoint, checkpoint)
    with pytest.raises(ValueError, match="has repacked weights already, such as layers_0-9.pth; move them away"):
        repack(checkpoint, checkpoint, chunk_size=5)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"chunk_size": 0}, "chunk_size must be at least 1, got 0"),
        ({"vision": True}, "has no vision model; use repack_weights_70b.py"),
    ],
)
def test_wrong_settings_are_named(checkpoint, changes, message):
    with pytest.raises(ValueError, match=message):
        repack(checkpoint, checkpoint, **changes)


def test_an_output_directory_is_made_only_if_the_model_can_be_repacked(checkpoint, tmp_path):
    with pytest.raises(ValueError, match="has no vision model"):
        repack(checkpoint, tmp_path / "out", vision=True)
    assert not (tmp_path / "out").exists()


def test_directories_without_a_model_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a directory"):
        repack(tmp_path / "nowhere", tmp_path)
    with pytest.raises(FileNotFoundError, match="has no params.json, as a model in Meta's format has"):
        repack(tmp_path, tmp_path)


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_commands_take_the_described_arguments(tmp_path, script):
    refused = subprocess.run([sys.executable, script, "nowhere", tmp_path], cwd=PROJECT, capture_output=True, text=True)
    assert (refused.returncode, refused.stderr) == (1, "error: nowhere is not a directory\n")
