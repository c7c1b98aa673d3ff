"""RoPE without scaling, and what all kinds have in common."""

from dataclasses import MISSING, dataclass, fields
from typing import ClassVar

import torch


@dataclass(frozen=True, kw_only=True)
class DefaultRope:
    """RoPE without scaling: frequency i is theta ** (-2i / rotary_dim).

    A kind of RoPE is a subclass. Its own fields have the names of its parameters in `config.json`; a parameter is
    required if its field has no default.

    Attributes:
        head_dim: columns of a head, of which the first `rotary_dim` are rotated.
        max_position_embeddings: of the config; some kinds take it for the length of training.
        partial_rotary_factor: the part of a head that is rotated.
        recomputes_keys: see `Family`; only LongRoPE has a length at which it matters.
    """

    kind: ClassVar[str] = "default"

    head_dim: int
    theta: float
    max_position_embeddings: int
    partial_rotary_factor: float = 1.0
    recomputes_keys: bool = False

    def __post_init__(self):
        if self.theta <= 0:
            raise ValueError(f"rope_theta must be positive, got {self.theta}")
        if not 0 < self.rotary_dim <= self.head_dim or self.rotary_dim % 2:
            raise ValueError(
                f"RoPE needs an even number of rotated columns of a head; head_dim {self.head_dim} with "
                f"partial_rotary_factor {self.partial_rotary_factor} has {self.rotary_dim}"
            )

    @classmethod
    def parameters(cls) -> dict:
        """This kind's own parameters: name -> (type, whether it is required)."""
        shared = {field.name for field in fields(DefaultRope)}
        return {field.name: (field.type, field.default is MISSING) for field in fields(cls) if field.name not in shared}

    @property
    def rotary_dim(self) -> int:
        """The number of rotated columns of a head: its first ones."""
        return int(self.head_dim * self.partial_rotary_factor)

    @property
    def attention_scaling(self) -> float:
        """The factor of cos and sin."""
        return 1.0

    @property
    def context_len(self) -> int:
        """The most tokens of a sequence."""
        return self.max_position_embeddings

    @property
    def recompute_len(self) -> int | None:
        """The length at which Hugging Face computes all keys of a growing sequence again; None: at no length.

        At all other lengths the cached keys stay as they are, even if the frequencies change.
        """
        return None

    def frequency_set(self, length: int) -> int:
        """Prompts of two lengths are rotated with the same frequencies if this is equal for both."""
        return 0

    def inv_freq(self, length: int) -> torch.Tensor:
        """[rotary_dim / 2] float32, radians per position, for all tokens of a prompt of `length` tokens."""
        return 1.0 / self._wavelengths()

    def cos_sin(
        self, positions: torch.Tensor, length: int, width: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin of `positions` [n] (integers) of a prompt of `length` tokens, each [n, width] float32.

        The attention scaling is included. Columns from `rotary_dim` on have cos 1 and sin 0, so that they stay as they
        are. width: None for head_dim.
        """
        return self._tables(positions[:, None].float() * self.inv_freq(length), width)

    def table(self, max_seq_len: int, width: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin, each [rows, width] float32, of sequences of up to `max_seq_len` tokens; see `row`."""
        return self.cos_sin(torch.arange(max_seq_len), max_seq_len, width)

    def row(self, position: int, length: int) -> int:
        """The row of `table` for the token at `position` of a prompt of `length` tokens that is `in_table`.

        A decoded token is the last one of its sequence: row(position, position + 1).
        """
        if not 0 <= position < length:
            raise ValueError(f"position {position} is not inside a sequence of {length} tokens")
        return position

    def in_table(self, length: int) -> bool:
        """Whether `table` has a row for every token of a prompt of `length` tokens; `cos_sin` has them in any case."""
        return True

    # The order of operations, here and in the subclasses, is Hugging Face's, so that the float32 results are equal to
    # the last bit.

    def _exponents(self) -> torch.Tensor:
        return torch.arange(0, self.rotary_dim, 2).float() / self.rotary_dim

    def _wavelengths(self) -> torch.Tensor:
        return self.theta ** self._exponents()

    def _tables(self, angles: torch.Tensor, width: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Angles [n, rotary_dim / 2] -> cos and sin, each [n, width]."""
        unrotated = (self.head_dim if width is None else width) - self.rotary_dim
        return tuple(
            torch.nn.functional.pad(
                (values * self.attention_scaling).repeat_interleave(2, dim=-1), (0, unrotated), value=of_no_rotation
            )
            for values, of_no_rotation in ((angles.cos(), 1.0), (angles.sin(), 0.0))
        )

    def _check_positive(self, *names: str) -> None:
        for name in names:
            if not getattr(self, name) > 0:
                raise ValueError(f"RoPE {name} must be positive, got {getattr(self, name)}")
