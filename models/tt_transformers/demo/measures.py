"""Measurements of one batch of users, from the times of its parts."""

from models.common import backend
from models.common.profiler import Measurement


def has_values(settings) -> bool:
    """Whether the run computes logits that mean something."""
    return backend.values_meaningful() and not settings.shape_only


def measure(profiler, users) -> list[Measurement]:
    """Measurements from one batch's times. Each user's first token comes from prefill, all others from decode steps."""
    batch = users[0].batch
    prefill = profiler.seconds("inference_prefill")
    prompt_tokens = sum(len(user.prompt_ids) for user in users)
    measurements = [
        Measurement("TTFT", profiler.seconds("TTFT") * 1000, "ms", batch),
        Measurement("inference_prefill", prefill, "s", batch),
        Measurement("prefill_t/s", prompt_tokens / prefill, "t/s", batch),
        Measurement("generate", profiler.seconds("generate"), "s", batch),
    ]
    return measurements + measure_decode(profiler, sum(len(user.token_ids) - 1 for user in users), batch)


def measure_decode(profiler, tokens: int, batch: int) -> list[Measurement]:
    """Measurements of decode steps with `tokens` tokens of all users."""
    steps = profiler.count("inference_decode")
    if not steps:
        return []
    decode = profiler.seconds("inference_decode")
    return [
        Measurement("inference_decode", decode, "s", batch),
        Measurement("decode_t/s/u", steps / decode, "t/s/u", batch),
        Measurement("decode_t/s", tokens / decode, "t/s", batch),
    ]
