"""Which short prompts run together, and that each has the same result as alone."""

import pytest
import torch

from models.tt_transformers.tt.runtime import prefill_plan
from models.tt_transformers.tt.runtime.prefill_plan import GROUP_ROWS
from tests.support.generation import generator, random_tokens, tiny  # noqa: F401
from tests.support.tiny_models import save_tiny


def groups(made, *lengths):
    """(first user, users) of each group that runs together."""
    planned = prefill_plan.groups([0] * len(lengths), lengths, lengths, made.args.prefill_chunk_size, made.args.arch.rope)
    return [(group.start, group.stop - group.start) for group in planned]


def test_neighbours_of_one_padded_length_and_one_set_of_angles_run_together(generator, tiny):
    made = generator("N150", tiny, users=8)
    assert made.args.arch.rope.recompute_len == 65
    assert groups(made, 5) == [(0, 1)]
    assert groups(made, 5, 64, 20) == [(0, 3)]
    assert groups(made, 5, 64, 65, 128, 129) == [(0, 2), (2, 2), (4, 1)]
    assert groups(made, 5, 100, 5) == [(0, 1), (1, 1), (2, 1)], "only neighbours: the order of users is kept"


def test_prompts_that_dynamic_ntk_rotates_with_other_frequencies_do_not(generator, tmp_path):
    parameters = {"rope_type": "dynamic", "factor": 4.0}
    save_tiny("Llama", tmp_path / "model", max_position_embeddings=64, rope_parameters=parameters)
    made = generator("N150", tmp_path / "model", users=8, max_seq_len=256)
    assert groups(made, 5, 64, 65, 66, 66, 100) == [(0, 2), (2, 1), (3, 2), (5, 1)]


def test_a_group_has_no_more_rows_than_a_chunk_and_the_matmuls_can_cut(generator, tiny):
    made = generator("N150", tiny, users=32)
    made.args.prefill_chunk_size = None
    assert groups(made, *[60] * 32) == [(0, GROUP_ROWS // 128), (16, 16)]
    assert groups(made, *[60] * 12) == [(0, 12)]
    assert groups(made, *[60] * 11) == [(0, 8), (8, 3)], "11 x 128 rows are not whole batches of 512"
    made.args.prefill_chunk_size = 1024
    assert groups(made, *[60] * 32) == [(first, 8) for first in (0, 8, 16, 24)]
    assert groups(made, 1000, 1000) == [(0, 1), (1, 1)]


@pytest.mark.parametrize("paged", [True, False])
@pytest.mark.parametrize("mesh", ["N150", "N300"])
def test_logits_and_caches_are_bit_for_bit_those_of_each_prompt_alone(generator, tiny, mesh, paged):
    made = generator(mesh, tiny, users=8, max_seq_len=256, paged=paged)
    prompts = [random_tokens(length, seed=length) for length in (1, 33, 64, 40, 65, 100, 128)]
    assert groups(made, *map(len, prompts)) == [(0, 4), (4, 3)]
    tokens = [3 + user for user in range(7)]
    together = made.prefill(prompts), made.decode(tokens)
    for user, prompt in enumerate(prompts):
        # The users before it have a prompt that runs alone.
        alone = [random_tokens(200, seed=7)] * user + [prompt]
        assert groups(made, *map(len, alone))[-1] == (user, 1)
        assert torch.equal(made.prefill(alone)[user], together[0][user]), f"prompt of {len(prompt)}"
        # Decode at the switch computes the sequence again, which has nothing to do with groups.
        assert torch.equal(made.decode(tokens[: user + 1])[user], together[1][user]), f"prompt of {len(prompt)}"


@pytest.mark.parametrize(
    "start, end, chunk_size, expected",
    [
        (0, 300, None, [(0, 300)]),
        (0, 300, 128, [(0, 128), (128, 256), (256, 300)]),
        (96, 300, 128, [(96, 128), (128, 256), (256, 300)]),
        (96, 120, 128, [(96, 120)]),
        (128, 256, 128, [(128, 256)]),
    ],
)
def test_chunks_end_at_the_same_places_wherever_they_start(start, end, chunk_size, expected):
    assert list(prefill_plan.chunks(start, end, chunk_size)) == expected
