"""The prediction of a run's speed on the mesh that the emulator stands for, from the ops that the run logs anyway.

A prediction is not a measurement: it is printed and recorded apart from what was measured.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from models.common import backend, op_costs
from models.common.prediction import from_log
from models.common.prediction.card import Card, card_of
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


def of_run(
    args, settings, prompt: int, prefill: list | None, compiled: list | None
) -> tuple[Forecast | None, str | None]:
    """The forecast of a run, or None and the reason why there is none; (None, None) on a backend that keeps no log.

    prompt: tokens of the first user's prompt. prefill: the log of its prefill on every group of devices; None if the run
    has no prefill. compiled: the log of `compile_decode`, whose captured ops are a decode step of every group.
    """
    if compiled is None:
        return None, None
    groups = args.data_parallel
    decode = [record for record in compiled if record.is_captured]
    context = settings.start_pos + prompt + settings.max_generated_tokens / 2
    try:
        card = card_of(args.mesh_name).replica(groups)
        # The groups are alike, and run one after the other.
        first_of_groups = ((log or [])[: len(log or []) // groups] for log in (decode, prefill))
        return forecast_of_logs(args, *first_of_groups, card, context, prompts=1, replicas=groups), None
    except ValueError as error:
        return None, f"no prediction: {error}"


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
