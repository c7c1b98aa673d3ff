"""Phi-3, Phi-3.5 and Phi-4 (Microsoft, 2024): fused query, key and value weights, a fused gate and up projection, LongRoPE."""

from models.tt_transformers.tt.families.family import NORMS, Family, one_window

PHI3 = Family(
    architecture="Phi3ForCausalLM",
    model_type="phi3",
    defaults={
        "hidden_act": "silu",
        "head_dim": None,
        "num_key_value_heads": None,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "eos_token_id": 32000,
        "sliding_window": None,
        "original_max_position_embeddings": 4096,
    },
    layer_tensors={
        **NORMS,
        "self_attn.qkv_proj.weight": ("attention.wq.weight", "attention.wk.weight", "attention.wv.weight"),
        "self_attn.o_proj.weight": ("attention.wo.weight",),
        "mlp.gate_up_proj.weight": ("feed_forward.w1.weight", "feed_forward.w3.weight"),
        "mlp.down_proj.weight": ("feed_forward.w2.weight",),
    },
    windows=one_window,
    # The first releases of Phi-3 use these names for LongRoPE. Hugging Face's Phi3Config reads both as longrope.
    rope_aliases={"su": "longrope", "yarn": "longrope"},
    rope_kinds=("default", "longrope"),
    partial_rotation=True,
    recomputes_keys=True,
)
