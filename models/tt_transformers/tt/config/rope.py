"""Rotary position embeddings (RoPE): a class per kind, one factory, cos and sin tables for `rotary_embedding_llama`.

Every kind has the same interface. Rows of its tables are in the interleaved order: the pair of columns (2i, 2i+1)
shares the frequency i. The rows of wq and wk are permuted to the same order on load (`state_dict.py`).

Sources: RoPE, Su et al. 2021 (arXiv:2104.09864); LongRoPE, Ding et al. 2024 (arXiv:2402.13753), with the attention
factor and the choice of factors as in Hugging Face's `Phi3RotaryEmbedding`.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Mapping

import torch


@dataclass(frozen=True)
class DefaultRope:
    """RoPE without scaling: frequency i is theta ** (-2i / head_dim)."""

    kind: ClassVar[str] = "default"
    # The RoPE parameters of this kind, besides COMMON_KEYS.
    keys: ClassVar[frozenset] = frozenset()

    head_dim: int
    theta: float
    max_context_len: int

    def __post_init__(self):
        if self.head_dim <= 0 or self.head_dim % 2:
            raise ValueError(f"RoPE needs an even head_dim, got {self.head_dim}")
        if self.theta <= 0:
            raise ValueError(f"rope_theta must be positive, got {self.theta}")

    @classmethod
    def from_parameters(cls, parameters: Mapping, config: Mapping, default_original_len: int | None, **common):
        """The RoPE of `parameters` (see `rope_parameters`); `common` are the fields of `DefaultRope`."""
        return cls(**common)

    @property
    def attention_factor(self) -> float:
        """The factor of cos and sin."""
        return 1.0

    @property
    def switch_len(self) -> int:
        """The longest sequence that uses the short factors; longer ones use the long factors for all positions."""
        return self.max_context_len

    def inv_freq(self, long: bool = False) -> torch.Tensor:
        """[head_dim / 2] float32, radians per position. One set serves every length, so `long` changes nothing."""
        return 1.0 / self._wavelengths()

    def cos_sin(self, positions: torch.Tensor, long: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin, each [n, head_dim] float32, attention factor included, of `positions` [n] (integers)."""
        angles = positions[:, None].float() * self.inv_freq(long)
        cos, sin = angles.cos() * self.attention_factor, angles.sin() * self.attention_factor
        return cos.repeat_interleave(2, dim=-1), sin.repeat_interleave(2, dim=-1)

    def table(self, max_seq_len: int) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin, each [rows, head_dim] float32, for all sequences of up to `max_seq_len` tokens; see `row`."""
        return self.cos_sin(torch.arange(max_seq_len))

    def row(self, position: int, seq_len: int) -> int:
        """The row of `table` for the token at `position` of a sequence of `seq_len` tokens."""
        if not 0 <= position < seq_len:
            raise ValueError(f"position {position} is not inside a sequence of {seq_len} tokens")
        return position

    def _wavelengths(self) -> torch.Tensor:
        # The order of operations is Hugging Face's, so that the float32 results are equal to the last bit.
        return self.theta ** (torch.arange(0, self.head_dim, 2).float() / self.head_dim)


@dataclass(frozen=True)
class LongRope(DefaultRope):
    """LongRoPE: every frequency is divided by a factor of its own, from one of two lists.

    A sequence of at most `original_max_context_len` tokens uses `short_factor`, a longer one `long_factor` for all
    its positions. In both cases cos and sin are multiplied by sqrt(1 + ln(s) / ln(original_max_context_len)), where
    s = max_context_len / original_max_context_len (or `factor`).
    """

    kind: ClassVar[str] = "longrope"
    keys: ClassVar[frozenset] = frozenset({"short_factor", "long_factor", "factor", "attention_factor"})

    original_max_context_len: int
    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    factor: float | None = None
    explicit_attention_factor: float | None = None

    def __post_init__(self):
        super().__post_init__()
        for name in ("short_factor", "long_factor"):
            factors = getattr(self, name)
            if len(factors) != self.head_dim // 2:
                raise ValueError(
                    f"RoPE {name} has {len(factors)} entries; head_dim {self.head_dim} needs {self.head_dim // 2}"
                )
            if not all(factor > 0 for factor in factors):
                raise ValueError(f"RoPE {name} must hold positive numbers, got {min(factors)}")
        if not 1 < self.original_max_context_len <= self.max_context_len:
            raise ValueError(
                f"original_max_position_embeddings {self.original_max_context_len} must be over 1 and at most "
                f"max_position_embeddings {self.max_context_len}"
            )

    @classmethod
    def from_parameters(cls, parameters: Mapping, config: Mapping, default_original_len: int | None, **common):
        return cls(
            **common,
            original_max_context_len=_original_max_context_len(config, parameters, default_original_len),
            short_factor=_factors(parameters, "short_factor"),
            long_factor=_factors(parameters, "long_factor"),
            factor=_optional_number(parameters, "factor"),
            explicit_attention_factor=_optional_number(parameters, "attention_factor"),
        )

    @property
    def attention_factor(self) -> float:
        if self.explicit_attention_factor is not None:
            return self.explicit_attention_factor
        scale = self.max_context_len / self.original_max_context_len if self.factor is None else self.factor
        if scale <= 1.0:
            return 1.0
        return math.sqrt(1 + math.log(scale) / math.log(self.original_max_context_len))

    @property
    def switch_len(self) -> int:
        return self.original_max_context_len

    def inv_freq(self, long: bool) -> torch.Tensor:
        """[head_dim / 2] float32, radians per position, with the long or the short factors."""
        factors = torch.tensor(self.long_factor if long else self.short_factor, dtype=torch.float32)
        return 1.0 / (factors * self._wavelengths())

    def table(self, max_seq_len: int) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin, each [rows, head_dim] float32, for all sequences of up to `max_seq_len` tokens; see `row`.

        Up to `switch_len` there are `max_seq_len` rows with the short factors. Beyond, `switch_len` rows with the
        short factors come first and `max_seq_len` rows with the long factors follow: one table on the device serves
        users on both sides of the switch.
        """
        if max_seq_len <= self.switch_len:
            return self.cos_sin(torch.arange(max_seq_len), long=False)
        short = self.cos_sin(torch.arange(self.switch_len), long=False)
        long = self.cos_sin(torch.arange(max_seq_len), long=True)
        return torch.cat((short[0], long[0])), torch.cat((short[1], long[1]))

    def row(self, position: int, seq_len: int) -> int:
        row = super().row(position, seq_len)
        return row if seq_len <= self.switch_len else self.switch_len + row


KINDS = {rope.kind: rope for rope in (DefaultRope, LongRope)}
# Keys that parameters of every kind may have.
COMMON_KEYS = frozenset({"rope_type", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings"})


def rope_parameters(config: Mapping, aliases: Mapping[str, str]) -> tuple[dict, list[str]]:
    """The RoPE parameters of a `config.json`, and a note on each choice between two different values.

    A config may have the old form (`rope_theta`, `rope_scaling`), the form of transformers 5 (`rope_parameters`), or
    both, and a value may be both inside and outside of them. Hugging Face's choice is taken: `rope_scaling` before
    `rope_parameters`, `rope_type` before `type`, a value inside before one outside. `aliases`: a family's other names
    of a kind -> its name.

    Raises ValueError if the parameters are not an object or `rope_type` is not a text.
    """
    notes = []
    scaling, parameters = config.get("rope_scaling"), config.get("rope_parameters")
    for given in (scaling, parameters):
        if given and not isinstance(given, Mapping):
            raise ValueError(f"rope_parameters/rope_scaling must be an object, got {given!r}")
    chosen = {"rope_type": None, **(scaling or parameters or {})}
    if scaling and parameters and _named_once(scaling) != _named_once(parameters):
        notes.append("config.json has rope_scaling and rope_parameters that differ; rope_scaling is used")

    other_name = chosen.pop("type", None)
    if chosen["rope_type"] is None:
        chosen["rope_type"] = DefaultRope.kind if other_name is None else other_name
    elif other_name not in (None, chosen["rope_type"]):
        notes.append(f"RoPE has rope_type {chosen['rope_type']!r} and type {other_name!r}; rope_type is used")
    if not isinstance(chosen["rope_type"], str):
        raise ValueError(f"rope_type must be a text, got {chosen['rope_type']!r}")
    chosen["rope_type"] = aliases.get(chosen["rope_type"], chosen["rope_type"])

    for key in ("rope_theta", "partial_rotary_factor"):
        if key in config and chosen.setdefault(key, config[key]) != config[key]:
            notes.append(f"config.json has {key} {config[key]} outside of the RoPE parameters and {chosen[key]} inside, which is used")
    return chosen, notes


def _named_once(parameters: Mapping) -> dict:
    kind = parameters.get("rope_type") or parameters.get("type")
    return {**parameters, "type": kind, "rope_type": kind}


def make_rope(
    config: Mapping,
    *,
    head_dim: int,
    max_context_len: int,
    default_original_len: int | None = None,
    aliases: Mapping[str, str] | None = None,
) -> DefaultRope:
    """The RoPE that a Hugging Face `config.json` describes; see `rope_parameters` for its forms.

    `aliases`: a model family's other names of a kind. `default_original_len`: the family's default for a missing
    `original_max_position_embeddings`.

    Raises ValueError for a kind or a key that is not supported, and for values that do not fit the model.
    """
    aliases = aliases or {}
    parameters, _ = rope_parameters(config, aliases)
    kind = parameters["rope_type"]
    if kind not in KINDS:
        names = sorted({*KINDS, *aliases})
        raise ValueError(f"RoPE type {kind!r} is not supported; supported are {', '.join(names)}")
    if (partial := parameters.get("partial_rotary_factor", 1.0)) != 1.0:
        raise ValueError(f"partial_rotary_factor {partial} is not supported; only 1.0 (all of head_dim) is")

    rope = KINDS[kind]
    unknown = sorted(set(parameters) - COMMON_KEYS - rope.keys)
    if unknown:
        raise ValueError(f"RoPE type {kind!r} has keys that are not supported: {', '.join(unknown)}")
    theta = _number("rope_theta", parameters.get("rope_theta", 10000.0))
    return rope.from_parameters(
        parameters, config, default_original_len, head_dim=head_dim, theta=theta, max_context_len=max_context_len
    )


def _original_max_context_len(config: Mapping, scaling: Mapping, default: int | None) -> int:
    # Hugging Face reads the top-level value, or the family's default where there is none, and overwrites the one
    # inside rope_parameters with it. Other programs could read a checkpoint where the two differ in another way.
    key = "original_max_position_embeddings"
    top = config.get(key, default)
    inner = scaling.get(key, top)
    if top is None:
        top = inner
    if not isinstance(top, int):
        raise ValueError(f"RoPE type longrope needs an integer {key}, got {top!r}")
    if inner != top:
        source = "at the top level" if key in config else "as this architecture's default"
        raise ValueError(f"{key} is {inner} in rope_parameters but {top} {source}; set both to the same value")
    return top


def _factors(scaling: Mapping, name: str) -> tuple[float, ...]:
    factors = scaling.get(name)
    if not isinstance(factors, (list, tuple)) or not factors:
        raise ValueError(f"RoPE type longrope needs a list of numbers {name}, got {factors!r}")
    return tuple(_number(name, factor) for factor in factors)


def _optional_number(scaling: Mapping, name: str) -> float | None:
    return None if scaling.get(name) is None else _number(name, scaling[name])


def _number(name: str, value) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"RoPE {name} must be a number, got {value!r}")
    return value
