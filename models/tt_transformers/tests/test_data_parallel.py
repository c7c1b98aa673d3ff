"""Data parallel: a model on each of several groups of devices, all from weights that are read once."""

import gc
import math
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch
import ttnn

from models.common.mesh import open_mesh
from models.common.mesh_names import MESH_SHAPES
from models.common.pcc import pcc
from models.tt_transformers.measure.capacity import allocated_bytes
from models.tt_transformers.measure.counts import CountingStateDict
from models.tt_transformers.tt import generator as generator_module
from models.tt_transformers.tt.checkpoints.location import BUNDLED
from models.tt_transformers.tt.checkpoints.weights import Weights
from models.tt_transformers.tt.config.precision import ModelOptimizations
from models.tt_transformers.tt.generator import Generator, create_submeshes
from models.tt_transformers.tt.model import Transformer
from models.tt_transformers.tt.model_args import ModelArgs
from models.tt_transformers.tt.runtime import dram
from models.tt_transformers.tt.runtime.runner import Runner
from tests.support.generation import greedy, known_by_heart, open_generator, random_tokens, tiny  # noqa: F401
from tests.support.tiny_mllama import IMAGE, picture, save_tiny_mllama
from tests.support.tiny_models import save_tiny

CASES = [("T3K", 2), ("T3K", 4), ("T3K", 8), ("TG", 4), ("TG", 8), ("TG", 16), ("TG", 32)]
PROMPTS = [random_tokens(37), random_tokens(11, seed=1)]
STEPS = 4


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TT_CACHE_PATH", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A small random Llama's directory, and Hugging Face's float32 model of it."""
    directory = tmp_path_factory.mktemp("llama") / "model"
    return directory, type(save_tiny("Llama", directory)).from_pretrained(directory, dtype=torch.float32).eval()


@contextmanager
def open_args(mesh, model, groups, *, users=1, pages=16, **settings):
    with open_mesh(mesh) as mesh_device:
        yield ModelArgs(
            mesh_device,
            data_parallel=groups,
            hf_model=model,
            max_batch_size=users,
            optimizations=ModelOptimizations.bf16(),
            page_params={"block_size": 32, "max_num_blocks": pages},
            **{"max_seq_len": 256, **settings},
        )


@contextmanager
def open_groups(*args, **settings):
    with open_args(*args, **settings) as model_args, Generator.build(model_args) as generator:
        yield generator


@pytest.mark.parametrize("mesh, groups", [*CASES, ("TG", 2), ("T3K", 1)])
def test_the_groups_are_lines_of_equal_length_that_have_each_device_once(mesh, groups):
    with open_mesh(mesh) as mesh_device:
        submeshes = create_submeshes(mesh_device, groups)
        devices = math.prod(MESH_SHAPES[mesh])
        assert [tuple(submesh.shape) for submesh in submeshes] == [(1, devices // groups)] * groups
        assert sorted(sum((submesh.get_device_ids() for submesh in submeshes), [])) == list(range(devices))


@pytest.mark.parametrize(
    "mesh, groups, works", [("T3K", 3, "1, 2, 4, 8"), ("N150", 2, "1"), ("TG", 64, "1, 2, 4, 8, 16, 32")]
)
def test_a_number_that_does_not_divide_the_mesh_is_refused_with_those_that_do(mesh, groups, works):
    with open_mesh(mesh) as mesh_device:
        with pytest.raises(ValueError, match=f"data_parallel {groups} does not divide a mesh of .*; numbers that do: {works}$"):
            create_submeshes(mesh_device, groups)


def test_a_number_that_leaves_a_mesh_the_model_is_not_for_is_refused_with_those_that_work():
    numbers = "data_parallel 16 leaves groups that are too small, numbers that work: 1, 2, 4, 8$"
    with pytest.raises(ValueError, match=f"Llama-3.1-70B is not supported on N300; .*; {numbers}"):
        with open_args("TG", "meta-llama/Llama-3.1-70B", 16, dummy_weights=True):
            pass


def test_a_number_that_leaves_too_little_memory_is_refused_with_those_that_work():
    numbers = "data_parallel 32 leaves groups that are too small, numbers that work: 1, 2, 4$"
    with open_args("TG", "Qwen/Qwen3-32B", 32, dummy_weights=True) as args:
        with pytest.raises(ValueError, match=f"Qwen3-32B does not fit N150: .*; {numbers}"):
            dram.check_fits(args)


@pytest.mark.parametrize("mesh, groups", CASES)
def test_the_logits_of_every_group_are_hugging_faces_and_the_same_bit_for_bit(llama, mesh, groups):
    directory, reference = llama
    with open_groups(mesh, directory, groups, users=2) as generator:
        texts, logits = greedy(generator, PROMPTS * groups, STEPS)
    for group in range(1, groups):
        assert torch.equal(logits[:, 2 * group : 2 * group + 2], logits[:, :2])
    for user, prompt in enumerate(PROMPTS):
        with torch.no_grad():
            expected = reference(torch.tensor([prompt + texts[user][:-1]])).logits[0, len(prompt) - 1 :]
        assert min(map(pcc, logits[:, user], expected)) >= 0.999


def test_a_user_has_the_text_it_has_alone_whatever_the_others_do_in_any_group():
    """Groups of one device, with different prompts. Users join, leave and pause; one crosses the LongRoPE switch."""
    with open_groups("T3K", BUNDLED, 8, users=2, max_seq_len=1024, pages=40) as generator:
        chapters = known_by_heart(generator.args)
        prompts = [chapters[user % len(chapters)][: 20 + 5 * user] for user in range(16)]
        prompts[5] = chapters[5][:508]
        tokens = [[token] for token in generator.prefill(prompts).argmax(-1).tolist()]
        generator.remove(14)
        for step in range(8):
            active = [user != 14 and not (step < 4 and user < 4) for user in range(16)]
            for user, row in enumerate(generator.decode([text[-1] for text in tokens], active)):
                if active[user]:
                    tokens[user].append(int(row.argmax()))
        tokens[14] = [int(generator.add(14, prompts[14]).argmax())]
    with open_generator("N150", BUNDLED, max_seq_len=1024) as alone:
        for user, prompt in enumerate(prompts):
            assert greedy(alone, [prompt], len(tokens[user]))[0] == [tokens[user]]


def test_each_group_has_a_pool_of_pages_of_its_own(tiny):
    with open_groups("N300", tiny, 2, users=2, pages=4) as generator:
        generator.prefill([random_tokens(60)] * 4)
        assert torch.equal(generator.pages[:2], generator.pages[2:])
        generator.remove(0)
        with pytest.raises(ValueError, match="user 0 needs 3 more page.* 2 of max_num_blocks = 4 are free"):
            generator.add(0, random_tokens(80))
        generator.remove(3)
        generator.remove(2)
        generator.add(2, random_tokens(100))


@pytest.mark.parametrize("mesh, groups", [("T3K", 4), ("TG", 4), ("TG", 32)])
def test_weights_are_read_once_and_their_memory_is_shared_before_and_after_use(tiny, mesh, groups):
    """The second time they come from the cache of converted weights."""
    with open_args(mesh, tiny, groups) as args:
        for from_checkpoint in (True, False):
            state_dict = CountingStateDict(args.load_state_dict())
            weights = Weights(args.mesh_device, args.placement, state_dict, args.weight_cache)
            with Generator.build(args, weights) as generator:
                assert state_dict.reads == (len(state_dict) if from_checkpoint else 0)
                generator.prefill([random_tokens(40)] * groups)
                generator.decode([3] * groups)
                first, *others = [memory_of(model.weights) for model in generator.models]
                assert all(other == first for other in others)


def memory_of(weights):
    shards = [shard for tensor in weights._tensors for shard in tensor.storage.shards]
    return [getattr(shard, "mantissas", shard).untyped_storage().data_ptr() for shard in shards]  # those of a packed weight


@pytest.mark.parametrize("mesh, groups", [("T3K", 8), ("TG", 4)])
def test_every_tensor_that_is_equal_in_all_groups_has_its_values_once(tiny, mesh, groups):
    with open_groups(mesh, tiny, groups) as generator:
        assert_values_are_shared(generator)


def test_the_masks_of_images_have_their_values_once_for_all_groups(tmp_path):
    save_tiny_mllama(tmp_path / "model")
    with open_groups("N300", tmp_path / "model", 2, max_images=1) as generator:
        before = assert_values_are_shared(generator)
        images = generator.args.image_processor([picture(tiles=1)])
        generator.prefill([[IMAGE, 3, 4]] * 2, [images] * 2)
        del images
        assert assert_values_are_shared(generator) == before + 1


def assert_values_are_shared(generator) -> int:
    """All that is on the devices of a group, but for its KV caches, has the values of the first group -> their number."""
    gc.collect()
    caches = {id(tensor) for model in generator.models for cache in model.kv_caches for tensor in (cache.keys, cache.values)}
    tensors = [value for value in gc.get_objects() if type(value) is ttnn.Tensor and id(value) not in caches]
    first, *others = [
        sorted(shard.data_ptr() for tensor in tensors if tensor.device() is model.mesh_device for shard in tensor.shards)
        for model in generator.models
    ]
    assert all(other == first for other in others)
    return len(set(first))


MEMORY = """
import models
from models.common.mesh import open_mesh
from models.tt_transformers.tt.generator import Generator
from models.tt_transformers.tt.model_args import ModelArgs
from models.tt_transformers.tt.runtime.process_memory import resident_bytes

found = []
for mesh, groups in (("N150", 1), ("T3K", 8), ("T3K", 4)):
    with open_mesh(mesh) as mesh_device:
        pages = {"block_size": 32, "max_num_blocks": 1024}
        with Generator.build(ModelArgs(mesh_device, data_parallel=groups, max_seq_len=1024, page_params=pages)) as generator:
            generator.prefill([[3] * 100] * groups)
            generator.decode([3] * groups)
            found.append(resident_bytes())
print(max(found) / found[0])
"""


def test_groups_of_one_and_of_two_devices_take_less_than_a_fifth_more_memory_than_one_model():
    result = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(result.stdout) < 1.2


def test_all_groups_start_a_step_before_the_first_one_is_read(tiny, monkeypatch):
    calls = []

    def record(owner, name, called):
        function = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **kwargs: (calls.append(called), function(*args, **kwargs))[1])

    record(Runner, "submit_decode", "start")
    record(Runner, "_prefill_group", "start")
    record(Transformer, "logits_to_torch", "read")
    with open_groups("N300", tiny, 2, users=2) as generator:
        generator.prefill([random_tokens(20), random_tokens(200)] * 2)  # two lengths: each group's prompts run apart
        assert calls == ["start", "start", "read", "start", "read", "start", "read", "read"]
        calls.clear()
        generator.decode([3] * 4)
        assert calls == ["start", "start", "read", "read"]
        calls.clear()
        generator.decode([3] * 4, [False, False, True, False])  # nobody runs in group 0
        assert calls == ["start", "read"]


def test_a_group_that_cannot_be_made_frees_the_others(tiny, monkeypatch):
    with open_args("T3K", tiny, 4) as args:
        whole, make = args._whole_mesh, generator_module.Transformer

        def fail(group, *parts):
            assert group.mesh_device is not args.groups()[2].mesh_device, "no room"
            return make(group, *parts)

        monkeypatch.setattr(generator_module, "Transformer", fail)
        with pytest.raises(AssertionError, match="no room"):
            Generator.build(args)
        assert allocated_bytes(whole) == 0
        monkeypatch.undo()
        with Generator.build(args):
            assert allocated_bytes(whole) > 0
        assert allocated_bytes(whole) == 0


def test_a_wrong_argument_for_one_group_names_it_and_no_group_runs(tiny):
    with open_groups("N300", tiny, 2, users=2) as generator:
        runner, pages = generator.runner, torch.arange(4).int()[:, None].expand(4, 4)
        logits = runner.prefill([random_tokens(40)] * 4, range(4), page_table=pages * 4 + torch.arange(4).int())
        assert all(torch.equal(logits[0], row) for row in logits)
        with pytest.raises(ValueError, match="group 1: user 0: token 999 is outside the model's vocabulary"):
            runner.submit_decode([3, 3, 999, 3], [40] * 4, pages)
        with pytest.raises(ValueError, match="group 1: user 1: position 256 is outside 0 to 255"):
            runner.submit_decode([3] * 4, [40, 40, 40, 256], pages)
        with pytest.raises(ValueError, match="a decode step of 2 tokens and 2 positions for 4 slots"):
            runner.submit_decode([3] * 2, [40] * 2, pages[:2])
        with pytest.raises(ValueError, match="group 1: user 0: there are no tokens to prefill"):
            runner.prefill([[3], []], [0, 2], page_table=pages[:2])
        with pytest.raises(ValueError, match="slots .* of 0 to 3"):
            runner.prefill([[3]], [4], page_table=pages[:1])
        runner.read(runner.submit_decode([3] * 4, [40] * 4, pages))  # no group waits to be read


def test_a_slot_moves_within_its_group_only(tiny):
    with open_groups("N300", tiny, 2, users=2) as generator:
        generator.prefill([[3], [4], [5], [6]])
        generator.slots.move([1, 0, 2, 3])
        assert generator.sequences == [[4], [3], [5], [6]]
        with pytest.raises(ValueError, match=r"slots \[2, 1, 0, 3\]: each must stay among the 2 that share a pool of pages"):
            generator.slots.move([2, 1, 0, 3])
