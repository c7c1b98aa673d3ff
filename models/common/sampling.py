"""Chooses the next token on the host: greedy, or with temperature, top-k and top-p.

Each user has their own random generator. So a user's tokens do not depend on the other users of the batch.
"""

import hashlib
import math
from dataclasses import dataclass

import torch

# Top-p looks at this many likeliest tokens first. They contain almost every nucleus, and a full sort costs far more.
_NUCLEUS_WIDTH = 512


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen.

    Attributes:
        temperature: divides the logits; 0 is greedy (argmax), whatever the other fields say.
        top_k: keep the `top_k` likeliest tokens; 0 keeps all.
        top_p: of those, keep the smallest set of likeliest tokens whose probabilities add up to at least `top_p`
            (nucleus sampling, Holtzman et al. 2020, arXiv:1904.09751); 1 keeps all.
        seed: seeds the users' random generators.

    Raises:
        ValueError: a field has a value that is not accepted. The message names the field.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self):
        _check(_is_number(self.temperature) and 0 <= self.temperature < math.inf, self, "temperature", "a number >= 0")
        _check(type(self.top_k) is int and self.top_k >= 0, self, "top_k", "an integer >= 0 (0 keeps all tokens)")
        _check(_is_number(self.top_p) and 0 < self.top_p <= 1, self, "top_p", "a number > 0 and <= 1")
        _check(type(self.seed) is int and self.seed >= 0, self, "seed", "an integer >= 0")


def _is_number(value):
    return type(value) in (int, float)


def _check(good, params, field, accepted):
    if not good:
        raise ValueError(f"sampling_params: {field} is {getattr(params, field)!r}; accepted: {accepted}")


class Sampler:
    """Samples for a fixed list of users.

    Args:
        params: the same for all users.
        users: for each row of the logits, a number that identifies its user permanently, e.g. the index of the prompt.
            A user's draws depend only on `params.seed` and this number.
    """

    def __init__(self, params: SamplingParams, users):
        self._params = params
        self._generators = [torch.Generator().manual_seed(_mix(params.seed, user)) for user in users]

    def __call__(self, logits: torch.Tensor, active=None) -> list[int]:
        """Next token of each user.

        Args:
            logits: [users, vocab], any floating dtype.
            active: one bool per user; None means all are active. An inactive user gets token 0 and draws nothing.

        Raises:
            ValueError: an active user's logits hold NaN.
        """
        if logits.dim() != 2 or logits.shape[0] != len(self._generators):
            raise ValueError(f"logits have shape {tuple(logits.shape)}; expected [{len(self._generators)}, vocab]")
        active = [True] * logits.shape[0] if active is None else active
        best, token_ids = logits.max(dim=-1)
        chosen = token_ids.tolist()
        for row, wanted in enumerate(active):
            if not wanted:
                chosen[row] = 0
            elif best[row].isnan():
                raise ValueError(f"the logits of row {row} hold NaN")
            elif self._params.temperature > 0:
                chosen[row] = self._draw(logits[row], self._generators[row])
        return chosen

    def _draw(self, logits, generator):
        probabilities, token_ids = candidates(logits, self._params)
        cumulative = probabilities.cumsum(0)
        point = torch.rand(1, generator=generator, dtype=torch.float64) * cumulative[-1]
        # rand() is below 1, but its product with the last sum can round up to that sum.
        index = min(int(torch.searchsorted(cumulative, point, right=True)), len(token_ids) - 1)
        return int(token_ids[index])


def candidates(logits: torch.Tensor, params: SamplingParams):
    """The tokens of one user's logits [vocab] that remain after temperature, top-k and top-p, in that order.

    Returns:
        (probabilities [n] float64, which add up to 1, token ids [n]).
    """
    # The maximum is subtracted before the division, so that a tiny temperature cannot overflow.
    scaled = (logits.double() - logits.max().double()) / params.temperature
    if params.top_k == 0 and params.top_p == 1:
        return torch.softmax(scaled, 0), torch.arange(len(scaled))
    width = min(params.top_k or _NUCLEUS_WIDTH, len(scaled))
    values, token_ids = scaled.topk(width)
    total = (values if params.top_k else scaled).logsumexp(0)
    probabilities = (values - total).exp()
    if not params.top_k and width < len(scaled) and probabilities.sum() < params.top_p:
        values, token_ids = scaled.sort(descending=True)
        probabilities = (values - total).exp()
    # A token stays if the tokens before it do not yet add up to top_p.
    before = probabilities.cumsum(0) - probabilities
    kept = before < params.top_p
    return probabilities[kept] / probabilities[kept].sum(), token_ids[kept]


def _mix(seed, user):
    digest = hashlib.blake2b(f"{seed} {user}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
