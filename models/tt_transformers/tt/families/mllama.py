"""Llama 3.2 Vision 11B and 90B (Meta): Llama's layers, and between them layers that attend to images."""

from models.tt_transformers.tt.families.family import CROSS_ATTENTION, MLP, NORMS, SELF_ATTENTION, UNFUSED, Family


def layer_kinds(value) -> tuple[str, ...]:
    """The layers that `cross_attention_layers` names attend to images. ValueError if it is no list of layers."""
    count, crossing = value("num_hidden_layers"), value("cross_attention_layers")
    # Hugging Face ignores a number past the last layer: its own default names 8 of 40 layers.
    if not isinstance(crossing, list) or not all(type(layer) is int and layer >= 0 for layer in crossing):
        raise ValueError(f"config.json: cross_attention_layers must be a list of layers, got {crossing!r}")
    return tuple(CROSS_ATTENTION if layer in crossing else SELF_ATTENTION for layer in range(count))


MLLAMA = Family(
    architecture="MllamaForConditionalGeneration",
    model_type="mllama",
    defaults={
        "vocab_size": 128256,
        "hidden_size": 4096,
        "hidden_act": "silu",
        "num_hidden_layers": 40,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": None,
        "intermediate_size": 14336,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "eos_token_id": 128001,
        "cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38],
        "image_token_index": 128256,
    },
    layer_tensors=UNFUSED,
    cross_attention_tensors={
        **NORMS,
        **MLP,
        **{
            f"cross_attn.{theirs}.weight": (f"attention.{ours}.weight",)
            for theirs, ours in (
                ("q_proj", "wq"), ("k_proj", "wk"), ("v_proj", "wv"), ("o_proj", "wo"), ("q_norm", "q_norm"), ("k_norm", "k_norm")
            )
        },
        "cross_attn_attn_gate": ("attention.gate",),
        "cross_attn_mlp_gate": ("feed_forward.gate",),
    },
    layer_kinds=layer_kinds,
    text_config="text_config",
    prefix="language_model.",
    image_embeddings=8,
)  # fmt: skip
