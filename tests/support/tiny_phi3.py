"""Small random Phi-3 checkpoints, made by transformers, for tests that compare with it."""

from pathlib import Path

import torch
from transformers import Phi3Config, Phi3ForCausalLM

from tests.support.tiny_models import SETTINGS

HEAD_DIM = 32
SWITCH_LEN = 64


def tiny_config(**changes) -> Phi3Config:
    longrope = dict(
        original_max_position_embeddings=SWITCH_LEN,
        rope_scaling={
            "type": "longrope",
            "short_factor": [1.0 + 0.05 * i for i in range(HEAD_DIM // 2)],
            "long_factor": [1.0 + 0.4 * i for i in range(HEAD_DIM // 2)],
        },
    )
    return Phi3Config(**{**SETTINGS, **longrope, **changes})


def save_tiny_phi3(directory: Path, *, max_shard_size: str = "1GB", dtype=torch.bfloat16, **changes) -> Phi3ForCausalLM:
    """Writes a checkpoint and returns the model that Hugging Face loads from it."""
    torch.manual_seed(0)
    Phi3ForCausalLM(tiny_config(**changes)).to(dtype).save_pretrained(directory, max_shard_size=max_shard_size)
    # The saved model itself is not returned: its `to` also rounded the RoPE frequencies, which loading keeps in fp32.
    return Phi3ForCausalLM.from_pretrained(directory, dtype=dtype).eval()
