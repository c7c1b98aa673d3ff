"""Qwen3 (Alibaba): a norm on each head's query and key, and a head_dim of its own."""

from models.tt_transformers.tt.families.family import ATTENTION_BIASES, QK_NORMS, UNFUSED, Family
from models.tt_transformers.tt.families.qwen2 import QWEN2

QWEN3 = Family(
    architecture="Qwen3ForCausalLM",
    model_type="qwen3",
    defaults={**QWEN2.defaults, "head_dim": 128, "attention_bias": False},
    layer_tensors={**UNFUSED, **QK_NORMS},
    tensors_if={"attention_bias": ATTENTION_BIASES},
    windows=QWEN2.windows,
)
