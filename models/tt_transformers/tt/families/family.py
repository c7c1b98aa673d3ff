"""A family of models: the facts that its architecture's name implies and that are not in `config.json`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"

# Hugging Face's names of the tensors outside of the layers -> ours.
OUTSIDE_LAYERS = MappingProxyType(
    {EMBEDDING: ("tok_embeddings.weight",), "model.norm.weight": ("norm.weight",), OUTPUT: ("output.weight",)}
)

# The matrices of a layer in which nothing is fused: Hugging Face's name -> ours.
_QKV = {"self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk", "self_attn.v_proj": "attention.wv"}
_O = {"self_attn.o_proj": "attention.wo"}
_MLP = {"mlp.gate_proj": "feed_forward.w1", "mlp.up_proj": "feed_forward.w3", "mlp.down_proj": "feed_forward.w2"}


def _tensors(names: Mapping[str, str], kind: str) -> Mapping[str, tuple[str, ...]]:
    return MappingProxyType({f"{theirs}.{kind}": (f"{ours}.{kind}",) for theirs, ours in names.items()})


# The tensors of a layer in which nothing is fused, as most families have them, and those that some add.
NORMS = _tensors({"input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm"}, "weight")
UNFUSED = MappingProxyType({**NORMS, **_tensors({**_QKV, **_O, **_MLP}, "weight")})
QKV_BIASES = _tensors(_QKV, "bias")
ATTENTION_BIASES = _tensors({**_QKV, **_O}, "bias")
MLP_BIASES = _tensors(_MLP, "bias")
MLP = _tensors(_MLP, "weight")
QK_NORMS = _tensors({"self_attn.q_norm": "attention.q_norm", "self_attn.k_norm": "attention.k_norm"}, "weight")


# The kinds of layers.
SELF_ATTENTION, CROSS_ATTENTION = "self_attention", "cross_attention"


def self_attention(value) -> tuple[str, ...]:
    """Every layer attends to the text alone. `value`: see `no_window`."""
    return (SELF_ATTENTION,) * value("num_hidden_layers")


def no_window(value) -> tuple[None, ...]:
    """Every layer attends to all positions. `value` gives the value of a key of `config.json`, or its default;
    `value.boolean` refuses one that is neither true nor false."""
    return (None,) * value("num_hidden_layers")


def one_window(value) -> tuple[int | None, ...]:
    """`sliding_window` in every layer."""
    return (value("sliding_window"),) * value("num_hidden_layers")


def window_by_layer(value) -> tuple[int | None, ...]:
    """`sliding_window` in the layers that `layer_types` names, or from `max_window_layers` on, if it is in use at all.

    As Hugging Face's Qwen2Config does it. Raises ValueError for a kind of layer that is not known, and for a
    `max_window_layers` that is not an integer.
    """
    window = value("sliding_window") if value.boolean("use_sliding_window") else None
    count, kinds = value("num_hidden_layers"), value("layer_types")
    if kinds is None:
        full = count if window is None else value("max_window_layers")
        if type(full) is not int:
            raise ValueError(f"config.json: max_window_layers must be an integer, got {full!r}")
        return tuple(None if layer < full else window for layer in range(count))
    known = ("full_attention", "sliding_attention")
    if not isinstance(kinds, list) or len(kinds) != count or not all(kind in known for kind in kinds):
        raise ValueError(f"layer_types must be a list of {count} of {', '.join(known)}, got {kinds!r}")
    if window is None and "sliding_attention" in kinds:
        raise ValueError("layer_types has sliding_attention, but sliding_window is null or use_sliding_window is false")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


@dataclass(frozen=True)
class Family:
    """One Hugging Face architecture, as data.

    Attributes:
        architecture: the name in `architectures` of `config.json`.
        model_type: Hugging Face's name of its config class.
        defaults: Hugging Face's values for keys that a `config.json` leaves out.
        layer_tensors: Hugging Face's name of each tensor of a layer, without `model.layers.<i>.` -> our names (Meta's)
            of its parts, without `layers.<i>.`, in the order of their rows. A tensor that is not fused has one part.
        cross_attention_tensors: the same of a layer that attends to images.
        layer_kinds: the kind of each layer, SELF_ATTENTION or CROSS_ATTENTION. It gets the reader of `config.json` (see
            `no_window`).
        text_config: the key of `config.json` that holds the language model's keys; None: they are not nested.
        prefix: what stands before the names of the language model's tensors.
        image_embeddings: token embeddings after the vocabulary's, which are inputs only.
        tensors_if: a key of `config.json` -> tensors that a layer has besides, if the key's value is true.
        windows: how many positions each layer attends to, the token's own included; None for all. It gets
            the reader of `config.json` (see `no_window`).
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
    cross_attention_tensors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    layer_kinds: Callable[[Any], tuple[str, ...]] = self_attention
    text_config: str | None = None
    prefix: str = ""
    image_embeddings: int = 0
    tensors_if: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    windows: Callable[[Any], tuple[int | None, ...]] = no_window
    rope_aliases: Mapping[str, str] = field(default_factory=dict)
    rope_kinds: tuple[str, ...] | None = None
    partial_rotation: bool = False
    recomputes_keys: bool = False
