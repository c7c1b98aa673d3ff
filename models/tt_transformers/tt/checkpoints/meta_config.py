"""The Hugging Face config that Meta's `params.json` means, so that both formats go the same way from there.

What `params.json` leaves out follows the rules of Hugging Face's `convert_llama_weights_to_hf.py`:

- Llama 3 has a tiktoken file as `tokenizer.model`; LLaMA 1, Llama 2 and Code Llama have a sentencepiece model.
- The context length is 131072 with `use_scaled_rope` (Llama 3.1 and later), else 8192 for Llama 3, 16384 for Code Llama
  (a `rope_theta` of its own) and 4096 for Llama 2. LLaMA 1, with 2048, cannot be told from Llama 2.
- `use_scaled_rope` means the RoPE kind llama3. Its factor is 32 for Llama 3.2 1B and 3B, 8 for the others: so Meta
  publishes it in their `config.json`, and `params.json` does not say it. Meta's own `apply_scaling` has 8 for all.
  Of the models with `use_scaled_rope`, those two alone use the token embeddings as LM head.
"""

import torch

from models.tt_transformers.tt.checkpoints import meta_vision
from models.tt_transformers.tt.checkpoints.meta_files import PARAMS, MetaFiles
from models.tt_transformers.tt.checkpoints.meta_tokenizer import (
    SPECIAL_TOKENS,
    STOP_TOKENS,
    TOKENIZER,
    is_tiktoken,
    token_count,
)
from models.tt_transformers.tt.checkpoints.safetensors_files import FLOATS
from models.tt_transformers.tt.config.architecture import read_config

_REQUIRED = ("dim", "n_layers", "n_heads", "norm_eps")
_OPTIONAL = ("n_kv_heads", "vocab_size", "multiple_of", "ffn_dim_multiplier", "rope_theta", "use_scaled_rope")
_VISION = (meta_vision.CHUNK_SIZE, meta_vision.MAX_CHUNKS, meta_vision.CROSS_LAYERS)
_HABITS = ("max_batch_size", "max_seq_len")  # of Meta's own program; they say nothing about the model
_OTHER_MODELS = {
    "moe": "a mixture of experts", "moe_args": "a mixture of experts",
    "vision_model": "another model with vision", "vision_args": "another model with vision",
    "quantization_args": "a quantised checkpoint", "lora_args": "a checkpoint with adapters",
}  # fmt: skip


def hugging_face_config(files: MetaFiles) -> dict:
    """The keys and values of the `config.json` of the same model in Hugging Face's format.

    Raises ValueError that names a key of `params.json` that is missing, not known or not supported, or a tokenizer of
    another vocabulary; FileNotFoundError if `params.json` or `tokenizer.model` is missing.
    """
    path = files.directory / PARAMS
    params = _checked_params(path)
    tokenizer = files.directory / TOKENIZER
    prefix = meta_vision.TEXT if meta_vision.vision_keys(params) else ""
    is_llama3, tokens = is_tiktoken(tokenizer), token_count(tokenizer)
    vocab_size, theta = params.get("vocab_size", -1), params.get("rope_theta", 10_000.0)
    if vocab_size == -1:  # Llama 2 leaves it to the tokenizer
        vocab_size = _embedding(files, prefix).shape[0]
    if tokens != vocab_size:
        raise ValueError(f"{tokenizer} has {tokens} tokens; the model beside it has a vocabulary of {vocab_size}")
    tied = not prefix and _output_is_embedding(files)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_size": params["dim"],
        "intermediate_size": _intermediate_size(params["dim"], params),
        "num_hidden_layers": params["n_layers"],
        "num_attention_heads": params["n_heads"],
        "num_key_value_heads": params.get("n_kv_heads") or params["n_heads"],
        "vocab_size": vocab_size,
        "rms_norm_eps": params["norm_eps"],
        "rope_theta": float(theta),
        "max_position_embeddings": 8192 if is_llama3 else 16384 if theta > 10_000 else 4096,
        "tie_word_embeddings": tied,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if is_llama3:
        first = vocab_size - len(SPECIAL_TOKENS)
        config["bos_token_id"] = first + SPECIAL_TOKENS.index("<|begin_of_text|>")
        config["eos_token_id"] = [first + SPECIAL_TOKENS.index(token) for token in STOP_TOKENS]
    if params.get("use_scaled_rope"):
        config["max_position_embeddings"] = 131_072
        config["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": 32.0 if tied else 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
    return meta_vision.with_vision(config, files, params) if prefix else config


def _checked_params(path) -> dict:
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} has no {PARAMS}")
    params = read_config(path)
    for key in params:
        if key in _OTHER_MODELS and params[key] not in (None, -1):
            raise ValueError(f"{path}: {key} is of {_OTHER_MODELS[key]}, which is not supported in Meta's format")
        if key not in (*_REQUIRED, *_OPTIONAL, *_VISION, *_HABITS, *_OTHER_MODELS):
            raise ValueError(f"{path}: {key} is not known; known are {', '.join((*_REQUIRED, *_OPTIONAL, *_VISION, *_HABITS))}")
    if missing := [key for key in _REQUIRED if key not in params]:
        raise ValueError(f"{path} has no {', '.join(missing)}")
    for key in ("dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of"):
        value = params.get(key)
        unset = value is None and key not in _REQUIRED or (key, value) == ("vocab_size", -1)
        if not unset and (type(value) is not int or value <= 0):
            raise ValueError(f"{path}: {key} must be a positive integer, got {value!r}")
    for key in ("norm_eps", "rope_theta", "ffn_dim_multiplier"):
        value = params.get(key)
        if value is not None and (type(value) not in (int, float) or value <= 0):
            raise ValueError(f"{path}: {key} must be a positive number, got {value!r}")
    if type(params.get("use_scaled_rope", False)) is not bool:
        raise ValueError(f"{path}: use_scaled_rope must be true or false, got {params['use_scaled_rope']!r}")
    return {key: value for key, value in params.items() if value is not None}


def _intermediate_size(dim: int, params: dict) -> int:
    """Two thirds of 4 * dim, times `ffn_dim_multiplier`, rounded up to `multiple_of`; as in Meta's `FeedForward`."""
    multiple = params.get("multiple_of", 256)
    hidden = int(params.get("ffn_dim_multiplier", 1.0) * int(8 * dim / 3))
    return -(-hidden // multiple) * multiple


def _embedding(files: MetaFiles, prefix: str = ""):
    name = f"{prefix}tok_embeddings.weight"
    if name not in files.tensors:
        raise ValueError(f"{files.directory} has no {name}")
    return files.tensors[name]


def _output_is_embedding(files: MetaFiles) -> bool:
    """Whether the LM head is the token embeddings: not stored apart, stored as the same bytes, or equal."""
    output, embedding = files.tensors.get("output.weight"), _embedding(files)
    if output is None:
        return True
    if (output.shape, output.dtype) != (embedding.shape, embedding.dtype) or output.dtype not in FLOATS:
        return False
    if output == embedding:  # one tensor under two names
        return True
    # The first part of the rows tells different tensors apart without reading them whole.
    return all(
        torch.equal(files.read("output.weight", start, stop), files.read("tok_embeddings.weight", start, stop))
        for start, stop in ((0, 1), (1, output.shape[0]))
    )
