"""RoPE of small configs, ours and Hugging Face's, and sets of parameters of every kind."""

import json

import torch
from transformers import LlamaConfig, Phi3Config
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from models.tt_transformers.tt.checkpoints.location import MODEL_PARAMS
from models.tt_transformers.tt.config.rope import make_rope
from models.tt_transformers.tt.families.llama import LLAMA
from models.tt_transformers.tt.families.phi3 import PHI3
from tests.support.tiny_phi3 import HEAD_DIM, tiny_config

MINI_128K = json.loads((MODEL_PARAMS / "Phi-3-mini-128k-instruct/config.json").read_text())
ROTARY = {LlamaConfig: LlamaRotaryEmbedding, Phi3Config: Phi3RotaryEmbedding}
CONTEXT = 256


def mini_128k_rope(**changes):
    return make_rope({**MINI_128K, **changes}, PHI3, head_dim=96, max_position_embeddings=131072)


def tiny_rope():
    return make_rope(tiny_config().to_dict(), PHI3, head_dim=HEAD_DIM, max_position_embeddings=256)


def llama_rope(parameters, head_dim=64, family=LLAMA):
    return make_rope({"rope_parameters": parameters}, family, head_dim=head_dim, max_position_embeddings=CONTEXT)


def llama_config(parameters, head_dim=64):
    sizes = dict(hidden_size=4 * head_dim, num_attention_heads=4, max_position_embeddings=CONTEXT)
    return LlamaConfig(**sizes, rope_parameters=dict(parameters))


def hugging_face_cos_sin(config, positions, rotary=None):
    """cos and sin of a sequence that ends at the last position; [n, head_dim] in the interleaved order.

    `rotary`: Hugging Face's module, if it has run other sequences before.
    """
    cos, sin = (rotary or ROTARY[type(config)](config))(torch.zeros(1), positions[None])
    half = cos.shape[-1] // 2
    return tuple(table[0, :, :half].repeat_interleave(2, dim=-1) for table in (cos, sin))


def assert_equal(ours, reference):
    for one, other in zip(ours, reference, strict=True):
        assert torch.equal(one, other)


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0 + i / 10 for i in range(32)],
    "long_factor": [1.0 + i / 3 for i in range(32)],
}
SETS = [
    {},
    {"rope_type": "default", "rope_theta": 1000000},
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "linear", "factor": 2.5, "rope_theta": 100000},
    {"rope_type": "linear", "factor": 3},
    {"rope_type": "linear", "factor": 0.5},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "dynamic", "factor": 2},
    {"rope_type": "dynamic", "factor": 3.7, "rope_theta": 500000.0},
    {"rope_type": "dynamic", "factor": 0.5},
    LLAMA3,
    {**LLAMA3, "original_max_position_embeddings": 100, "rope_theta": 500000.0},
    {**LLAMA3, "factor": 2.5, "low_freq_factor": 1.5, "high_freq_factor": 3, "original_max_position_embeddings": 8192},
    YARN,
    {**YARN, "factor": 2.5, "original_max_position_embeddings": 100},
    {**YARN, "factor": None, "original_max_position_embeddings": 64},
    {**YARN, "factor": 0.5},
    {**YARN, "truncate": False},
    {**YARN, "attention_factor": 1.25},
    {**YARN, "attention_factor": 2},
    {**YARN, "attention_factor": 0.0},
    {**YARN, "attention_factor": None},
    {**YARN, "beta_fast": 20, "beta_slow": 2.5},
    {**YARN, "beta_fast": 0, "beta_slow": 0},
    {**YARN, "beta_fast": 1, "beta_slow": 32},
    {**YARN, "factor": 40, "mscale": 0.707, "mscale_all_dim": 1.0},
    {**YARN, "factor": 40, "mscale": 0.707, "mscale_all_dim": 0},
    {**YARN, "factor": 40, "mscale": 0.707},
    {**YARN, "original_max_position_embeddings": 32768, "rope_theta": 1000000.0},
    LONGROPE,
    {**LONGROPE, "original_max_position_embeddings": 100},
    {**LONGROPE, "original_max_position_embeddings": 100, "factor": 8},
    {**LONGROPE, "original_max_position_embeddings": 100, "attention_factor": 1.5},
]
NAMES = [", ".join(f"{key} {value}" for key, value in given.items() if not isinstance(value, list)) for given in SETS]
