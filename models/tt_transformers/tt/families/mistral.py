"""Mistral 7B to Mistral Small 24B (Mistral AI): Llama's layers, with a sliding window in the first release."""

from models.tt_transformers.tt.families.family import UNFUSED, Family, one_window

MISTRAL = Family(
    architecture="MistralForCausalLM",
    model_type="mistral",
    defaults={
        "hidden_act": "silu",
        "head_dim": None,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "eos_token_id": 2,
        "sliding_window": 4096,
    },
    layer_tensors=UNFUSED,
    windows=one_window,
)
