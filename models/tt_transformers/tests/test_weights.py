"""Weights are read once, in the order of the files, and what is held besides the result stays small."""

import weakref
from itertools import pairwise

import pytest
import torch

import models  # noqa: F401  (makes `import ttnn` resolve)
import ttnn
from models.common.mesh import open_mesh
from models.tt_transformers.tt.checkpoints.safetensors_files import SafetensorsFiles
from models.tt_transformers.tt.checkpoints.state_dict import DummyStateDict, StateDict
from models.tt_transformers.tt.generator import Generator
from models.tt_transformers.tt.model_args import ModelArgs
from tests.support.tiny_models import save_tiny

# In a file, tensors lie in the order of their names: layer 10 before layer 2, down_proj before gate_up_proj.
CHECKPOINTS = {
    "Phi3": {},
    "Phi3-sharded": {"max_shard_size": "100KB"},
    "Qwen2-tied-sharded": {"max_shard_size": "100KB", "tie_word_embeddings": True},
    "Llama-layers-out-of-order": {"max_shard_size": "400KB", "num_hidden_layers": 11},
    "Qwen3": {"head_dim": 32},
}


@pytest.fixture(autouse=True)
def no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TT_CACHE_PATH", str(tmp_path / "cache"))


@pytest.fixture(params=CHECKPOINTS)
def checkpoint(request, tmp_path):
    save_tiny(request.param.split("-")[0], tmp_path / "model", **CHECKPOINTS[request.param])
    return tmp_path / "model"


def build(mesh_device, checkpoint, **options):
    return Generator.build(ModelArgs(mesh_device, hf_model=checkpoint, max_seq_len=64, **options))


@pytest.mark.parametrize("mesh", ["N150", "N300"])
def test_every_byte_is_read_once_in_the_order_of_the_files(mesh, checkpoint, monkeypatch):
    spans, read = [], SafetensorsFiles.read

    def noted(files, name, start, stop):
        spans.append((files.place(name, start), files.place(name, stop)))
        return read(files, name, start, stop)

    monkeypatch.setattr(SafetensorsFiles, "read", noted)
    with open_mesh(mesh) as mesh_device:
        build(mesh_device, checkpoint).close()
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
    stored = SafetensorsFiles(checkpoint).tensors.values()
    assert sum(stop[1] - start[1] for start, stop in spans) == sum(info.size for info in stored)


@pytest.mark.parametrize("dummy_weights", [False, True])
def test_at_most_a_layer_or_the_embedding_is_held_at_a_time(checkpoint, dummy_weights, monkeypatch):
    kind = DummyStateDict if dummy_weights else StateDict
    made, read = [], kind.read
    most = 0

    def noted(state_dict, names):
        nonlocal most
        for same, weight in read(state_dict, names):
            made.append(weakref.ref(weight))
            most = max(most, sum(held.nbytes for held in (reference() for reference in made) if held is not None))
            yield same, weight
            del weight

    monkeypatch.setattr(kind, "read", noted)
    with open_mesh("N150") as mesh_device, build(mesh_device, checkpoint, dummy_weights=dummy_weights) as generator:
        state_dict = generator.args.load_state_dict()
        nbytes = {name: state_dict[name].nbytes for name in state_dict}
        layer = sum(nbytes[name] for name in nbytes if name.startswith("layers.0."))
    assert most <= max(layer, nbytes["tok_embeddings.weight"])


@pytest.mark.parametrize("mode", ["performance", "accuracy"])
def test_weights_lie_in_memory_as_planned_from_the_checkpoint_and_from_the_cache(checkpoint, mode, monkeypatch):
    kept = []
    with open_mesh("N150") as mesh_device:
        for _ in range(2):
            with build(mesh_device, checkpoint, optimizations=mode) as generator:
                attention, head = generator.model.layers[1].attention, generator.model.lm_head.splits[0]
                for linear in (attention.wqkv, head):
                    config = linear.config
                    assert linear.weight.memory_config() == config.chip.dram_sharded_weight(config.k, config.n)
                    assert linear.weight.dtype == config.weight_dtype
                kept.append([ttnn.to_torch(weight) for weight in (attention.wqkv.weight, head.weight)])
            # The second time, nothing is read.
            monkeypatch.setattr(SafetensorsFiles, "read", None)
    assert all(map(torch.equal, *kept))


def test_a_model_without_room_on_the_device_is_refused_before_it_is_read(checkpoint, monkeypatch):
    monkeypatch.setattr(SafetensorsFiles, "read", None)
    with open_mesh("N150") as mesh_device:
        args = ModelArgs(mesh_device, hf_model=checkpoint, max_seq_len=64)
        mesh_device.allocator.capacity[ttnn.BufferType.DRAM] = 50_000
        with pytest.raises(RuntimeError, match="DRAM"):
            Generator.build(args)
        assert mesh_device.allocator.used[ttnn.BufferType.DRAM] == 0


def test_random_weights_are_kept_where_the_user_says_and_give_the_same_logits(tmp_path, monkeypatch):
    save_tiny("Llama", tmp_path / "model")
    made, read = [], DummyStateDict.read
    monkeypatch.setattr(DummyStateDict, "read", lambda self, names: made.extend(names) or read(self, names))
    logits, counts = [], []
    with open_mesh("N150") as mesh_device:
        for cached in (False, True, True):
            if not cached:
                monkeypatch.delenv("TT_CACHE_PATH")
            else:
                monkeypatch.setenv("TT_CACHE_PATH", str(tmp_path / "cache"))
            with build(mesh_device, tmp_path / "model", dummy_weights=True) as generator:
                logits.append(generator.prefill([list(range(3, 40))]))
            counts.append(len(made))
    assert counts[0] > 0 and counts == [counts[0], 2 * counts[0], 2 * counts[0]]
    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[0], logits[2])
