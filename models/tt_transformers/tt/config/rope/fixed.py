"""Kinds of RoPE whose frequencies do not depend on the length of the sequence: linear, llama3, yarn.

Sources: linear, kaiokendev 2023 and Chen et al. 2023 (arXiv:2306.15595); llama3, the model card of Llama 3.1;
YaRN, Peng et al. 2023 (arXiv:2309.00071).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from models.tt_transformers.tt.config.rope.base import DefaultRope


@dataclass(frozen=True, kw_only=True)
class LinearRope(DefaultRope):
    """Every frequency is divided by `factor`."""

    kind: ClassVar[str] = "linear"

    factor: float

    def __post_init__(self):
        super().__post_init__()
        self._check_positive("factor")

    def inv_freq(self, length: int) -> torch.Tensor:
        return super().inv_freq(length) / self.factor


@dataclass(frozen=True, kw_only=True)
class Llama3Rope(DefaultRope):
    """Low frequencies are divided by `factor`, high ones stay, those between are interpolated.

    A frequency is low or high if a training context of `original_max_position_embeddings` tokens has fewer than
    `low_freq_factor` or more than `high_freq_factor` of its periods.
    """

    kind: ClassVar[str] = "llama3"

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def __post_init__(self):
        super().__post_init__()
        self._check_positive("factor", "low_freq_factor", "original_max_position_embeddings")
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                f"RoPE high_freq_factor {self.high_freq_factor} must be over low_freq_factor {self.low_freq_factor}"
            )

    def inv_freq(self, length: int) -> torch.Tensor:
        unscaled, original_len = super().inv_freq(length), self.original_max_position_embeddings
        wavelengths = 2 * math.pi / unscaled
        is_low = wavelengths > original_len / self.low_freq_factor
        is_high = wavelengths < original_len / self.high_freq_factor
        share = (original_len / wavelengths - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        interpolated = (1 - share) * unscaled / self.factor + share * unscaled
        return torch.where(is_low, unscaled / self.factor, torch.where(is_high, unscaled, interpolated))


@dataclass(frozen=True, kw_only=True)
class YarnRope(DefaultRope):
    """YaRN: as llama3, with a ramp over the columns instead of the frequencies, and a factor of cos and sin.

    Columns whose frequency has at least `beta_fast` periods in `original_max_position_embeddings` tokens keep it; those
    with at most `beta_slow` periods have it divided by `factor`. `truncate` widens the ramp between them to whole
    columns.
    A `factor` of None is max_position_embeddings / original_max_position_embeddings.
    """

    kind: ClassVar[str] = "yarn"

    factor: float | None
    original_max_position_embeddings: int
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    def __post_init__(self):
        super().__post_init__()
        self._check_positive("original_max_position_embeddings", *([] if self.factor is None else ["factor"]))
        if self.theta <= 1:
            raise ValueError(f"RoPE type yarn needs a rope_theta over 1, got {self.theta}")
        for name in ("beta_fast", "beta_slow"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"RoPE {name} must not be negative, got {getattr(self, name)}")

    @property
    def scale(self) -> float:
        if self.factor is None:
            return self.max_position_embeddings / self.original_max_position_embeddings
        return self.factor

    @property
    def context_len(self) -> int:
        # Models such as Qwen2.5 keep their max_position_embeddings when YaRN is turned on.
        return max(self.max_position_embeddings, int(self.scale * self.original_max_position_embeddings))

    @property
    def attention_scaling(self) -> float:
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return self._mscale(self.mscale) / self._mscale(self.mscale_all_dim)
        return self._mscale(1)

    def inv_freq(self, length: int) -> torch.Tensor:
        wavelengths = self._wavelengths()
        # Hugging Face takes the defaults for 0 too.
        first, last = self._column(self.beta_fast or 32), self._column(self.beta_slow or 1)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, self.rotary_dim - 1)
        if first == last:
            last += 0.001
        ramp = ((torch.arange(self.rotary_dim // 2, dtype=torch.float32) - first) / (last - first)).clamp(0, 1)
        kept = 1 - ramp
        return 1.0 / (self.scale * wavelengths) * (1 - kept) + 1.0 / wavelengths * kept

    def _mscale(self, weight: float) -> float:
        return 1.0 if self.scale <= 1 else 0.1 * weight * math.log(self.scale) + 1.0

    def _column(self, periods: float) -> float:
        """The column whose frequency has this number of periods in the training context."""
        per_radian = self.original_max_position_embeddings / (periods * 2 * math.pi)
        return (self.rotary_dim * math.log(per_radian)) / (2 * math.log(self.theta))
