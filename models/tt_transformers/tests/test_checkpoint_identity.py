"""The weight cache tells checkpoints apart by their content, though names, sizes and times agree."""

import hashlib
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.tt_transformers.tests.tiny_phi3 import save_tiny_phi3
from models.tt_transformers.tt.checkpoint_identity import SAMPLE_BYTES, SAMPLES, checkpoint_identity
from models.tt_transformers.tt.safetensors_files import SafetensorsFiles


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv("TT_CACHE_VERIFY", raising=False)


def identity(directory):
    return checkpoint_identity(SafetensorsFiles(directory))


def copy_of(tensors, directory):
    """A checkpoint whose file has the name, size and time of every other one made here."""
    directory.mkdir()
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    os.utime(directory / "model.safetensors", (1, 1))
    return directory


@pytest.fixture
def tensors(tmp_path):
    save_tiny_phi3(tmp_path / "made")
    return load_file(tmp_path / "made/model.safetensors")


def test_a_copy_has_the_same_identity(tensors, tmp_path):
    assert identity(copy_of(tensors, tmp_path / "a")) == identity(copy_of(tensors, tmp_path / "b"))


def test_a_change_of_any_tensor_changes_it(tensors, tmp_path):
    original = identity(copy_of(tensors, tmp_path / "original"))
    for number, name in enumerate(tensors):
        changed = {**tensors, name: tensors[name].flip(0) + 1}
        assert identity(copy_of(changed, tmp_path / str(number))) != original, name


def test_two_tensors_that_change_places_change_it(tensors, tmp_path):
    first, second = (f"model.layers.{layer}.self_attn.o_proj.weight" for layer in (0, 1))
    changed = {**tensors, first: tensors[second], second: tensors[first]}
    assert identity(copy_of(changed, tmp_path / "a")) != identity(copy_of(tensors, tmp_path / "b"))


def large(value_at=None):
    """A tensor that is not read whole, with one value changed."""
    weight = torch.zeros(64, SAMPLE_BYTES, dtype=torch.bfloat16)
    if value_at is not None:
        weight.view(-1)[value_at] = 1.0
    return {"weight": weight}


@pytest.mark.parametrize("value_at", [0, 64 * SAMPLE_BYTES - 1])
def test_both_ends_of_a_large_tensor_are_sampled(tmp_path, value_at):
    assert identity(copy_of(large(value_at), tmp_path / "a")) != identity(copy_of(large(), tmp_path / "b"))


def test_full_verification_finds_what_the_samples_let_through_and_passes_over_times(tmp_path, monkeypatch):
    between = SAMPLE_BYTES  # in values: twice as many bytes from the start, past the first sample
    a, b = copy_of(large(), tmp_path / "a"), copy_of(large(between), tmp_path / "b")
    assert identity(a) == identity(b)
    monkeypatch.setenv("TT_CACHE_VERIFY", "full")
    assert identity(a) != identity(b)
    before = identity(a)
    os.utime(a / "model.safetensors", (2, 2))
    assert identity(a) == before


def test_another_time_changes_it(tensors, tmp_path):
    directory = copy_of(tensors, tmp_path / "a")
    before = identity(directory)
    os.utime(directory / "model.safetensors", (2, 2))
    assert identity(directory) != before


def test_a_link_into_a_hugging_face_cache_is_known_by_its_blob(tensors, tmp_path, monkeypatch):
    plain = copy_of(tensors, tmp_path / "plain")
    digest = hashlib.sha256((plain / "model.safetensors").read_bytes()).hexdigest()
    snapshot, blobs = tmp_path / "cache/snapshots/0", tmp_path / "cache/blobs"
    snapshot.mkdir(parents=True), blobs.mkdir()
    shutil.copy(plain / "model.safetensors", blobs / digest)
    (snapshot / "model.safetensors").symlink_to(blobs / digest)
    assert identity(snapshot) == [{"name": "model.safetensors", "sha256": digest}]
    monkeypatch.setenv("TT_CACHE_VERIFY", "full")
    assert identity(snapshot) == identity(plain)


def test_of_a_large_file_only_the_header_and_the_samples_are_read(tmp_path, monkeypatch):
    size = 10 << 30  # sparse: it takes no room on the disk
    header = json.dumps({"weight": {"dtype": "BF16", "shape": [size // 2], "data_offsets": [0, size]}}).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(file, 8 + len(header) + size)
    read, pread = [], os.pread
    monkeypatch.setattr(os, "pread", lambda *where: read.append(where[1]) or pread(*where))
    identity(tmp_path)
    assert read == [SAMPLE_BYTES] * SAMPLES


def test_a_value_that_is_not_known_is_refused(tensors, tmp_path, monkeypatch):
    monkeypatch.setenv("TT_CACHE_VERIFY", "yes")
    with pytest.raises(ValueError, match="TT_CACHE_VERIFY='yes' is not accepted: full, samples"):
        identity(copy_of(tensors, tmp_path / "a"))
