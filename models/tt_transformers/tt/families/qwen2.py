"""Qwen2, Qwen2.5 and QwQ (Alibaba), and DeepSeek's distillations to them: biases on query, key and value."""

from models.tt_transformers.tt.families.family import QKV_BIASES, UNFUSED, Family, window_by_layer

QWEN2 = Family(
    architecture="Qwen2ForCausalLM",
    model_type="qwen2",
    defaults={
        "hidden_act": "silu",
        "head_dim": None,
        "num_key_value_heads": 32,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "eos_token_id": None,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
        "layer_types": None,
    },
    layer_tensors={**UNFUSED, **QKV_BIASES},
    windows=window_by_layer,
)
