"""Llama 2 and 3 (Meta), and the many models of the same architecture, such as TinyLlama, SmolLM2 and DeepSeek-LLM."""

from models.tt_transformers.tt.families.family import ATTENTION_BIASES, MLP_BIASES, UNFUSED, Family

LLAMA = Family(
    architecture="LlamaForCausalLM",
    model_type="llama",
    defaults={
        "hidden_act": "silu",
        "head_dim": None,
        "num_key_value_heads": None,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "eos_token_id": 2,
    },
    layer_tensors=UNFUSED,
    tensors_if={"attention_bias": ATTENTION_BIASES, "mlp_bias": MLP_BIASES},
)
