"""Lengths that do not fit are refused with their numbers: before any work, and in decode before anything changes."""

from types import SimpleNamespace

import pytest
import torch

from models.common.mesh import open_mesh
from models.tt_transformers.tt.config.rope import DefaultRope
from models.tt_transformers.tt.generator import check_lengths
from models.tt_transformers.tt.model_args import ModelArgs
from models.tt_transformers.tt.placement import Placement
from models.tt_transformers.tt.runtime.page_table import PagedAttentionConfig
from tests.support.generation import generator, greedy, random_tokens, tiny  # noqa: F401
from tests.support.tiny_phi3 import save_tiny_phi3


def limits(recompute_len=65, **changes):
    settings = dict(
        arch=SimpleNamespace(rope=SimpleNamespace(recompute_len=recompute_len)),
        max_batch_size=2,
        users=2,
        max_seq_len=128,
        prefill_chunk_size=1024,
        paged_attention_config=PagedAttentionConfig(32, 5),
        placement=Placement((1, 1)),
    )
    return SimpleNamespace(**{**settings, **changes})


def unpaged(**changes):
    return limits(paged_attention_config=None, **{"prefill_chunk_size": 64, **changes})


@pytest.mark.parametrize(
    "args, prompts, generated, message",
    [
        (limits(), [1, 2, 3], 1, "3 prompts for a model set up for 1 to 2 users"),
        (limits(), [5, 0], 1, "the prompt of user 1 has no tokens"),
        (limits(), [5, 128], 1, "user 1: a prompt of 128 tokens leaves no room .* max_seq_len 128"),
        (limits(), [100], 29, r"100 prompt tokens \+ 29 to generate = 129 is more than max_seq_len 128"),
        (limits(), [70, 70], 30, "2 user.* need 8 pages of 32 tokens, page_params has max_num_blocks = 5; give at least 8"),
        (unpaged(), [65], 1, "user 0: a prompt of 65 tokens runs in chunks of 64, which needs paged attention"),
        (
            unpaged(),
            [10, 60],
            6,
            "user 1: generation past 64 tokens, where LongRoPE changes its factors and 65 are computed again, runs in "
            r"chunks of 64, which needs paged attention; .* MAX_PREFILL_CHUNK_SIZE \(thousands.*a chunk holds 65",
        ),
        (unpaged(), [64], 2, "user 0: generation past 64 tokens"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_numbers_before_any_work(args, prompts, generated, message):
    with pytest.raises(ValueError, match=message):
        check_lengths(args, prompts, generated)


@pytest.mark.parametrize(
    "args, prompt, generated",
    [
        (unpaged(), 60, 5),  # the last token is generated from 64 tokens
        (unpaged(), 64, 1),
        (unpaged(max_seq_len=64), 60, 4),
        (unpaged(prefill_chunk_size=65), 60, 60),
        (unpaged(prefill_chunk_size=None), 60, 60),
        (unpaged(recompute_len=31), 40, 60),  # past the switch from the start: nothing is computed again
        (unpaged(arch=SimpleNamespace(rope=DefaultRope(head_dim=32, theta=10000.0, max_position_embeddings=128))), 60, 60),
        (limits(prefill_chunk_size=64), 60, 60),
    ],
)
def test_generation_that_computes_no_more_than_a_chunk_again_is_taken(args, prompt, generated):
    check_lengths(args, [prompt], generated)


@pytest.mark.parametrize("prompt, generated", [(32, 1), (30, 3)])
def test_pages_are_counted_for_the_tokens_that_run_which_the_last_is_not(prompt, generated):
    args = limits(paged_attention_config=PagedAttentionConfig(32, 1))
    check_lengths(args, [prompt], generated)
    with pytest.raises(ValueError, match="33 tokens in all need 2 pages of 32 tokens, .* max_num_blocks = 1; give at least 2"):
        check_lengths(args, [prompt], generated + 1)


@pytest.mark.parametrize("length, pages", [(90, 4), (90, 5), (140, 5)])
def test_a_pool_smaller_than_a_users_whole_context_serves_as_far_as_it_goes(generator, tiny, length, pages):
    """The pool has fewer pages than max_seq_len needs, and than the padded last chunk of the prompt reaches."""
    prompt, steps = random_tokens(length), 8
    small = generator("N150", tiny, users=2, max_seq_len=2048, pages=pages)
    assert small.page_table.table.shape == (2, pages)
    ample = generator("N150", tiny, users=2, max_seq_len=2048)
    small.args.prefill_chunk_size = ample.args.prefill_chunk_size = 128
    ((tokens, logits), (expected, expected_logits)) = (greedy(made, [prompt], steps) for made in (small, ample))
    assert tokens == expected and torch.equal(logits, expected_logits)
    # To the last place of the last page, and no further.
    for _ in range(32 * pages - len(small.sequences[0])):
        small.decode([5])
    with pytest.raises(ValueError, match=rf"user 0 needs 1 more page\(s\) .* 0 of max_num_blocks = {pages} are free"):
        small.decode([5])


@pytest.mark.parametrize("active", [None, [True, True]])
def test_a_user_without_a_prompt_cannot_go_on(generator, tiny, active):
    made = generator("N150", tiny, users=2, max_seq_len=48)
    made.prefill([[3, 4]])
    with pytest.raises(ValueError, match="user 1 has no prompt"):
        made.decode([5, 6], active)
    assert made.sequences == [[3, 4], []]
    assert made.decode([5, 6], [True, False]).shape == (2, 320)


@pytest.mark.parametrize("token", [320, -1])
def test_a_token_without_an_embedding_is_refused(generator, tiny, token):
    made = generator("N150", tiny, users=2, max_seq_len=48)
    message = f"user 1: token {token} is outside the model's vocabulary of 320"
    with pytest.raises(ValueError, match=message):
        made.prefill([[3], [4, token]])
    made.prefill([[3], [4]])
    with pytest.raises(ValueError, match=message):
        made.decode([5, token])
    assert made.decode([5, token], [True, False]).shape == (2, 320)


def test_a_longer_prompt_may_stop_at_max_seq_len():
    check_lengths(limits(), [10, 120], 20)


def test_the_chunk_that_the_environment_sets_is_the_one_that_counts(monkeypatch, tmp_path):
    save_tiny_phi3(tmp_path / "model", max_position_embeddings=4096, original_max_position_embeddings=1500)
    with open_mesh("N150") as mesh_device:

        def check(chunk):
            monkeypatch.setenv("MAX_PREFILL_CHUNK_SIZE", chunk)
            check_lengths(ModelArgs(mesh_device, hf_model=tmp_path / "model", max_seq_len=2048), [1000], 600)

        with pytest.raises(ValueError, match="generation past 1500 tokens.* 1501 are .* in chunks of 1024"):
            check("1")
        check("2")


def test_a_sequence_at_max_seq_len_takes_no_more_tokens(generator, tiny):
    made = generator("N150", tiny, users=2, max_seq_len=48)
    made.prefill([random_tokens(47), random_tokens(10)])
    made.decode([5, 6])
    with pytest.raises(ValueError, match="user 0 is at max_seq_len 48"):
        made.decode([5, 6])
    assert made.decode([0, 6], [False, True]).shape == (2, 320)


@pytest.mark.parametrize(
    "settings, lengths, message",
    [
        (dict(max_seq_len=48), (20, 47), "user 1 is at max_seq_len 48"),
        (dict(max_seq_len=96, pages=3), (31, 31), r"user 1 needs 1 more page\(s\) .* for 33 tokens, 0 of .* 3 are free"),
        (dict(max_seq_len=96, paged=False), (20, 63), "user 1: generation past 64 tokens.* runs in chunks of 64"),
    ],
    ids=["max_seq_len", "pages", "recomputation"],
)
def test_a_decode_that_is_refused_for_one_user_changes_nothing(generator, tiny, settings, lengths, message):
    made = generator("N150", tiny, users=2, **settings)
    made.args.prefill_chunk_size = 64
    prompts = [random_tokens(length, seed=length) for length in lengths]

    def steps(refused):
        made.prefill(prompts)
        made.decode([5, 6])
        if refused:
            with pytest.raises(ValueError, match=message):
                made.decode([7, 8])
        assert made.sequences == [prompts[0] + [5], prompts[1] + [6]]
        return made.decode([9, 0], [True, False])[0]

    assert torch.equal(steps(refused=True), steps(refused=False))


@pytest.mark.parametrize("tokens, active", [([5, 6, 7], None), ([5, 6], [True])])
def test_more_tokens_than_users_or_flags_are_refused(generator, tiny, tokens, active):
    made = generator("N150", tiny, users=2, max_seq_len=48)
    made.prefill([[3], [4]])
    with pytest.raises(ValueError, match=f"{len(tokens)} tokens, {len(active or tokens)} active flags for up to 2 users"):
        made.decode(tokens, active)
    assert made.sequences == [[3], [4]]
