"""Users join a running batch and leave it; a generator that is closed, or could not be made, holds nothing."""

import re
from pathlib import Path

import pytest
import torch
import ttnn

from models.common.mesh import open_mesh
from models.tt_transformers.measure.capacity import allocated_bytes
from models.tt_transformers.tt.checkpoints.location import BUNDLED
from models.tt_transformers.tt.checkpoints.weights import Weights
from models.tt_transformers.tt.generator import Generator
from models.tt_transformers.tt.model_args import ModelArgs
from models.tt_transformers.tt.modules import decoder
from models.tt_transformers.tt.runtime.kv_cache import KVCacheConfig, PagedKVCache, allocate_kv_cache, make_kv_caches
from models.tt_transformers.tt.runtime.page_table import PagedAttentionConfig
from tests.support.generation import generator, greedy, known_by_heart, random_tokens, tiny  # noqa: F401

JOINING = 13
README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_code_of_the_readme_generates_text(capsys, monkeypatch):
    monkeypatch.delenv("HF_MODEL", raising=False)
    monkeypatch.chdir(README.parents[2])
    blocks = re.findall("```python\n(.*?)```\n", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 3
    for code in blocks:
        exec(compile(code, "README.md", "exec"), {})
        assert len(capsys.readouterr().out.split()) > 10


@pytest.mark.parametrize("paged", [True, False])
def test_a_user_that_joins_31_gets_the_text_it_gets_alone_and_leaves_their_logits_alone(generator, paged):
    """It joins, leaves, and joins again with another prompt, in a place between users who stay."""
    made = generator("N150", BUNDLED, users=32, max_seq_len=256, precision="performance", paged=paged)
    chapters = known_by_heart(made.args)
    prompts = [chapters[user % len(chapters)][3 * user : 3 * user + 20 + 2 * user] for user in range(32)]
    joining = [chapters[0][:40], chapters[1][:130]]
    texts = [greedy(made, [prompt], 5)[0][0] for prompt in joining]

    def steps(join):
        made.prefill(prompts)
        made.remove(JOINING)
        tokens, rows, joined = [17] * 32, [], []
        for step in range(10):
            if join and step in (1, 6):
                joined.append([int(made.add(JOINING, joining[step // 6]).argmax())])
            if join and step == 5:
                made.remove(JOINING)
            running = bool(made.sequences[JOINING])
            tokens[JOINING] = joined[-1][-1] if running else 0
            logits = made.decode(tokens, [user != JOINING or running for user in range(32)])
            if running:
                joined[-1].append(int(logits[JOINING].argmax()))
            rows.append(logits[[user for user in range(32) if user != JOINING]])
        return torch.stack(rows), joined

    (with_it, joined), (without, _) = steps(join=True), steps(join=False)
    assert [text[:5] for text in joined] == texts
    assert torch.equal(with_it, without)


def test_a_user_that_joins_may_cross_the_longrope_switch(generator, tiny):
    made = generator("N300", tiny, users=4, max_seq_len=256)
    assert made.args.arch.rope.recompute_len == 65
    prompt = random_tokens(62, seed=2)
    _, alone = greedy(made, [prompt], 6)
    made.prefill([random_tokens(20)])
    rows = [made.add(3, prompt)]
    while len(rows) < 6:
        rows.append(made.decode([5, 0, 0, int(rows[-1].argmax())], [True, False, False, True])[3])
    assert torch.equal(torch.stack(rows), alone[:, 0])


def test_a_user_that_leaves_gives_its_pages_back(generator, tiny):
    made = generator("N150", tiny, users=2, max_seq_len=128, pages=4)
    made.prefill([random_tokens(70), random_tokens(20)])
    made.remove(0)
    assert made.sequences[0] == []
    made.add(0, random_tokens(90))


@pytest.mark.parametrize(
    "user, prompt, message",
    [
        (0, [3], "user 0 is in the batch already; remove it first"),
        (2, [3], "user 2 is outside the batch of users 0 to 1"),
        (-1, [3], "user -1 is outside the batch"),
        (1, [], "the prompt of user 1 has no tokens"),
        (1, [3] * 128, "user 1: a prompt of 128 tokens leaves no room to generate within max_seq_len 128"),
        (1, [320], "user 1: token 320 is outside the model's vocabulary of 320"),
        (1, [3] * 65, r"user 1 needs 3 more page\(s\) of 32 tokens for 65 tokens, 2 of max_num_blocks = 3 are free"),
    ],
)
def test_a_user_that_cannot_join_leaves_the_batch_as_it_was(generator, tiny, user, prompt, message):
    made = generator("N150", tiny, users=2, max_seq_len=128, pages=3)

    def run(refused):
        made.prefill([[3, 4]])
        if refused:
            with pytest.raises(ValueError, match=message):
                made.add(user, prompt)
        assert made.sequences == [[3, 4], []]
        return made.decode([5]), made.add(1, [6] * 64)

    assert all(map(torch.equal, run(refused=True), run(refused=False)))


@pytest.mark.parametrize("user, message", [(1, "user 1 has no prompt"), (2, "user 2 is outside the batch of users 0 to 1")])
def test_only_a_user_of_the_batch_can_be_removed(generator, tiny, user, message):
    made = generator("N150", tiny, users=2, max_seq_len=128)
    made.prefill([[3, 4]])
    with pytest.raises(ValueError, match=message):
        made.remove(user)


@pytest.fixture
def args(tiny, monkeypatch, tmp_path):
    """`ModelArgs` on a mesh without any memory allocated."""
    monkeypatch.setenv("TT_CACHE_PATH", str(tmp_path / "cache"))
    with open_mesh("N300") as mesh_device:
        assert allocated_bytes(mesh_device) == 0
        yield ModelArgs(mesh_device, hf_model=tiny, max_seq_len=128, page_params={"block_size": 32, "max_num_blocks": 4})


def test_a_closed_generator_holds_nothing(args):
    with Generator.build(args) as made:
        made.prefill([[3, 4]])
        made.decode([5])
        assert allocated_bytes(args.mesh_device) > 0 and args.mesh_device.traces
    assert allocated_bytes(args.mesh_device) == 0 and not args.mesh_device.traces


def test_a_generator_that_cannot_be_made_holds_nothing(args, monkeypatch):
    """The second layer fails."""

    def fail(cls, args, layer):
        assert layer < 1, "no room"
        return resolve(args, layer)

    resolve = decoder.MLPConfig.resolve
    monkeypatch.setattr(decoder.MLPConfig, "resolve", classmethod(fail))
    given = Weights.of(args), make_kv_caches(args)
    for build in (lambda: Generator.build(args), lambda: Generator.build(args, *given)):
        with pytest.raises(AssertionError, match="no room"):
            build()
    assert allocated_bytes(args.mesh_device) == 0


def test_kv_caches_that_do_not_fit_the_model_are_refused_and_freed(args):
    with pytest.raises(ValueError, match="1 KV caches for a model of 2 layers"):
        Generator.build(args, kv_caches=make_kv_caches(args)[:1])
    assert allocated_bytes(args.mesh_device) == 0
    config = KVCacheConfig.resolve(args, layer=0)
    for shape, dtype in (((4, 8, 32, 32), config.dtype), ((4, 4, 32, 32), ttnn.float32)):
        ((keys, values),) = allocate_kv_cache(shape, dtype, 1, args.mesh_device)
        with pytest.raises(ValueError, match=r"KV cache: keys of \(heads, head_dim, dtype\) .* the layer needs \(4, 32, "):
            PagedKVCache(config, keys, values)


def test_kv_caches_may_come_from_outside_with_pages_of_another_size_and_number(args):
    """A server may do this: it chooses the number of pages after the weights are loaded."""

    def logits(**given):
        with Generator.build(args, **given) as made:
            return made.prefill([random_tokens(40)]), made.decode([5]), made.page_table.config

    layers, dtype = args.arch.n_layers, KVCacheConfig.resolve(args, layer=0).dtype
    pairs = allocate_kv_cache((7, 4, 64, 32), dtype, layers, args.mesh_device)
    kv_caches = [PagedKVCache(KVCacheConfig.resolve(args, layer), *pair) for layer, pair in enumerate(pairs)]
    *given, pages = logits(kv_caches=kv_caches)
    assert pages == PagedAttentionConfig(block_size=64, max_num_blocks=7)
    *own, _ = logits()
    assert all(map(torch.equal, given, own))


def test_given_caches_are_freed_where_the_weights_cannot_be_had(tiny, monkeypatch):
    def fail(args):
        raise ValueError("no weights")

    monkeypatch.setattr(Weights, "of", fail)
    with open_mesh("N150") as mesh_device:
        args = ModelArgs(mesh_device, hf_model=tiny, max_seq_len=64)
        before = allocated_bytes(mesh_device)
        kv_caches = make_kv_caches(args)
        assert allocated_bytes(mesh_device) > before
        with pytest.raises(ValueError, match="no weights"):
            Generator.build(args, kv_caches=kv_caches)
        assert allocated_bytes(mesh_device) == before
