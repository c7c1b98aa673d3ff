"""The classes that vLLM serves, without vLLM: a scheduler that calls them as vLLM does gets `Generator`'s logits."""

import math
from types import SimpleNamespace

import pytest
import torch

from models.common.mesh import open_mesh
from models.common.mesh_names import MESH_SHAPES
from models.common.pcc import pcc
from models.demos.llama3_70b_galaxy.tt import generator_vllm as galaxy
from models.tt_transformers.tt import generator_vllm
from models.tt_transformers.tt.checkpoints.location import BUNDLED
from models.tt_transformers.tt.generator_vllm import LlamaForCausalLM, Phi3ForCausalLM, prefix_caching_refusal
from tests.support.generation import known_by_heart, random_tokens, tiny  # noqa: F401
from tests.support.serving import LaneScheduler, Request, Scheduler, served  # noqa: F401
from tests.support.tiny_models import save_tiny


def expected(model, prompt, count):
    """`count` greedy tokens of `Generator` with this prompt alone, and the logits that chose them."""
    generator = model.generator
    logits = [generator.prefill([prompt])[0]]
    while len(logits) < count:
        logits.append(generator.decode([int(logits[-1].argmax())])[0])
    generator.remove(0)
    return [int(row.argmax()) for row in logits], logits


def check(requests, wanted, exactly=True):
    """The same tokens; the same logits bit for bit, but for requests whose decoded keys were prefilled again."""
    for number, (request, logits) in enumerate(zip(requests, wanted)):
        assert len(request.logits) == len(logits)
        for step, (ours, theirs) in enumerate(zip(request.logits, logits)):
            where = f"request {number}, token {step}"
            assert ours.argmax() == theirs.argmax(), where
            if exactly and not request.was_preempted:
                assert torch.equal(ours, theirs), where
            else:
                assert pcc(ours, theirs) >= 0.999, where


def prepared(model, prompts, count):
    """A request for each prompt, and its expected logits. Each one is a token longer than the one before."""
    answers = [expected(model, prompt, count + number) for number, prompt in enumerate(prompts)]
    return [Request(prompt, tokens) for prompt, (tokens, _) in zip(prompts, answers)], [logits for _, logits in answers]


@pytest.mark.parametrize("mesh", ["N150", "T3K"])
def test_eleven_requests_that_come_and_go_get_the_generators_tokens(served, mesh):
    """Five of them cross LongRoPE's switch at 512 tokens in decode, two in one step, one after it was preempted."""
    model, kv_cache = served(mesh, BUNDLED, "Phi3ForCausalLM", users=4, max_seq_len=640, pages=70)
    switch = model.args.arch.rope.recompute_len - 1
    chapters = known_by_heart(model.args)
    lengths = (510, 510, 510, 40, 130, 509, 7, 20, 33, 64, 508)
    prompts = [chapters[number % len(chapters)][:length] for number, length in enumerate(lengths)]
    requests, wanted = prepared(model, prompts, 4)
    scheduler = Scheduler(model, kv_cache, is_asynchronous=mesh == "T3K")
    scheduler.add(*requests[:3])
    scheduler.step()
    scheduler.step()
    scheduler.preempt(requests[1])
    scheduler.add(*requests[3:7])
    scheduler.step()
    scheduler.add(*requests[7:])
    scheduler.run()
    check(requests, wanted)
    crossings = [[request for request, position in step.items() if position == switch] for step in scheduler.steps]
    assert sum(map(len, crossings)) == 5 and max(map(len, crossings)) == 2
    assert any(request.was_preempted for crossing in crossings for request in crossing)


@pytest.mark.parametrize(
    "mesh, name, served_by",
    [
        ("N150", "Llama", "LlamaForCausalLM"),
        ("N300", "Qwen2", "QwenForCausalLM"),
        ("T3K", "Qwen3", "QwenForCausalLM"),
        ("N150", "Mistral", "MistralForCausalLM"),
    ],
)
def test_every_family_gets_the_generators_tokens(served, tmp_path, mesh, name, served_by):
    save_tiny(name, tmp_path / "model")
    model, kv_cache = served(mesh, tmp_path / "model", served_by, users=2)
    requests, wanted = prepared(model, [random_tokens(length, seed=length) for length in (5, 31, 70, 128)], 2)
    scheduler = Scheduler(model, kv_cache)
    scheduler.add(*requests)
    scheduler.run()
    check(requests, wanted)


@pytest.mark.parametrize(
    "mesh, lanes, module", [("T3K", 4, generator_vllm), ("TG", 8, generator_vllm), ("TG", 4, galaxy)], ids=["T3K", "TG", "columns"]
)
def test_lanes_have_pages_of_their_own_and_get_the_generators_tokens(served, tmp_path, mesh, lanes, module):
    """Lanes are groups of devices, or the columns of a Galaxy's. Requests come and go; all lanes use the same page ids."""
    model, kv_cache = served(mesh, llama(tmp_path / "model"), "LlamaForCausalLM", users=2 * lanes, lanes=lanes, module=module)
    prompts = [random_tokens(length, seed=length) for length in range(5, 5 + 9 * (2 * lanes + 3), 9)]
    requests, wanted = prepared(model, prompts, 2)
    LaneScheduler(model, kv_cache).run(requests)
    check(requests, wanted)
    asked = dict(num_devices=math.prod(MESH_SHAPES[mesh]), max_model_len=256, max_num_seqs=2)
    assert model.get_max_tokens_all_users("any", tt_data_parallel=lanes, **asked) == 512


def test_lanes_that_the_mesh_does_not_have_are_refused(served, tmp_path):
    directory = llama(tmp_path / "model")
    with pytest.raises(ValueError, match="tt_data_parallel 2: the lanes are the 4 columns of devices"):
        served("TG", directory, "LlamaForCausalLM", users=8, lanes=2, module=galaxy)
    with pytest.raises(ValueError, match="max_batch_size 6 does not divide into tt_data_parallel 4 lanes"):
        served("TG", directory, "LlamaForCausalLM", users=6, lanes=4)


def test_prompts_may_come_in_pieces_that_end_inside_pages(served, tiny):
    """Prompts on both sides of LongRoPE's switch at 64 tokens, other requests decoding between the pieces."""
    model, kv_cache = served("N150", tiny, "Phi3ForCausalLM", users=4)
    requests, wanted = prepared(model, [random_tokens(length, seed=length) for length in (30, 61, 100, 150, 64, 65)], 3)
    scheduler = Scheduler(model, kv_cache, chunk=40)
    scheduler.add(*requests)
    scheduler.run()
    check(requests, wanted, exactly=False)


def llama(directory, **changes):
    save_tiny("Llama", directory, **changes)
    return directory


def table(*rows):
    return torch.tensor(rows, dtype=torch.int32)


def test_requests_may_share_the_pages_of_a_common_prefix(served, tmp_path):
    model, kv_cache = served("N300", llama(tmp_path / "model"), "LlamaForCausalLM")
    prompt = random_tokens(100)
    _, (logits, *_) = expected(model, prompt, 1)
    model.prefill_forward(torch.tensor([prompt[:64] + [9]]), table([5, 2, 7, 0]), kv_cache, [65], [0], empty_slots=[3])
    found = model.prefill_forward(torch.tensor([prompt]), table([5, 2, 1, 4]), kv_cache, [100], [64], empty_slots=[1])
    assert found.shape == (1, 1, 320) and pcc(found[0, 0], logits) >= 0.9999


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_pages_of_another_request_are_refused_where_keys_depend_on_the_length(served, tiny, tmp_path, kind):
    dynamic = dict(max_position_embeddings=64, rope_parameters={"rope_type": "dynamic", "factor": 4.0})
    directory = tiny if kind == "longrope" else llama(tmp_path / "model", **dynamic)
    model, kv_cache = served("N150", directory, "Phi3ForCausalLM" if kind == "longrope" else "LlamaForCausalLM")
    tokens, pages = torch.tensor([random_tokens(50)]), table([5, 2])
    model.prefill_forward(tokens, pages, kv_cache, [32], [0], empty_slots=[0], lengths=[50])
    with pytest.raises(ValueError, match=f"user 1: a prefill from position 32 after .* not supported with RoPE type {kind}"):
        model.prefill_forward(tokens, pages, kv_cache, [50], [32], empty_slots=[1], lengths=[50])
    model.prefill_forward(tokens, pages, kv_cache, [50], [32], empty_slots=[0], lengths=[50])
    assert f"RoPE type {kind}" in prefix_caching_refusal(str(directory), 65, "N150")
    assert prefix_caching_refusal(str(directory), 64, "N150") is None  # no sequence gets other frequencies


def test_a_class_says_what_its_models_can_do():
    assert LlamaForCausalLM.model_capabilities["supports_prefix_caching"]
    assert not Phi3ForCausalLM.model_capabilities["supports_prefix_caching"]
    for model_class in (LlamaForCausalLM, Phi3ForCausalLM):
        assert model_class.model_capabilities["supports_async_decode"]
        assert not model_class.model_capabilities["supports_sample_on_device"]


@pytest.mark.parametrize("is_traced", [True, False])
def test_a_warm_up_captures_a_trace_if_asked_and_changes_no_logits(served, tiny, is_traced):
    model, kv_cache = served("N150", tiny, "Phi3ForCausalLM")
    for enable_trace in {False, is_traced}:
        model.warmup_model_prefill(kv_cache, enable_trace)
        model.warmup_model_decode(kv_cache, enable_trace, max_batch_size=4, num_blocks=8)
    pages, step = table([3, 1, 0, 0], *[[0] * 4] * 3), dict(kv_cache=kv_cache, start_pos=[2, -1, -1, -1], enable_trace=is_traced)
    first = model.prefill_forward(torch.tensor([[3, 4]]), pages[:1], kv_cache, [2])
    second = model.decode_forward(torch.tensor([[5], [0], [0], [0]]), page_table=pages, **step)
    assert bool(model.args.mesh_device.traces) == is_traced
    model.generator.prefill([[3, 4]])
    assert torch.equal(second[0, 0], model.generator.decode([5])[0]) and first.shape == (1, 1, 320)


def initialize(model, mesh_device, class_name="Phi3ForCausalLM", users=2, max_seq_len=128, **settings):
    model_class = getattr(generator_vllm, class_name)
    return model_class.initialize_vllm_model(SimpleNamespace(_name_or_path=str(model)), mesh_device, users, max_seq_len, **settings)


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(class_name="LlamaForCausalLM"), "model is a Phi3ForCausalLM; LlamaForCausalLM runs LlamaForCausalLM"),
        (dict(class_name="QwenForCausalLM"), "QwenForCausalLM runs Qwen2ForCausalLM, Qwen3ForCausalLM"),
        (dict(tt_data_parallel=2), "data_parallel 2 does not divide a mesh of 1x1 devices; numbers that do: 1"),
        (dict(users=3), "max_batch_size 3 is not supported; supported are 1, 2, 4"),
        (dict(max_seq_len=5000), "max_seq_len 5000 is outside 1 to 4096"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_weights_are_read(tiny, settings, message):
    with open_mesh("N150") as mesh_device, pytest.raises(ValueError, match=message):
        initialize(tiny, mesh_device, **settings)


def test_the_pool_has_room_for_all_users_or_fills_the_dram(tiny, monkeypatch):
    with open_mesh("N300") as mesh_device:
        made = initialize(tiny, mesh_device, users=2, max_seq_len=128)
        assert type(made).get_max_tokens_all_users("tiny", 2, 1, 128, 2) == 256
        with pytest.raises(ValueError, match=r"\(2, 1, 128, 4\), but initialized for \(2, 1, 128, 2\)"):
            made.get_max_tokens_all_users("tiny", 2, 1, 128, 4)
        monkeypatch.setattr(generator_vllm.dram, "pool_tokens", lambda args: 200)
        assert made.get_max_tokens_all_users("tiny", 2, 1, 128, 2) == 200


@pytest.mark.parametrize(
    "shape, layers, message",
    [
        ((4, 8, 32, 32), 3, "a KV cache of 3 layers and head_dim 32; model has 2 and 32"),
        ((4, 8, 32, 64), 2, "a KV cache of 2 layers and head_dim 64"),
        ((4, 8, 48, 32), 2, "block_size 48 is not supported; supported are 32, 64, 128"),
        ((10**7, 8, 32, 32), 2, "does not fit N150: .* of KV cache"),
    ],
)
def test_a_pool_that_does_not_fit_is_refused(tiny, shape, layers, message):
    with open_mesh("N150") as mesh_device:
        made = initialize(tiny, mesh_device)
        with pytest.raises(ValueError, match=message):
            made.allocate_kv_cache(shape, torch.bfloat16, layers)


def test_calls_that_the_model_cannot_serve_are_refused(served, tiny):
    model, kv_cache = served("N150", tiny, "Phi3ForCausalLM", users=2)
    tokens, pages = torch.tensor([[3]]), table([0, 1])
    with pytest.raises(ValueError, match="kv_cache: it must be what allocate_kv_cache of this model returned"):
        model.prefill_forward(tokens, pages, list(kv_cache), [1])
    with pytest.raises(ValueError, match="sampling on the device is not supported"):
        model.prefill_forward(tokens, pages, kv_cache, [1], sampling_params=object())
    model.prefill_forward(tokens, pages, kv_cache, [1])
    both = dict(tokens=torch.tensor([[4], [0]]), page_table=pages.expand(2, -1), kv_cache=kv_cache)
    with pytest.raises(ValueError, match="user 0: position 5, but its sequence has 1 tokens"):
        model.decode_forward(start_pos=[5, -1], **both)
    with pytest.raises(ValueError, match=r"slots \[1, 1\]: they must be 0 to 1 in some order"):
        model.decode_forward(start_pos=[1, -1], slot_remap=torch.tensor([1, 1]), **both)
    step = model.decode_forward(start_pos=[-1, 1], slot_remap=torch.tensor([1, 0]), read_from_device=False, **both)
    with pytest.raises(ValueError, match="is_tokens: the model gives logits"):
        model.process_decode_output_host(step, is_tokens=True)
    assert model.process_decode_output_host(model.read_decode_output(step)).shape == (2, 1, 320)
