"""The weight cache tells checkpoints apart by their content, even if names, sizes and times are equal."""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import models  # noqa: F401  (makes `import ttnn` resolve)
import ttnn
from models.common.mesh import open_mesh
from models.tt_transformers.tt.checkpoints import identity as identity_module
from tests.support.tiny_phi3 import save_tiny_phi3
from models.tt_transformers.tt.checkpoints.identity import (
    EMULATOR_CODE,
    LIBRARY_CODE,
    SAMPLE_BYTES,
    SAMPLES,
    checkpoint_identity,
    digest_of_code,
)
from models.tt_transformers.tt.checkpoints.weights import Weights
from models.tt_transformers.tt.checkpoints.location import PROJECT
from models.tt_transformers.tt.checkpoints.safetensors_files import SafetensorsFiles
from models.tt_transformers.tt.generator import Generator
from models.tt_transformers.tt.model_args import ModelArgs


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


CODE = '''"""A module."""


def double(x):
    """Twice x."""
    return 2 * x  # no shift: x may be a float
'''


def digest(folder, text):
    (folder / "code.py").write_text(text)
    return digest_of_code(folder, ("*.py",))


@pytest.mark.parametrize(
    "old, new", [("Twice x.", "x and x."), ("A module.", ""), ("  # no shift: x may be a float", ""), ("\n\n\ndef", "\ndef")]
)
def test_docstrings_comments_and_layout_do_not_change_the_digest_of_code(tmp_path, old, new):
    assert digest(tmp_path, CODE.replace(old, new)) == digest(tmp_path, CODE) and old in CODE


@pytest.mark.parametrize("old, new", [("2 * x", "2 + x"), ("double", "twice"), ("return", "yield")])
def test_a_change_of_what_code_does_changes_its_digest(tmp_path, old, new):
    assert digest(tmp_path, CODE.replace(old, new)) != digest(tmp_path, CODE)


def test_all_code_of_the_project_that_runs_in_a_conversion_is_in_the_digest(tmp_path, monkeypatch):
    """Except for the cache's own code, the code of a device's and of the process's memory, and the checks of calls."""
    save_tiny_phi3(tmp_path)
    package, emulator = Path(identity_module.__file__).parents[1], Path(ttnn.__file__).parent
    digested = {file for pattern in LIBRARY_CODE for file in package.glob(pattern)}
    digested |= {file for pattern in EMULATOR_CODE for file in emulator.glob(pattern)}
    files, load = set(), Weights.load

    def note(frame, event, _):
        files.add(frame.f_code.co_filename)

    def profiled(weights):
        sys.setprofile(note)
        try:
            load(weights)
        finally:
            sys.setprofile(None)

    monkeypatch.setattr(Weights, "load", profiled)
    with open_mesh("N300") as mesh_device:
        Generator.build(ModelArgs(mesh_device, hf_model=tmp_path, max_seq_len=64)).close()
    ran = {Path(file) for file in files if file.startswith(str(PROJECT / "models"))}
    # machine.py says which chip a device is; a tensor's values do not depend on it.
    others = {"machine.py", "cache.py", "whole_file.py", "backend.py", "memory.py", "device.py", "process_memory.py", "declaration.py"}
    others.add(Path(__file__).name)
    assert {file for file in ran - digested if file.name not in others} == set()
    assert {"weights.py", "state_dict.py", "bfp.py"} <= {file.name for file in ran}
