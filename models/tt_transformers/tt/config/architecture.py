"""Facts of a checkpoint's `config.json` as one frozen dataclass. It refuses facts that the model code cannot run."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Mapping

from models.tt_transformers.tt.config.reader import Reader, nested
from models.tt_transformers.tt.config.rope import DefaultRope, make_rope, rope_parameters
from models.tt_transformers.tt.config.vision import VisionArchitecture
from models.tt_transformers.tt.families import FAMILIES
from models.tt_transformers.tt.families.family import (
    CROSS_ATTENTION,
    OUTSIDE_LAYERS,
    SELF_ATTENTION,
    Family,
    window_by_layer,
)

MAX_HEAD_DIM = 256


@dataclass(frozen=True)
class Architecture:
    """A decoder-only transformer. Weights are [out_features, in_features]; q has n_heads * head_dim columns.

    `windows`: for each layer, how many positions a token attends to, its own included; None for all.
    `layer_kinds`: the kind of each layer. `layer_tensors`: see `Family`; here for each kind, with the tensors that
    `config.json` adds. `layer_indices`: each layer's number in the checkpoint, which its tensors' names have. `embeddings`: the rows of the token
    embeddings, which may be more than the vocabulary. `vision`: the part that reads images, None for a model of text.
    """

    architecture: str
    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    hidden_dim: int
    vocab_size: int
    norm_eps: float
    max_context_len: int
    rope: DefaultRope
    tie_word_embeddings: bool
    eos_token_ids: tuple[int, ...]
    windows: tuple[int | None, ...]
    layer_kinds: tuple[str, ...]
    layer_tensors: Mapping[str, Mapping[str, tuple[str, ...]]] = field(hash=False)
    layer_indices: tuple[int, ...]
    embeddings: int
    prefix: str = ""
    vision: VisionArchitecture | None = None
    # Choices that were made where `config.json` gives a fact twice.
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self):
        sizes = ("dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "hidden_dim", "vocab_size", "max_context_len")
        for name in sizes:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"num_attention_heads {self.n_heads} is not a multiple of num_key_value_heads {self.n_kv_heads}"
            )
        if self.head_dim > MAX_HEAD_DIM:
            raise ValueError(f"head_dim {self.head_dim} is more than {MAX_HEAD_DIM}, the most that the rotary op takes")
        if not isinstance(self.norm_eps, float) or not 0 < self.norm_eps < math.inf:
            raise ValueError(f"rms_norm_eps must be a positive number, got {self.norm_eps!r}")
        for token_id in self.eos_token_ids:
            if not 0 <= token_id < self.vocab_size:
                raise ValueError(f"eos_token_id {token_id} is outside the vocabulary of {self.vocab_size}")
        for window in self.windows:
            if window is not None and (type(window) is not int or window <= 0):
                raise ValueError(f"sliding_window must be a positive integer or null, got {window!r}")

    @classmethod
    def from_hf_config(cls, config: Mapping[str, Any]) -> "Architecture":
        """From the parsed `config.json` of a Hugging Face checkpoint.

        Raises ValueError that names the key, its value and what is supported.
        """
        name = architecture_name(config)
        family = FAMILIES[name]
        vision, outer = None, config
        if family.text_config is not None:
            vision, config = VisionArchitecture.from_hf_config(config), nested(config, family.text_config)
        value = Reader(config, family.defaults)

        if value("hidden_act") != "silu":
            raise ValueError(f"hidden_act {value('hidden_act')!r} is not supported; supported is 'silu'")
        if outer.get("quantization_config") is not None:
            raise ValueError("quantization_config: quantised checkpoints are not supported; use bf16, fp16 or fp32")

        dim, n_heads = value.integer("hidden_size"), value.integer("num_attention_heads")
        if value("head_dim") is None and family.defaults["head_dim"] is None:
            if dim % n_heads:
                raise ValueError(f"hidden_size {dim} is not a multiple of num_attention_heads {n_heads}")
            head_dim = dim // n_heads
        else:
            head_dim = value.integer("head_dim")
        rope = make_rope(
            config, family, head_dim=head_dim, max_position_embeddings=value.integer("max_position_embeddings")
        )
        n_layers, vocab_size = value.integer("num_hidden_layers"), value.integer("vocab_size")
        tied = value.boolean("tie_word_embeddings")
        if tied and family.image_embeddings:
            raise ValueError(f"tie_word_embeddings is true; {name} has more token embeddings than rows of the LM head")
        return cls(
            architecture=name,
            dim=dim,
            n_layers=n_layers,
            n_heads=n_heads,
            n_kv_heads=n_heads if value("num_key_value_heads") is None else value.integer("num_key_value_heads"),
            head_dim=head_dim,
            hidden_dim=value.integer("intermediate_size"),
            vocab_size=vocab_size,
            norm_eps=value("rms_norm_eps"),
            max_context_len=rope.context_len,
            rope=rope,
            tie_word_embeddings=tied,
            eos_token_ids=token_ids(value("eos_token_id"), "config.json"),
            windows=family.windows(value),
            layer_kinds=family.layer_kinds(value),
            layer_tensors=_layer_tensors(family, value),
            layer_indices=tuple(range(n_layers)),
            embeddings=vocab_size + family.image_embeddings,
            prefix=family.prefix,
            vision=vision,
            notes=(*rope_parameters(config, family.rope_aliases)[1], *_notes_on_windows(config, family)),
        )

    def with_layers(self, n_layers: int | None) -> "Architecture":
        """The same model with its first `n_layers` layers only; all of them for None."""
        if n_layers is None:
            return self
        if not 1 <= n_layers <= self.n_layers:
            raise ValueError(f"num_layers {n_layers} is outside 1 to {self.n_layers}, the layers of this checkpoint")
        return self._of_layers(range(n_layers))

    def text_only(self) -> "Architecture":
        """The same model without what only images need: Hugging Face skips these layers for a text without images."""
        layers = [layer for layer, kind in enumerate(self.layer_kinds) if kind != CROSS_ATTENTION]
        return replace(self._of_layers(layers), vision=None)

    def _of_layers(self, layers: Sequence[int]) -> "Architecture":
        by_layer = ("windows", "layer_kinds", "layer_indices")
        return replace(
            self, n_layers=len(layers), **{name: tuple(getattr(self, name)[layer] for layer in layers) for name in by_layer}
        )

    @property
    def qkv_bias(self) -> bool:
        """Whether query, key and value have biases."""
        return self._has("attention.wq.bias")

    @property
    def output_bias(self) -> bool:
        """Whether attention's output projection has a bias."""
        return self._has("attention.wo.bias")

    @property
    def mlp_bias(self) -> bool:
        """Whether the MLP's matrices have biases."""
        return self._has("feed_forward.w1.bias")

    @property
    def qk_norm(self) -> bool:
        """Whether each head's query and key are normalised before they are rotated."""
        return self._has("attention.q_norm.weight")

    def tensors(self) -> dict[str, tuple[str, ...]]:
        """Every tensor of the model by Hugging Face's name, with our names of its parts, in the order of the model."""
        layers = {
            f"{self.prefix}model.layers.{index}.{theirs}": tuple(f"layers.{index}.{ours}" for ours in parts)
            for index, kind in zip(self.layer_indices, self.layer_kinds)
            for theirs, parts in self.layer_tensors[kind].items()
        }
        embedding, *rest = ((self.prefix + theirs, ours) for theirs, ours in OUTSIDE_LAYERS.items())
        vision = {} if self.vision is None else {theirs: (ours,) for theirs, ours in self.vision.tensors().items()}
        return dict([embedding, *layers.items(), *rest, *vision.items()])

    def _has(self, part: str) -> bool:
        return any(part in parts for parts in self.layer_tensors[SELF_ATTENTION].values())


def _notes_on_windows(config: Mapping[str, Any], family: Family) -> list[str]:
    if config.get("sliding_window") is None or not config.get("layer_types") or family.windows is window_by_layer:
        return []
    return [f"config.json has layer_types, which {family.architecture} does not read: all its layers are alike"]


def _layer_tensors(family: Family, value: Reader) -> Mapping[str, Mapping[str, tuple[str, ...]]]:
    added = (tensors for key, tensors in family.tensors_if.items() if value.boolean(key))
    tensors = dict(family.layer_tensors)
    for more in added:
        tensors.update(more)
    return MappingProxyType({SELF_ATTENTION: tensors, CROSS_ATTENTION: family.cross_attention_tensors})


def architecture_name(config: Mapping[str, Any]) -> str:
    """The supported architecture of a `config.json`: named by `architectures`, or implied by `model_type`.

    Raises ValueError if it is not supported, or if the two name different ones.
    """
    names, model_type = config.get("architectures"), config.get("model_type")
    if names is None:
        names = [name for name, family in FAMILIES.items() if family.model_type == model_type]
        if not names:
            raise ValueError(f"config.json names no architecture, and model_type {model_type!r} implies none; {_supported()}")
    if not isinstance(names, list) or len(names) != 1:
        raise ValueError(f"config.json must name one architecture, got architectures {names!r}; {_supported()}")
    (name,) = names
    if name not in FAMILIES:
        raise ValueError(f"architecture {name!r} is not supported; {_supported()}")
    if model_type not in (None, FAMILIES[name].model_type):
        raise ValueError(
            f"config.json contradicts itself: architecture {name!r} has model_type {FAMILIES[name].model_type!r}, "
            f"and model_type is {model_type!r}"
        )
    return name


def read_config(path: Path) -> dict:
    """The parsed `config.json` at `path`. Raises ValueError that names the file if it is not a JSON object."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold a JSON object, got a {type(config).__name__}")
    return config


def _supported() -> str:
    return f"supported are {', '.join(FAMILIES)}"


def token_ids(value, file) -> tuple[int, ...]:
    """The ids that `eos_token_id` of `file` holds: an integer, a list of integers or null; ValueError for others."""
    ids = () if value is None else tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if not all(type(token_id) is int for token_id in ids):
        raise ValueError(f"{file}: eos_token_id must be an integer or a list of integers, got {value!r}")
    return ids
