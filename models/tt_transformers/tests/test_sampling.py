"""Greedy and top-k/top-p sampling, compared with Hugging Face's logits processors."""

import re

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from models.common.sampling import Sampler, SamplingParams, candidates


def random_logits(rows, vocab=4096, spread=3.0, seed=0):
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * spread


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
@pytest.mark.parametrize("top_k, top_p", [(0, 1.0), (1, 1.0), (40, 1.0), (0, 0.08), (0, 0.95), (0, 0.9999), (50, 0.9)])
@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_candidates_are_those_of_hugging_face(temperature, top_k, top_p, spread):
    logits = random_logits(1, spread=spread)
    expected = TemperatureLogitsWarper(temperature)(None, logits.double())
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    expected = expected.softmax(-1)[0]
    probabilities, token_ids = candidates(logits[0], SamplingParams(temperature, top_k, top_p))
    got = torch.zeros(len(expected), dtype=torch.float64).index_copy(0, token_ids, probabilities)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


def test_temperature_zero_is_argmax_whatever_the_seed():
    logits = random_logits(5)
    for seed in range(3):
        sampler = Sampler(SamplingParams(temperature=0, top_p=0.5, seed=seed), range(5))
        assert sampler(logits) == logits.argmax(-1).tolist()


def test_tokens_are_drawn_with_their_probabilities():
    probabilities = torch.tensor([0.5, 0.25, 0.15, 0.1])
    sampler = Sampler(SamplingParams(temperature=1.0, seed=3), [0])
    draws = [sampler(probabilities.log()[None])[0] for _ in range(4000)]
    frequencies = torch.bincount(torch.tensor(draws), minlength=4) / len(draws)
    # Four standard deviations of the largest of the four frequencies.
    assert (frequencies - probabilities).abs().max() < 4 * (0.25 / len(draws)) ** 0.5


def test_a_users_draws_do_not_depend_on_the_batch():
    params = SamplingParams(temperature=1.0, top_p=0.9, seed=7)
    steps = [random_logits(4, seed=step) for step in range(20)]
    together = Sampler(params, [10, 11, 12, 13])
    alone = Sampler(params, [12])
    texts = [together(logits, [step % 3 == 0, True, True, step < 5]) for step, logits in enumerate(steps)]
    assert [tokens[2] for tokens in texts] == [alone(logits[2:3])[0] for logits in steps]


def test_seed_and_user_each_change_the_draws_and_repeat():
    logits = random_logits(1, spread=0.1)

    def draws(seed, user):
        sampler = Sampler(SamplingParams(temperature=1.0, seed=seed), [user])
        return tuple(sampler(logits)[0] for _ in range(8))

    assert draws(0, 0) == draws(0, 0)
    assert len({draws(0, 0), draws(0, 1), draws(1, 0), draws(1, 1)}) == 4


def test_tiny_temperature_does_not_overflow():
    logits = random_logits(1)
    assert Sampler(SamplingParams(temperature=1e-300), [0])(logits) == logits.argmax(-1).tolist()


def test_nan_logits_are_an_error_for_active_users_only():
    logits = random_logits(2)
    logits[1, 5] = torch.nan
    sampler = Sampler(SamplingParams(), [0, 1])
    assert sampler(logits, [True, False]) == [int(logits[0].argmax()), 0]
    with pytest.raises(ValueError, match="row 1 hold NaN"):
        sampler(logits)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"temperature": -0.1}, "temperature is -0.1; accepted: a number >= 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"temperature": True}, "temperature is True"),
        ({"temperature": "0"}, "temperature is '0'"),
        ({"top_p": 0}, "top_p is 0; accepted: a number > 0 and <= 1"),
        ({"top_p": 1.01}, "top_p is 1.01"),
        ({"top_k": -1}, "top_k is -1; accepted: an integer >= 0"),
        ({"top_k": 2.5}, "top_k is 2.5"),
        ({"seed": -1}, "seed is -1; accepted: an integer >= 0"),
        ({"seed": None}, "seed is None"),
    ],
)
def test_values_that_make_no_sense_are_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        SamplingParams(**fields)
