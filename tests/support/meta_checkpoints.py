"""Writes a Hugging Face Llama in Meta's format, as one file or split over several, with a small tokenizer."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path

import torch

from models.tt_transformers.tools.repack_weights import repack
from models.tt_transformers.tt.checkpoints.meta_tokenizer import SPECIAL_TOKENS
from models.tt_transformers.tt.model_args import ModelArgs
from tests.support.model_args import MeshOf

_NAMES = {
    "self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk", "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1", "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3", "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm",
    "embed_tokens": "tok_embeddings", "lm_head": "output", "model.": "",
}  # fmt: skip
TOKENS = [bytes([byte]) for byte in range(256)] + [b"th", b"he", b"the", b" the", b"in", b"ing", b" a", b" an"]
VOCAB_SIZE = len(TOKENS) + len(SPECIAL_TOKENS)
# Eight files can have a part of every head. The MLP has two thirds of 4 * 512, rounded up to `multiple_of`.
EIGHT_PARTS = dict(
    vocab_size=VOCAB_SIZE, hidden_size=512, intermediate_size=1536, num_attention_heads=16, num_key_value_heads=8
)  # fmt: skip


def meta_weights(model) -> dict[str, torch.Tensor]:
    """The weights of a `LlamaForCausalLM` under Meta's names, rows of wq and wk in Meta's order. Tied ones are left out."""
    weights = {}
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        if "q_proj" in name or "k_proj" in name:
            # Hugging Face: the real parts of a head, then the imaginary ones. Meta: pair by pair.
            real, imaginary = weight.unflatten(0, (-1, 2, model.config.head_dim // 2)).unbind(1)
            weight = torch.stack((real, imaginary), dim=2).flatten(0, 2)
        for theirs, metas in _NAMES.items():
            name = name.replace(theirs, metas)
        weights[name] = weight.clone()
    return weights


def params(config, **changes) -> dict:
    """The `params.json` of a Hugging Face Llama's config."""
    values = {
        "dim": config.hidden_size,
        "n_layers": config.num_hidden_layers,
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "vocab_size": config.vocab_size,
        "multiple_of": config.intermediate_size,
        "norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_parameters["rope_theta"],
    }
    return {key: value for key, value in {**values, **changes}.items() if value is not None}


def shards(weights: Mapping[str, torch.Tensor], count: int, embedding_dim: int = 0) -> list[dict[str, torch.Tensor]]:
    """`weights` as `count` ranks have them. `embedding_dim`: how token embeddings are split, 0 in Llama 3, 1 in Llama 2."""
    split = {"wq": 0, "wk": 0, "wv": 0, "w1": 0, "w3": 0, "output": 0, "wo": 1, "w2": 1, "tok_embeddings": embedding_dim}
    result = [{} for _ in range(count)]
    for name, weight in weights.items():
        dim = split.get(name.split(".")[-2])
        parts = [weight] * count if dim is None else weight.chunk(count, dim)
        for shard, part in zip(result, parts, strict=True):
            shard[name] = part.clone()
    return result


def save_meta(directory: Path, model, count: int = 1, *, embedding_dim: int = 0, **params_changes) -> None:
    """Writes `model` to `directory`, split over `count` files."""
    directory.mkdir(exist_ok=True)
    for rank, shard in enumerate(shards(meta_weights(model), count, embedding_dim)):
        torch.save(shard, directory / f"consolidated.{rank:02}.pth")
    (directory / "params.json").write_text(json.dumps(params(model.config, **params_changes)))
    save_tiktoken(directory)


def save_layout(directory: Path, model, layout: str) -> Path:
    """Writes `model` in Meta's format: in one file, split (as Llama 2 or Llama 3 does it), or split and repacked."""
    count = {"1 file": 1, "2 files": 2}.get(layout, 8)
    save_meta(directory, model, count, embedding_dim=int(layout == "8 files, Llama 2"))
    if layout == "repacked":
        repack(directory, directory, chunk_size=1)
    return directory


def meta_args(directory: Path, **options) -> ModelArgs:
    """The settings of a run of a checkpoint in Meta's format; nothing is computed."""
    return ModelArgs(MeshOf(1), llama_dir=directory, max_seq_len=64, **options)


def save_tiktoken(directory: Path, tokens=TOKENS) -> None:
    """Writes a `tokenizer.model` in Llama 3's format."""
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens))
    (directory / "tokenizer.model").write_text("".join(lines))
