"""The prediction of a run's speed on the mesh that the emulator stands for, from the ops that the run logs anyway.

A prediction is not a measurement: it is printed and recorded apart from what was measured.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from models.common import backend, op_costs
from models.common.prediction import from_log
from models.common.prediction.card import CARDS, Card
from models.common.prediction.cost import RATES, Rates
from models.common.prediction.forecast import Forecast, forecast
from models.common.prediction.step import HOST, HostRates
from models.tt_transformers.tt.config.program_configs import TILE


@contextmanager
def logged() -> Iterator[list | None]:
    """Yields the op log of the body; None on a backend that keeps none."""
    if backend.name() != "emulator":
        yield None
        return
    with op_costs.recording() as log:
        yield log


def of_run(args, settings, prompt: int, prefill: list | None, compiled: list | None) -> Forecast | None:
    """The forecast of a run, or None if it kept no log or its mesh is no card's.

    prompt: tokens of the first user's prompt, whose prefill was logged. compiled: the log of `compile_decode`, whose
    captured ops are a decode step.
    """
    if prefill is None or args.device_name not in CARDS:
        return None
    decode = [record for record in compiled if record.is_captured]
    context = prompt + settings.max_generated_tokens / 2
    return forecast_of_logs(args, decode, prefill, CARDS[args.device_name], context, prompts=1)


def forecast_of_logs(
    args, decode: Iterable, prefill: Iterable, card: Card, context: float, *, prompts: int, replicas: int = 1, rates: Rates = RATES,
    host: HostRates = HOST,
) -> Forecast:  # fmt: skip
    """The forecast of logged ops (`oplog.OpRecord`s) of a decode step and of a prefill of `prompts` users.

    The host reads whole tiles of logits after each step and each prompt, and searches them.
    """
    vocab = args.arch.vocab_size
    decode_calls, prefill_calls = ([(call, 1) for call in from_log.calls(log, context)] for log in (decode, prefill))
    return forecast(
        card, decode_calls, prefill_calls, users=args.max_batch_size, replicas=replicas, logits=TILE * vocab,
        prompt_logits=prompts * TILE * vocab, prompts=prompts, rates=rates, host=host,
    )  # fmt: skip


def as_record(predicted: Forecast) -> dict:
    """The field `prediction` of a run's record."""
    return {"what": "a prediction for a card, not a measurement", "mesh": predicted.card.name, **predicted.as_json()}
