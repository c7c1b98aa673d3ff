"""A prediction from op lists: t/s/u, t/s and TTFT with intervals, and where a step's time goes.

Every number here is a prediction, and whoever prints one must say so.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property

from .call import Call
from .card import Card
from .cost import RATES, Rates
from .ops import Ops
from .step import HOST, Host, HostRates, Step, sent, traced

# A measured figure lay within these factors of its prediction for nine of ten published rows, each predicted without
# its own model (`measure/calibration.py`). Where no kernel of the architecture was measured, the factor counts twice.
DECODE_FACTOR = 1.25
TTFT_FACTOR = 2.0


@dataclass(frozen=True)
class Interval:
    """A predicted value, and the bounds that nine of ten measured values lie between."""

    value: float
    low: float
    high: float

    @classmethod
    def around(cls, value: float, factor: float, card: Card) -> "Interval":
        factor = factor if card.speed.is_calibrated else factor**2
        return cls(value, value / factor, value * factor)

    def scaled(self, by: float) -> "Interval":
        return Interval(self.value * by, self.low * by, self.high * by)

    def __str__(self) -> str:
        return f"{self.value:.4g} ({self.low:.4g} to {self.high:.4g})"


@dataclass(frozen=True)
class Forecast:
    """A predicted decode step and prompt of a model on a card.

    Attributes:
        card: of one replica, with `replica_users` users. `replicas`: copies of the model that data parallel runs side by side.
        decode, prefill: ops of one replica's step, and of a prefill of `prompts` users.
        logits, prompt_logits: numbers that the host reads and searches after a step and after a prompt; 0 if the chip samples.
        waits: whether the host reads a step's result before it submits the next.
        prompt_traced: whether prompts are replayed from traces too.
    """

    card: Card
    replica_users: int
    replicas: int
    decode: Ops
    prefill: Ops
    prompts: int
    logits: int
    prompt_logits: int
    waits: bool
    prompt_traced: bool
    rates: HostRates

    def with_host(self, rates: HostRates) -> "Forecast":
        """The same ops with another host."""
        return replace(self, rates=rates)

    @property
    def users(self) -> int:
        """Users of all replicas together."""
        return self.replica_users * self.replicas

    @cached_property
    def decode_step(self) -> Step:
        host = Host(self.card.chips, self.replicas, self.logits) if self.waits else None
        return traced(self.decode, host, self.rates)

    @cached_property
    def prompt(self) -> Step:
        run = traced if self.prompt_traced else sent
        return run(self.prefill, Host(self.card.chips, self.replicas, self.prompt_logits), self.rates)

    @property
    def tokens_per_user(self) -> Interval:
        """decode_t/s/u: tokens a second of each user."""
        return Interval.around(1 / self.decode_step.seconds, DECODE_FACTOR, self.card)

    @property
    def tokens(self) -> Interval:
        """decode_t/s: tokens a second of all users together."""
        return self.tokens_per_user.scaled(self.users)

    @property
    def ttft_ms(self) -> Interval | None:
        """A user's share of the prefill, as the vendor publishes it; None for a run without one."""
        if not self.prefill.count:
            return None
        return Interval.around(self.prompt.seconds / self.prompts * 1e3, TTFT_FACTOR, self.card)

    def as_json(self) -> dict:
        """The figures as the record of a run and `--json` hold them."""
        ttft = self.ttft_ms
        return {
            "decode_t/s/u": asdict(self.tokens_per_user),
            "decode_t/s": asdict(self.tokens),
            **({} if ttft is None else {"TTFT": {**asdict(ttft), "unit": "ms"}}),
        }


def forecast(
    card: Card, decode: Iterable[tuple[Call, int]], prefill: Iterable[tuple[Call, int]], *, users: int, replicas: int = 1, logits: int,
    prompt_logits: int, prompts: int = 1, waits: bool = True, prompt_traced: bool = False, rates: Rates = RATES, host: HostRates = HOST,
) -> Forecast:  # fmt: skip
    """The forecast of op lists (call, how often it runs); see `Forecast`. Raises ValueError for an op without a cost."""
    decode_ops, prefill_ops = Ops.of(decode, card, rates), Ops.of(prefill, card, rates)
    return Forecast(
        card, users, replicas, decode_ops, prefill_ops, prompts, logits, prompt_logits, waits, prompt_traced, host
    )
