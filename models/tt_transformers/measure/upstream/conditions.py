"""Predictions under the conditions of the vendor's published figures: upstream's ops, formats, sampling and prefill."""

from collections.abc import Sequence

from models.common.prediction.call import Call
from models.common.prediction.card import Card
from models.common.prediction.cost import RATES, Rates
from models.common.prediction.forecast import Forecast, forecast
from models.common.prediction.step import HOST, HostRates
from models.tt_transformers.measure.upstream import galaxy, layers, prefill
from models.tt_transformers.measure.upstream.layers import LARGE, ROWS, Formats, Line

# The most columns of logits, of one device or of half a vocabulary, that upstream searches on the device (model.py).
MAX_DEVICE_LOGITS = 64 * 1024
# Models whose `accuracy` mode keeps attention in bfp8, and those whose modes are both `performance` (model_config.py).
INSENSITIVE = ("Llama-3", "Mistral-7B", "Phi-3-mini", "phi-4")


def formats_of(model: str, mode: str, weights: float) -> Formats:
    """The formats of upstream's modes. `performance`: bfp4 gate and up projections, all else bfp8."""
    if model.startswith("Qwen2.5-7B"):  # "degraded under standard high-performance settings"
        return Formats("BFLOAT16", "BFLOAT16", "BFLOAT8_B", "BFLOAT8_B", "BFLOAT16")
    if mode != "accuracy" or weights > LARGE:
        return Formats()
    if model.startswith(INSENSITIVE):
        return Formats(ff1_3="BFLOAT8_B")
    return Formats("BFLOAT16", "BFLOAT16", "BFLOAT8_B", "BFLOAT8_B", "BFLOAT16")


def samples_on_host(arch, devices: int, users: int) -> bool:
    """Upstream's demo finds the next token on the device for one user whose logits are not too wide, else on the host."""
    return users > 1 or arch.vocab_size / max(2, devices) > MAX_DEVICE_LOGITS


def upstream_forecast(
    arch, card: Card, formats: Formats, *, users: int, prompt: int, context: float, chunk: int, replicas: int = 1,
    on_host: bool | None = None, rates: Rates = RATES, host: HostRates = HOST,
) -> Forecast:  # fmt: skip
    """Args:
    card: of one replica; users: of one replica.
    prompt, context: tokens of a prompt, and those that a decode step attends to on average.
    chunk: tokens of a prompt that run at a time.
    on_host: whether sampling is on the host; None: as upstream's demo decides.
    """
    if min(card.shape) > 1:
        line = galaxy.Grid.of(arch, card.shape)
        decode = galaxy.decode(line, users, context)
        prompt_calls = galaxy.prefill(line, prompt)
        return forecast(
            card, decode, prompt_calls, users=galaxy.USERS * line.columns, logits=0, prompt_logits=0, waits=False, prompt_traced=True,
            rates=rates, host=host,
        )  # fmt: skip
    if on_host is None:
        on_host = samples_on_host(arch, card.chips, users)
    line = Line.of(arch, card.chips, users)
    decode = [(call, line.n_layers) for call in layers.decode_layer(line, formats, context)]
    decode += once(layers.decode_head(line), layers.decode_tail(line, argmax=not on_host))
    return forecast(
        card, decode, prefill_calls(line, formats, prompt, chunk), users=users, replicas=replicas,
        logits=ROWS * arch.vocab_size if on_host else 0, prompt_logits=ROWS * arch.vocab_size, rates=rates, host=host,
    )  # fmt: skip


def once(*lists: Sequence[Call]) -> list[tuple[Call, int]]:
    return [(call, 1) for calls in lists for call in calls]


def prefill_calls(line: Line, formats: Formats, prompt: int, chunk: int) -> list[tuple[Call, int]]:
    """A prompt in chunks, each padded to 128 tokens."""
    calls = []
    for start in range(0, prompt, chunk):
        rows = -(-min(chunk, prompt - start) // 128) * 128
        calls += [(call, line.n_layers) for call in prefill.prefill_layer(line, formats, rows, start)]
    return calls + once(prefill.prefill_tail(line))
