"""Fits constants to measured figures: a search one constant after the other, on the mean of the errors' logarithms.

The mean of |log(predicted / measured)| counts half as bad as twice, and a figure that no constant explains does not pull
the others away, as squares would.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace


def fit(rates, names: Sequence[str], loss: Callable, rounds: int = 3):
    """`rates` (a dataclass of positive constants) with those of `names` changed so that `loss(rates)` is least.

    Each constant is searched within a factor of 4 of its value, in steps that become smaller with each round.
    """
    best = loss(rates)
    for round_ in range(rounds):
        factor = 2 ** (1 / 4**round_)
        for name in names:
            for step in (factor, 1 / factor):
                for _ in range(4):
                    changed = replace(rates, **{name: getattr(rates, name) * step})
                    error = loss(changed)
                    if error >= best:
                        break
                    rates, best = changed, error
    return rates


def log_error(predicted: float, measured: float) -> float:
    return abs(math.log(predicted / measured))


def mean_log_error(predicted: Sequence[float], measured: Sequence[float]) -> float:
    return sum(map(log_error, predicted, measured)) / len(predicted)
