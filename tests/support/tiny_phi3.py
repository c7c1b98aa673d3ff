"""Small random Phi-3 checkpoints, made by transformers, for tests that compare with it."""

from pathlib import Path

import torch
from transformers import Phi3Config, Phi3ForCausalLM

HEAD_DIM = 32
SWITCH_LEN = 64


def tiny_config(**changes) -> Phi3Config:
    settings = dict(
        vocab_size=320,
        hidden_size=128,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        original_max_position_embeddings=SWITCH_LEN,
        rope_scaling={
            "type": "longrope",
            "short_factor": [1.0 + 0.05 * i for i in range(HEAD_DIM // 2)],
            "long_factor": [1.0 + 0.4 * i for i in range(HEAD_DIM // 2)],
        },
        eos_token_id=2,
        pad_token_id=0,
    )
    return Phi3Config(**{**settings, **changes})


def save_tiny_phi3(directory: Path, *, max_shard_size: str = "1GB", dtype=torch.bfloat16, **changes) -> Phi3ForCausalLM:
    """Writes a checkpoint and returns the model that Hugging Face loads from it."""
    torch.manual_seed(0)
    Phi3ForCausalLM(tiny_config(**changes)).to(dtype).save_pretrained(directory, max_shard_size=max_shard_size)
    # The saved model itself is not returned: its `to` also rounded the RoPE frequencies, which loading keeps in fp32.
    return Phi3ForCausalLM.from_pretrained(directory, dtype=dtype).eval()
