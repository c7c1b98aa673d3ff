"""What a run does with one batch of users: it generates their texts, or does one of the checks that an option names.

All functions take the same arguments and return measurements. A check that fails raises ValueError.
"""

from dataclasses import replace
from functools import partial

import torch

from models.common.pcc import pcc
from models.common.profiler import Measurement, Profiler
from models.tt_transformers.demo import decode_only, report
from models.tt_transformers.demo.measures import has_values, measure
from models.tt_transformers.tt.runtime.decode_step import SKIP
from models.tt_transformers.tt.runtime.repeated_step import repeat_step

# The least correlation of a step's logits with Hugging Face's, by precision: that of rounded weights, or of bf16.
LEAST_PCC, LEAST_PCC_BF16 = 0.99, 0.999


def of(settings):
    """The function that runs a batch of the case `settings`."""
    if settings.decode_only:
        return decode_only.run
    return next((function for option, function in _CHECKS.items() if getattr(settings, option)), generate)


def generate(generator, users, sampler, settings, args, stop_token_ids, prefill=None) -> list[Measurement]:
    """Generates the texts of one batch, printing the first user's as it comes, and returns measurements.

    Without meaningful values it runs prefill and one decode step only: further steps have the same ops.
    prefill: users -> logits; None: the generator's.
    """
    prefill, profiler = prefill or partial(_prefill, generator), Profiler()
    if not has_values(settings):
        prefill(users)
        generator.decode([0] * len(users))
        return []

    stream = report.Stream(users[0], args.decode)
    with profiler.timed("generate"):
        with profiler.timed("TTFT"):
            with profiler.timed("inference_prefill"):
                logits = prefill(users)
            tokens = sampler(logits)
        active = [True] * len(users)
        while True:
            for user, token in zip(users, tokens):
                if user.stop_reason is None:
                    user.add(token, stop_token_ids, settings.max_generated_tokens, settings.max_seq_len)
            if active[0]:
                stream.add(tokens[0])
            if settings.print_outputs:
                report.print_tokens(users, args)
            active = [user.stop_reason is None for user in users]
            if not any(active):
                break
            with profiler.timed("inference_decode"):
                logits = generator.decode(tokens, active)
                tokens = sampler(logits, active)
    stream.finish()
    return measure(profiler, users)


def prefill_only(generator, users, sampler, settings, args, stop_token_ids) -> list[Measurement]:
    """A prefill, and each user's first token."""
    if not has_values(settings):
        _prefill(generator, users)
        return []
    return generate(generator, users, sampler, settings, args, stop_token_ids)


def stress(generator, users, sampler, settings, args, stop_token_ids) -> list[Measurement]:
    """A prefill, and the first decode step `max_generated_tokens` times; see `repeat_step`."""
    tokens = sampler(generator.prefill([user.prompt_ids for user in users]))
    generator.decode(tokens)  # gives every user the page that the step writes to
    idle = generator.users - len(users)
    positions = [len(user.prompt_ids) for user in users]
    measurements = repeat_step(
        generator.runner, tokens + [0] * idle, positions + [SKIP] * idle, generator.pages, settings.max_generated_tokens
    )
    for user, token in zip(users, tokens):
        user.token_ids, user.stop_reason = [token], "repeated_step"
    return measurements


def from_cached_pages(generator, users, sampler, settings, args, stop_token_ids) -> list[Measurement]:
    """Generates the texts twice: as usual, and from prompts of which all whole pages but the last are in the KV cache.

    Compares the logits of all steps, because equally likely tokens may be chosen otherwise.
    """
    kept = _Kept(sampler)
    measurements = generate(generator, users, kept, settings, args, stop_token_ids)
    if not has_values(settings):
        return measurements
    again = [replace(user, token_ids=[], stop_reason=None) for user in users]
    replayed = _Replayed(kept)
    generate(generator, again, replayed, settings, args, stop_token_ids, partial(_prefill_from_cache, generator))
    least = min(min(map(pcc, *logits)) for logits in zip(kept.logits, replayed.logits))
    _check_pcc(least, LEAST_PCC_BF16, "with a cached prefix and without")
    return [*measurements, Measurement("least_pcc", least, "", users[0].batch)]


def against_hugging_face(generator, users, sampler, settings, args, stop_token_ids) -> list[Measurement]:
    """Generates the texts, and compares each step's logits with those of Hugging Face's model for the same tokens."""
    kept = _Kept(sampler)
    measurements = generate(generator, users, kept, settings, args, stop_token_ids)
    if not has_values(settings):
        return measurements
    model, found = args.reference_transformer(), []
    for row, user in enumerate(users):
        tokens, steps = user.prompt_ids + user.token_ids[:-1], len(user.token_ids)
        with torch.inference_mode():
            expected = model(torch.tensor([tokens]), logits_to_keep=steps).logits[0].float()
        found += [pcc(logits[row], row_of) for logits, row_of in zip(kept.logits, expected)]
    _check_pcc(min(found), LEAST_PCC_BF16 if args.precision.name == "bf16" else LEAST_PCC, "with Hugging Face's")
    return [*measurements, Measurement("least_pcc", min(found), "", users[0].batch)]


def check_no_images(settings, batches) -> None:
    """Raises ValueError if a user has images and the case's check is of texts only."""
    check = next((name for name in ("decode_only", "stress_test", "apc_test", "pcc_check") if getattr(settings, name)), None)
    if check and any(user.images for users in batches for user in users):
        raise ValueError(f"{check} runs prompts without images")


def check_equal_texts(batches) -> None:
    """Raises ValueError if two users with equal prompts have other texts."""
    first = {}
    for user in (user for users in batches for user in users):
        other = first.setdefault((*user.prompt_ids, *user.image_names), user)
        if other.token_ids != user.token_ids:
            raise ValueError(
                f"user {user.index} of batch {user.batch} has the prompt of user {other.index} of batch {other.batch}, and "
                "another text"
            )


def _prefill(generator, users) -> torch.Tensor:
    return generator.prefill([user.prompt_ids for user in users], [user.images for user in users])


def _prefill_from_cache(generator, users) -> torch.Tensor:
    """Prefills the prompts, and then their last tokens once more, after the cached pages before these -> logits."""
    prompts, block = [user.prompt_ids for user in users], generator.model.paged.block_size
    starts = [(len(prompt) - 1) // block * block for prompt in prompts]
    if 0 in starts:
        user = starts.index(0)
        raise ValueError(f"user {user}: a prompt of {len(prompts[user])} tokens has no whole page of {block} to share")
    generator.prefill(prompts)
    slots = list(range(len(prompts)))
    ends = [prompt[start:] for prompt, start in zip(prompts, starts)]
    return generator.runner.prefill(ends, slots, starts, generator.pages[slots])


def _check_pcc(found: float, least: float, what: str) -> None:
    if not found >= least:
        raise ValueError(f"the logits of a step have PCC {found:.5f} {what}; at least {least} is expected")


class _Kept:
    """A sampler that keeps each step's logits and tokens."""

    def __init__(self, sampler):
        self._sampler, self.logits, self.tokens = sampler, [], []

    def __call__(self, logits, *active):
        self.logits.append(logits)
        self.tokens.append(self._sampler(logits, *active))
        return self.tokens[-1]


class _Replayed:
    """In place of a sampler: keeps each step's logits, and gives the tokens that another run has kept."""

    def __init__(self, kept: _Kept):
        self._tokens, self.logits = iter(kept.tokens), []

    def __call__(self, logits, *active):
        self.logits.append(logits)
        return next(self._tokens)


_CHECKS = {
    "stress_test": stress,
    "apc_test": from_cached_pages,
    "pcc_check": against_hugging_face,
    "prefill_profile": prefill_only,
}
