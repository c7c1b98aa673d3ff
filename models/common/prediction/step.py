"""The time of a step: its ops one after the other, the gaps between them, and the host's share.

A traced step is replayed: the chip goes from op to op by itself. Without a trace the host sends every op, and where that
takes longer than the ops, the chips wait. `HostRates` are fitted to whole models (`measure/calibration.py`), the gap
to ops.
"""

from dataclasses import dataclass

from .ops import Ops

US, MS = 1e-6, 1e-3


@dataclass(frozen=True)
class HostRates:
    """Seconds. The host of the published figures is not described; these hold for one like it."""

    # Between two ops of a trace: 0.6 to 0.9 us in a Galaxy's decode layer (galaxy_decode_ops.csv).
    gap: float = 0.75 * US
    # One op sent by the host; and what each further chip adds.
    dispatch: float = 32 * US
    dispatch_chip: float = 3.7 * US
    # A decode step's inputs, its submission, and the reading of its result. Further replicas of data parallel wait their turn.
    step: float = 1.7 * MS
    replica: float = 0.65 * MS
    # A number of the logits, padding of the users to 32 included, that is read and searched on the host.
    logit: float = 1.5e-9
    # A prompt's inputs and the reading of its last token's logits.
    prompt: float = 4.4 * MS


HOST = HostRates()


@dataclass(frozen=True)
class Host:
    """What the host does in a step: chips that it sends ops to, replicas that it serves in turn, logits that it reads."""

    chips: int
    replicas: int
    logits: int


@dataclass(frozen=True)
class Step:
    """Predicted seconds of a step: kernels, the gaps between them, and what the host adds."""

    kernels: float
    gaps: float
    host: float

    @property
    def seconds(self) -> float:
        return self.kernels + self.gaps + self.host


def traced(ops: Ops, host: Host | None, rates: HostRates = HOST) -> Step:
    """A replayed step. `host`: None if the host works ahead of the chips."""
    added = 0 if host is None else rates.step + (host.replicas - 1) * rates.replica + host.logits * rates.logit
    return Step(ops.seconds, ops.count * rates.gap, added)


def sent(ops: Ops, host: Host, rates: HostRates = HOST) -> Step:
    """A step whose ops the host sends one by one, ahead of the chips: the slower of the two sets the pace."""
    sending = ops.count * (rates.dispatch + (host.chips - 1) * rates.dispatch_chip)
    return Step(
        ops.seconds, max(ops.count * rates.gap, sending - ops.seconds), rates.prompt + host.logits * rates.logit
    )
