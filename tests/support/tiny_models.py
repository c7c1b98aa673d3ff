"""Small random checkpoints of every family but Phi-3 (see `tiny_phi3`), made by transformers, for tests that compare with it."""

from pathlib import Path

import torch
import transformers

SETTINGS = dict(
    vocab_size=320,
    hidden_size=128,
    intermediate_size=192,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)


def save_tiny(name: str, directory: Path, *, max_shard_size: str = "1GB", dtype=torch.bfloat16, **changes):
    """Writes a checkpoint of the family `name` (Llama, Mistral, Phi3, Qwen2, Qwen3) and returns the model that Hugging Face
    loads from it. `changes`: keys of the config."""
    settings = {**SETTINGS, **changes}
    # Products have a variance of one. With transformers' 0.02 attention is nearly even: wrong angles or windows would change
    # the logits too little to be seen.
    settings.setdefault("initializer_range", settings["hidden_size"] ** -0.5)
    config = getattr(transformers, f"{name}Config")(**settings)
    model_class = getattr(transformers, f"{name}ForCausalLM")
    torch.manual_seed(0)
    model = model_class(config)
    # transformers starts biases and norms at 0 and 1, which would hide a lost one.
    for parameter_name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.data.normal_(1.0 if "norm" in parameter_name else 0.0, 0.2)
    model.to(dtype).save_pretrained(directory, max_shard_size=max_shard_size)
    return model_class.from_pretrained(directory, dtype=dtype).eval()
