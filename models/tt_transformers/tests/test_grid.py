"""Tensor parallel in two dimensions: a model split over the rows and columns of a mesh gives Hugging Face's logits."""

from types import SimpleNamespace

import pytest
import torch

from models.common.pcc import pcc
from models.tt_transformers.tt.generator import check_lengths
from models.tt_transformers.tt.placement import Placement
from models.tt_transformers.tt.runtime.page_table import PagedAttentionConfig, PageTable, table_of_pools
from tests.support.generation import generator, greedy, greedy_of, open_generator, random_tokens  # noqa: F401
from tests.support.tiny_models import save_tiny
from tests.support.wide import some_of

MAX_SEQ_LEN = 256
# In chunks, in groups of the same padded length, and in every column of a Galaxy.
LENGTHS = (200, 40, 150, 5, 33, *range(20, 47))
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
# KV heads that are padded, or replicated over rows; widths that do not divide over the columns; biases, windows, norms of heads.
MODELS = {
    "Llama": dict(num_attention_heads=40, num_key_value_heads=10, hidden_size=320, head_dim=32, attention_bias=True,
                  mlp_bias=True, rope_parameters={"rope_theta": 10000.0, **LLAMA3}),
    "Mistral": dict(sliding_window=100),
    "Phi3": dict(tie_word_embeddings=True, rope_parameters={"rope_theta": 10000.0, "partial_rotary_factor": 0.5}),
    "Qwen2": dict(num_attention_heads=14, hidden_size=448, use_sliding_window=True, sliding_window=100, max_window_layers=1),
    "Qwen3": dict(num_attention_heads=6, num_key_value_heads=3, head_dim=80, intermediate_size=200),
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TT_CACHE_PATH", str(tmp_path / "cache"))


@pytest.fixture(scope="module", params=some_of(list(MODELS), "Llama", "Qwen3"))
def model(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param) / "model"
    reference = save_tiny(request.param, directory, max_position_embeddings=2 * MAX_SEQ_LEN, **MODELS[request.param])
    return directory, reference.float()


def prompts(chosen=slice(None)):
    return [random_tokens(length, seed=length) for length in LENGTHS[chosen]]


def steps(directory, users, chosen, mesh_name="TG", shape=None):
    """Logits of the prefills, in chunks of 128, and of two decode steps: [3, users, vocab_size]."""
    with open_generator(mesh_name, directory, users=users, max_seq_len=MAX_SEQ_LEN, shape=shape) as made:
        made.args.prefill_chunk_size = 128
        decoded = ([token] * len(LENGTHS[chosen]) for token in (7, 8))
        return torch.stack([made.prefill(prompts(chosen)), *map(made.decode, decoded)])


@torch.no_grad()
def assert_follow(logits, reference, chosen, users):
    for user in users:
        for step, forced in enumerate(([], [7], [7, 8])):
            expected = reference(torch.tensor([prompts(chosen)[user] + forced])).logits[0, -1]
            assert pcc(logits[step, user], expected) >= 0.999, (user, step)


def test_every_user_has_hugging_faces_logits_and_those_it_has_in_another_batch_and_column(model):
    directory, reference = model
    together = steps(directory, 32, slice(None))
    assert_follow(together, reference, slice(None), (0, 2, 3, 9, 17, 31))
    assert torch.equal(steps(directory, 8, slice(1, 9)), together[:, 1:9])
    assert torch.equal(steps(directory, 1, slice(31, 32)), together[:, 31:])


def test_greedy_text_is_hugging_faces_up_to_near_ties(generator, model):
    directory, reference = model
    chosen = prompts(slice(1, 4))
    text, logits = greedy(generator("TG", directory, users=4, max_seq_len=MAX_SEQ_LEN), chosen, 12)
    for user, prompt in enumerate(chosen):
        expected, _ = greedy_of(reference, prompt, 12)
        same = next((step for step in range(12) if text[user][step] != expected[step]), 12)
        # Where the texts part, the two tokens' logits are within the rounding of bf16.
        if same < 12:
            rivals = logits[same, user, [text[user][same], expected[same]]]
            assert (rivals[0] - rivals[1]) / logits[same, user].std() < 0.05, (user, same)


@pytest.mark.parametrize("start", [32, 128])
def test_a_cached_prefix_is_read_from_its_users_column(generator, model, start):
    made = generator("TG", model[0], users=8, max_seq_len=MAX_SEQ_LEN)
    chosen = prompts(slice(0, 8))
    whole = made.prefill(chosen)
    for user in (0, 2):  # of the first column and of the second
        (rest,) = made.runner.prefill([chosen[user][start:]], [user], [start], made.pages[user : user + 1])
        assert pcc(rest, whole[user]) >= 0.9999


def test_a_user_leaves_and_another_joins_in_a_column_without_a_change_to_the_others(generator, model):
    made = generator("TG", model[0], users=8, max_seq_len=MAX_SEQ_LEN)
    made.prefill(prompts(slice(0, 8)))
    made.decode([7] * 8)
    before = made.decode([8] * 8)
    made.prefill(prompts(slice(0, 8)))
    made.remove(5)
    made.decode([7] * 8, [user != 5 for user in range(8)])
    (alone,) = made.prefill(prompts(slice(5, 6)))
    made.prefill(prompts(slice(0, 8)))
    made.remove(5)
    assert torch.equal(made.add(5, prompts(slice(5, 6))[0]), alone)
    made.decode([7] * 8)
    assert torch.equal(made.decode([8] * 8), before)


def test_every_column_has_its_own_pool_of_pages():
    table = PageTable(PagedAttentionConfig(32, 3), users=4, max_seq_len=96, users_of_pool=2)
    for user, tokens in ((0, 33), (1, 32), (2, 64), (3, 1)):
        table.grow(user, tokens)
    assert table.table.tolist() == [[0, 1, 0], [2, 0, 0], [0, 1, 0], [2, 0, 0]]
    with pytest.raises(ValueError, match="user 3 needs 1 more page.* 0 of max_num_blocks = 3 are free"):
        table.grow(3, 33)
    table.release(2)
    table.grow(3, 96)
    assert sorted(table.table[3].tolist()) == [0, 1, 2] and table.table[1].tolist() == [2, 0, 0]


def test_a_prompts_pages_are_filled_in_its_users_column_only():
    table = table_of_pools(torch.tensor([[5, 6], [7, -1]], dtype=torch.int32), pool_of_row=[1, 0], pools=2)
    assert table.tolist() == [[-1, -1], [7, -1], [5, 6], [-1, -1]]


def test_the_pages_that_lengths_need_are_counted_in_each_column():
    args = SimpleNamespace(
        arch=SimpleNamespace(rope=SimpleNamespace(recompute_len=None)), max_batch_size=8, users=8, max_seq_len=128,
        prefill_chunk_size=1024, paged_attention_config=PagedAttentionConfig(32, 5),
        placement=Placement((8, 4), model_axis=0, residual_axis=1, users_axis=1),
    )  # fmt: skip
    check_lengths(args, [60] * 8, 5)
    with pytest.raises(ValueError, match="2 user.* with 163 tokens in all need 6 pages .* max_num_blocks = 5; give at least 6"):
        check_lengths(args, [60, 60, 95, 60], 5)


def test_unpaged_caches_are_refused_where_users_are_split(model):
    with pytest.raises(ValueError, match="TG splits the users over its columns, which needs paged attention: give page_params"):
        with open_generator("TG", model[0], paged=False, max_seq_len=MAX_SEQ_LEN):
            pass


@pytest.mark.parametrize("shape", [(2, 4), (8, 1)], ids=["grid", "line"])
def test_a_t3k_may_be_a_grid_or_a_line_of_rows(model, shape):
    directory, reference = model
    assert_follow(steps(directory, 4, slice(3, 7), "T3K", shape), reference, slice(3, 7), range(4))
