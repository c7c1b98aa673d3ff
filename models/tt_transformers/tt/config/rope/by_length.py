"""Kinds of RoPE whose frequencies depend on the length of the sequence: dynamic NTK, LongRoPE.

All tokens of a prompt have the frequencies of its length. A decoded token has those of the length that the sequence has
with it, while the cached keys keep theirs.

Sources: dynamic NTK, emozilla 2023, as in Hugging Face's `dynamic_frequency_update` for a model that has run no other
sequence; LongRoPE, Ding et al. 2024 (arXiv:2402.13753), with the attention factor of Hugging Face.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from models.tt_transformers.tt.config.rope.base import DefaultRope


@dataclass(frozen=True, kw_only=True)
class DynamicRope(DefaultRope):
    """Dynamic NTK: theta grows with the length of the sequence, from `max_position_embeddings` tokens on."""

    kind: ClassVar[str] = "dynamic"

    factor: float

    def __post_init__(self):
        super().__post_init__()
        self._check_positive("factor")
        if self.rotary_dim == 2:
            raise ValueError("RoPE type dynamic needs more than 2 rotated columns of a head")

    @property
    def context_len(self) -> int:
        return max(self.max_position_embeddings, int(self.factor * self.max_position_embeddings))

    def frequency_set(self, length: int) -> int:
        return max(length, self.max_position_embeddings)

    def inv_freq(self, length: int) -> torch.Tensor:
        return 1.0 / self._theta(length) ** self._exponents()

    def table(self, max_seq_len: int, width: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Row p has the frequencies of a sequence of p + 1 tokens, which the token that is decoded there needs."""
        if self.in_table(max_seq_len):
            return super().table(max_seq_len, width)
        original_len = self.max_position_embeddings
        # One theta at a time: in one tensor, some would differ from Hugging Face's in the last bit.
        thetas = torch.stack([self._theta(length) for length in range(original_len + 1, max_seq_len + 1)])
        inv_freq = torch.cat(
            (self.inv_freq(original_len).expand(original_len, -1), 1.0 / thetas[:, None] ** self._exponents())
        )
        return self._tables(torch.arange(max_seq_len)[:, None].float() * inv_freq, width)

    def in_table(self, length: int) -> bool:
        return length <= self.max_position_embeddings

    def _theta(self, length: int) -> float | torch.Tensor:
        original_len, factor = self.max_position_embeddings, self.factor
        # Hugging Face computes in float64 for the original length, and in float32 (a tensor) for longer ones.
        length = original_len if length <= original_len else torch.tensor(length)
        growth = (factor * length / original_len) - (factor - 1)
        return self.theta * growth ** (self.rotary_dim / (self.rotary_dim - 2))


@dataclass(frozen=True, kw_only=True)
class LongRope(DefaultRope):
    """LongRoPE: every frequency is divided by a factor of its own, from one of two lists.

    A sequence of at most `original_max_position_embeddings` tokens uses `short_factor`, a longer one `long_factor`. In
    both cases cos and sin are multiplied by `attention_factor`, by default sqrt(1 + ln(s) /
    ln(original_max_position_embeddings)), where s = `factor`, by default max_position_embeddings /
    original_max_position_embeddings.
    """

    kind: ClassVar[str] = "longrope"

    original_max_position_embeddings: int
    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    factor: float | None = None
    attention_factor: float | None = None

    def __post_init__(self):
        super().__post_init__()
        for name in ("short_factor", "long_factor"):
            factors = getattr(self, name)
            if len(factors) != self.rotary_dim // 2:
                raise ValueError(
                    f"RoPE {name} has {len(factors)} entries; "
                    f"{self.rotary_dim} rotated columns need {self.rotary_dim // 2}"
                )
            if not all(factor > 0 for factor in factors):
                raise ValueError(f"RoPE {name} must hold positive numbers, got {min(factors)}")
        if not 1 < self.original_max_position_embeddings <= self.max_position_embeddings:
            raise ValueError(
                f"original_max_position_embeddings {self.original_max_position_embeddings} must be over 1 and at most "
                f"max_position_embeddings {self.max_position_embeddings}"
            )

    @property
    def attention_scaling(self) -> float:
        if self.attention_factor is not None:
            return self.attention_factor
        original_len = self.original_max_position_embeddings
        scale = self.max_position_embeddings / original_len if self.factor is None else self.factor
        return 1.0 if scale <= 1.0 else math.sqrt(1 + math.log(scale) / math.log(original_len))

    @property
    def recompute_len(self) -> int | None:
        return self.original_max_position_embeddings + 1 if self.recomputes_keys else None

    def frequency_set(self, length: int) -> int:
        return int(self._is_long(length))

    def inv_freq(self, length: int) -> torch.Tensor:
        factors = torch.tensor(self.long_factor if self._is_long(length) else self.short_factor, dtype=torch.float32)
        return 1.0 / (factors * self._wavelengths())

    def table(self, max_seq_len: int, width: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """If a sequence can get long, rows with the short factors come first, up to the original length, and
        `max_seq_len` rows with the long factors follow: one table on the device serves short and long sequences."""
        rows = super().table(max_seq_len, width)
        if not self._is_long(max_seq_len):
            return rows
        original_len = self.original_max_position_embeddings
        short = self.cos_sin(torch.arange(original_len), original_len, width)
        return tuple(torch.cat(pair) for pair in zip(short, rows))

    def row(self, position: int, length: int) -> int:
        row = super().row(position, length)
        return self.original_max_position_embeddings + row if self._is_long(length) else row

    def _is_long(self, length: int) -> bool:
        return length > self.original_max_position_embeddings
