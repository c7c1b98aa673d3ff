"""Token accuracy by teacher forcing: the model predicts each token of a reference text from the text before it."""

import math
from dataclasses import dataclass

import torch

from models.tt_transformers.tt.reference import Reference


@dataclass(frozen=True)
class TokenAccuracy:
    """How a model's predictions compare with Hugging Face's, over the tokens of all users.

    Attributes:
        tokens: predictions made.
        top1: percent of them that are Hugging Face's likeliest token.
        top5: percent that are among its five likeliest.
        perplexity: of the text, by this model: exp(-mean log probability of the text's own tokens).
        reference_perplexity: the same by Hugging Face's model, over the same tokens.
        first_difference: index of the earliest prediction in any text that is not Hugging Face's likeliest token,
            counted from the first predicted token; None if there is none.
    """

    tokens: int
    top1: float
    top5: float
    perplexity: float
    reference_perplexity: float
    first_difference: int | None

    def as_json(self) -> dict:
        """All fields; `first_difference` is left out if it is None."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def describe(self) -> str:
        differs = "never" if self.first_difference is None else f"token {self.first_difference}"
        return (
            f"top-1 {self.top1:.2f} %, top-5 {self.top5:.2f} %, perplexity {self.perplexity:.3f} "
            f"(Hugging Face {self.reference_perplexity:.3f}), first difference: {differs}"
        )


class TeacherForcing:
    """Used in place of a sampler: keeps the model's predictions, and returns the reference's tokens.

    User u has text u of the reference.
    """

    def __init__(self, reference: Reference, users: int):
        if not 1 <= users <= reference.users:
            raise ValueError(f"{users} users, and the reference has {reference.users} texts")
        self._reference = reference
        self._users = users
        self._predicted = []
        self._log_probs = []

    @property
    def prompts(self) -> list[list[int]]:
        """Token ids of each user's prompt."""
        return self._reference.tokens[: self._users, : self._reference.prefill].tolist()

    def __call__(self, logits: torch.Tensor, active=None) -> list[int]:
        """Logits [users, vocab] of the next position -> the reference's token for each user.

        Raises ValueError if a logit is NaN, a user is not active (all texts have the same length) or the texts end.
        """
        step = len(self._predicted)
        if step == self._reference.generated:
            raise ValueError(f"the reference's texts end after {step} tokens")
        if active is not None and not all(active):
            raise ValueError("teacher forcing needs every user of the batch to be active")
        if logits.isnan().any():
            raise ValueError(f"the logits of token {step} hold NaN")
        tokens = self._reference.tokens[: self._users, self._reference.prefill + step].long()
        self._predicted.append(logits.argmax(-1))
        self._log_probs.append(logits.float().log_softmax(-1).gather(-1, tokens[:, None])[:, 0])
        return tokens.tolist()

    def result(self) -> TokenAccuracy:
        """The comparison so far. Raises ValueError if nothing was predicted."""
        if not self._predicted:
            raise ValueError("no token was predicted")
        predicted = torch.stack(self._predicted, dim=1)
        top5 = self._reference.top5[: self._users, : predicted.shape[1]]
        matches = top5 == predicted[:, :, None]
        expected = self._reference.log_probs[: self._users, : predicted.shape[1]]
        differing = (~matches[:, :, 0]).any(0).nonzero()
        return TokenAccuracy(
            tokens=predicted.numel(),
            top1=_percent(matches[:, :, 0]),
            top5=_percent(matches.any(-1)),
            perplexity=_perplexity(torch.stack(self._log_probs, dim=1)),
            reference_perplexity=_perplexity(expected),
            first_difference=int(differing[0]) if len(differing) else None,
        )


def measure(generator, reference: Reference, users: int, tokens: int | None = None) -> TokenAccuracy:
    """Predicts the first `tokens` (default: all) tokens of `users` texts with a `Generator`.

    Raises ValueError, before any work, if `tokens` is less than 1 or more than the texts have.
    """
    tokens = reference.generated if tokens is None else tokens
    if not 1 <= tokens <= reference.generated:
        raise ValueError(f"{tokens} tokens to predict: the reference has {reference.generated}")
    forcing = TeacherForcing(reference, users)
    logits = generator.prefill(forcing.prompts)
    for _ in range(tokens - 1):
        logits = generator.decode(forcing(logits))
    forcing(logits)
    return forcing.result()


def _percent(matches):
    return 100 * matches.double().mean().item()


def _perplexity(log_probs):
    return math.exp(-log_probs.double().mean().item())
