"""Chunked prefill and the LongRoPE switch."""

from itertools import product

import pytest
import torch

from models.common.mesh_names import LINES
from models.common.pcc import pcc
from models.tt_transformers.tt.checkpoints.location import BUNDLED
from models.tt_transformers.tt.config.program_configs import padded_prefill_length
from tests.support.generation import (
    generator,  # noqa: F401
    greedy,
    greedy_of,
    known_by_heart,
    random_tokens,
    sample_tokens,
    tiny,  # noqa: F401
)
from tests.support.wide import some_of

pytestmark = pytest.mark.whole

# Not multiples of a page, tile or chunk; padded to 1536 and 4096 rows.
PROMPT_LENGTHS = (1501, 3999)
SMALLEST_CHUNK = 128


def chunk_sizes(length):
    """Every power of 2 that divides the padded prompt and holds whole blocks of the attention ops."""
    padded = padded_prefill_length(length)
    sizes = [2**exponent for exponent in range(20)]
    return [size for size in sizes if SMALLEST_CHUNK <= size < padded and padded % size == 0]


@pytest.mark.parametrize(
    "mesh, precision",
    some_of(
        list(product(LINES, ("bf16", "performance", "accuracy"))),
        ("N150", "bf16"), ("N150", "performance"), ("N300", "accuracy"), ("T3K", "bf16"),
    ),
)  # fmt: skip
def test_last_token_logits_do_not_depend_on_the_chunk_size(generator, tiny, mesh, precision):
    made = generator(mesh, tiny, precision=precision)
    assert_chunk_size_does_not_matter(made, [random_tokens(length) for length in PROMPT_LENGTHS])


@pytest.mark.parametrize("mesh, precision", [("N150", "accuracy"), ("N300", "performance")])
def test_nor_do_those_of_the_bundled_model_with_heads_of_96(generator, mesh, precision):
    made = generator(mesh, BUNDLED, precision=precision)
    assert made.args.arch.head_dim == 96
    assert_chunk_size_does_not_matter(made, [sample_tokens(made.args)[: PROMPT_LENGTHS[0]]])


def assert_chunk_size_does_not_matter(made, prompts):
    for prompt in prompts:
        length = len(prompt)
        made.args.prefill_chunk_size = padded_prefill_length(length)
        (whole,) = made.prefill([prompt])
        sizes = chunk_sizes(length)
        assert len(sizes) >= 3
        for size in sizes:
            made.args.prefill_chunk_size = size
            (chunked,) = made.prefill([prompt])
            assert pcc(chunked, whole) >= 0.9999, f"{length} tokens in chunks of {size}"


@torch.no_grad()
def test_chunked_prefill_of_odd_lengths_follows_hugging_face(generator, tiny):
    made = generator("N150", tiny, users=4)
    made.args.prefill_chunk_size = 256
    reference = made.args.reference_transformer(dtype=torch.float32)
    prompts = [random_tokens(length, seed=length) for length in (1, 257, 777, 1537)]
    for prompt, logits in zip(prompts, made.prefill(prompts)):
        assert pcc(logits, reference(torch.tensor([prompt])).logits[0, -1]) >= 0.999, len(prompt)


@pytest.mark.parametrize(
    "mesh, users, lengths",
    some_of(
        (
            ("N150", 16, (480, 485, 490, 495, 500, 504, 508, 510, 511, 512, 513, 520)),
            ("N300", 4, (480, 511, 512, 520)),
            ("T3K", 4, (490, 508, 510, 513)),
        ),
        ("N300", 4, (480, 511, 512, 520)),
    ),
)
def test_greedy_text_across_the_switch_is_that_of_hugging_face(generator, mesh, users, lengths):
    made = generator(mesh, BUNDLED, users=users, max_seq_len=1024)
    assert made.args.arch.rope.recompute_len == 513
    prompts = [chapter[:length] for chapter, length in zip(known_by_heart(made.args), lengths)]
    reference = made.args.reference_transformer()
    texts, logits = greedy(made, prompts, 100)
    for user, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        expected, expected_logits = greedy_of(reference, prompt, 100)
        assert text == expected, f"a prompt of {len(prompt)} tokens"
        assert min(pcc(*step) for step in zip(logits[:, user], expected_logits)) >= 0.999


def test_only_users_that_cross_the_switch_are_computed_again(generator, tiny, monkeypatch):
    """The other users' logits are, bit for bit, those of a batch in which nobody crosses the switch."""
    made = generator("N150", tiny, users=4, max_seq_len=256)
    crossing, short, long = random_tokens(61, seed=1), random_tokens(20, seed=2), random_tokens(90, seed=3)
    prompts = [short, crossing, long]
    switch_len = made.args.arch.rope.recompute_len - 1
    tokens = [[random_tokens(1, seed=10 * step + user)[0] for user in range(3)] for step in range(8)]

    recomputed = []
    prefill = made.runner.prefill

    def watched(sequences, slots, **rest):
        recomputed.extend((user, len(sequence)) for user, sequence in zip(slots, sequences))
        return prefill(sequences, slots, **rest)

    with_crossing = [made.prefill(prompts)]
    monkeypatch.setattr(made.runner, "prefill", watched)
    with_crossing += [made.decode(step) for step in tokens]
    assert recomputed == [(1, switch_len + 1)]

    without = [made.prefill([short, crossing[:30], long])]
    without += [made.decode(step) for step in tokens]
    assert recomputed[-3:] == [(0, 20), (1, 30), (2, 90)], "nobody crosses here"
    for a, b in zip(with_crossing, without):
        assert torch.equal(a[[0, 2]], b[[0, 2]])
        assert not torch.equal(a[1], b[1])


def test_users_may_cross_the_switch_in_one_step_while_another_ends(generator, tiny):
    """Each user's logits are, bit for bit, those of the user alone in the batch."""
    made = generator("N150", tiny, users=4, max_seq_len=80)
    switch_len = made.args.arch.rope.recompute_len - 1
    prompts = [random_tokens(length, seed=length) for length in (switch_len - 1, 79, switch_len - 1, 7)]

    def steps(users):
        """The prompts' logits, and those of steps in which users 0 and 2 cross; user 1 is at max_seq_len after the first."""
        logits = [made.prefill(users)]
        for step, token in enumerate((5, 6, 7)):
            active = [step == 0 or len(made.sequences[user]) < 80 for user in range(len(users))]
            logits.append(made.decode([token] * len(users), active))
        return logits

    together = steps(prompts)
    assert [len(sequence) for sequence in made.sequences] == [switch_len + 2, 80, switch_len + 2, 10]
    for user, prompt in enumerate(prompts):
        alone = steps([prompt])
        for step in range(2 if user == 1 else 4):
            assert torch.equal(together[step][user], alone[step][0]), (user, step)


@pytest.mark.parametrize("mesh, precision", [("N150", "performance"), ("T3K", "accuracy")])
def test_a_user_that_crosses_the_switch_leaves_the_others_text_alone(generator, mesh, precision):
    """Prompts of the bundled model, one shorter than the switch and one longer. Their logits are equal bit for bit."""
    made = generator(mesh, BUNDLED, users=4, max_seq_len=1024, precision=precision)
    switch_len = made.args.arch.rope.recompute_len - 1
    tokens = sample_tokens(made.args)
    short, long, crossing = tokens[:40], tokens[: switch_len + 30], tokens[40 : 40 + switch_len - 2]
    steps = 8
    texts, logits = greedy(made, [short, crossing, long], steps)
    assert len(crossing) <= switch_len < len(made.sequences[1])
    alone, logits_alone = greedy(made, [short, crossing[:20], long], steps)
    assert texts[0] == alone[0] and texts[2] == alone[2]
    assert torch.equal(logits[:, [0, 2]], logits_alone[:, [0, 2]])


@torch.no_grad()
@pytest.mark.parametrize(
    "mesh, length, paged",
    [
        *[("N150", length, True) for length in (60, 64, 65)],
        *[("N150", length, False) for length in (60, 64)],
        ("N300", 62, False),
        ("T3K", 62, True),
        ("T3K", 62, False),
    ],
)
def test_logits_on_both_sides_of_the_switch_follow_hugging_face(generator, tiny, mesh, length, paged):
    """Teacher-forced from before, at and after the switch at 64 tokens; the reference sees the whole sequence each time."""
    made = generator(mesh, tiny, max_seq_len=256, paged=paged)
    reference = made.args.reference_transformer(dtype=torch.float32)
    sequence = random_tokens(length + 8)
    logits = made.prefill([sequence[:length]])
    for end in range(length, length + 8):
        assert pcc(logits[0], reference(torch.tensor([sequence[:end]])).logits[0, -1]) >= 0.999, end
        logits = made.decode([sequence[end]])
