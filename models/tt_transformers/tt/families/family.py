"""What a family of models is: all that its architecture's name implies beyond a `config.json`."""

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
    """One architecture of Hugging Face's, as data.

    Attributes:
        architecture: the name in `architectures` of `config.json`.
        model_type: Hugging Face's name of its config class.
        defaults: the values that Hugging Face takes for keys that a `config.json` leaves out.
        layer_tensors: the tensors of a layer by Hugging Face's names behind `model.layers.<i>.`, each with our names
            (Meta's) of its parts behind `layers.<i>.`, in the order in which their rows lie; one part for a tensor that
            is not fused.
        rope_aliases: other names of RoPE kinds.
    """

    architecture: str
    model_type: str
    defaults: Mapping[str, Any]
    layer_tensors: Mapping[str, tuple[str, ...]]
    rope_aliases: Mapping[str, str] = field(default_factory=dict)

    def tensors(self, n_layers: int) -> dict[str, tuple[str, ...]]:
        """Every tensor of a model by Hugging Face's name, with our names of its parts, in the order of the model."""
        layers = {
            f"model.layers.{i}.{theirs}": tuple(f"layers.{i}.{ours}" for ours in parts)
            for i in range(n_layers)
            for theirs, parts in self.layer_tensors.items()
        }
        embedding, *rest = OUTSIDE_LAYERS.items()
        return dict([embedding, *layers.items(), *rest])
