"""A family of models: the facts that its architecture's name implies and that are not in `config.json`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"

# Hugging Face's names of the tensors outside of the layers -> ours.
OUTSIDE_LAYERS = MappingProxyType(
    {EMBEDDING: ("tok_embeddings.weight",), "model.norm.weight": ("norm.weight",), OUTPUT: ("output.weight",)}
)


@dataclass(frozen=True)
class Family:
    """One Hugging Face architecture, as data.

    Attributes:
        architecture: the name in `architectures` of `config.json`.
        model_type: Hugging Face's name of its config class.
        defaults: Hugging Face's values for keys that a `config.json` leaves out.
        layer_tensors: Hugging Face's name of each tensor of a layer, without `model.layers.<i>.` -> our names (Meta's)
            of its parts, without `layers.<i>.`, in the order of their rows. A tensor that is not fused has one part.
        rope_aliases: other names of RoPE kinds.
        rope_kinds: the RoPE kinds that Hugging Face's config class accepts; None: all.
        partial_rotation: whether `partial_rotary_factor` may be less than 1.
        recomputes_keys: whether Hugging Face's `generate` computes all keys of a sequence again when it grows past the
            length at which LongRoPE changes its factors. If not, the cached keys keep the short factors.
    """

    architecture: str
    model_type: str
    defaults: Mapping[str, Any]
    layer_tensors: Mapping[str, tuple[str, ...]]
    rope_aliases: Mapping[str, str] = field(default_factory=dict)
    rope_kinds: tuple[str, ...] | None = None
    partial_rotation: bool = False
    recomputes_keys: bool = False

    def tensors(self, n_layers: int) -> dict[str, tuple[str, ...]]:
        """Every tensor of a model by Hugging Face's name, with our names of its parts, in the order of the model."""
        layers = {
            f"model.layers.{i}.{theirs}": tuple(f"layers.{i}.{ours}" for ours in parts)
            for i in range(n_layers)
            for theirs, parts in self.layer_tensors.items()
        }
        embedding, *rest = OUTSIDE_LAYERS.items()
        return dict([embedding, *layers.items(), *rest])
