"""How many tokens of a prompt run at a time: defaults by model and mesh, and the environment's word.

`MAX_PREFILL_CHUNK_SIZE` counts thousands (1024s) of tokens. A larger chunk reads the weights less often; a smaller one
needs less memory for activations. Only paged caches can be filled chunk by chunk.
"""

import os
from types import MappingProxyType

SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
VARIABLE = "MAX_PREFILL_CHUNK_SIZE"
FALLBACK = 4

# Thousands of tokens on (N150, N300, T3K, TG), None where the model does not run: the table that the vendor gives for
# TT-Transformers at a context of 128k, and for Phi-3-mini on N150 and N300.
_MESHES = ("N150", "N300", "T3K", "TG")
DEFAULTS = MappingProxyType(
    {
        "Llama-3.2-1B": (128, 128, 128, 128),
        "Llama-3.2-3B": (8, 128, 128, 128),
        "Llama-3.1-8B": (4, 64, 128, 128),
        "Llama-3.2-11B": (4, 64, 128, 128),
        "Llama-3.1-70B": (None, None, 32, 128),
        "Llama-3.2-90B": (None, None, 32, None),
        "DeepSeek-R1-Distill-Llama-70B": (None, None, 32, 128),
        "Phi-3-mini-128k-instruct": (1, 128, 128, 128),
        # The bundled checkpoint: small chunks keep the emulator's memory flat, and cost it no time.
        "Phi-3-tiny-kjv": (2, 2, 2, 2),
    }
)

# Model and mesh -> (context in tokens, thousands of tokens beyond it). On N300 a prompt in one chunk needs 29 kB of
# DRAM a token for its activations, which weights and KV cache leave no room for in a long context (LONG_CONTEXT.md).
LONG_CONTEXT_DEFAULTS = MappingProxyType({("Phi-3-mini-128k-instruct", "N300"): (32 * 1024, 4)})


def prefill_chunk_size(model_name: str, device_name: str, paged: bool, max_seq_len: int) -> int | None:
    """Tokens of a prefill chunk, a multiple of 1024, for contexts of `max_seq_len` tokens; None for whole prompts.

    A model is found in the tables by its name's beginning, so that its variants (-Instruct) count as it.
    Unpaged caches take whole prompts unless the environment says otherwise (the generator then refuses longer ones).

    Raises ValueError for a MAX_PREFILL_CHUNK_SIZE that is not a power of 2 from 1 to 128, and for a model that the
    table says does not run on this mesh.
    """
    row = next((sizes for name, sizes in DEFAULTS.items() if model_name.startswith(name)), None)
    thousands = FALLBACK if row is None else row[_MESHES.index(device_name)]
    if thousands is None:
        works = [mesh for mesh, size in zip(_MESHES, row) if size is not None]
        raise ValueError(f"{model_name} is not supported on {device_name}; meshes it runs on: {', '.join(works)}")
    given = os.environ.get(VARIABLE)
    if given is not None:
        if given not in map(str, SIZES):
            raise ValueError(
                f"{VARIABLE}={given!r} is not accepted: thousands of tokens, one of {', '.join(map(str, SIZES))}"
            )
        return int(given) * 1024
    if not paged:
        return None
    for (name, mesh), (context, thousands_beyond) in LONG_CONTEXT_DEFAULTS.items():
        if model_name.startswith(name) and device_name == mesh and max_seq_len > context:
            return thousands_beyond * 1024
    return thousands * 1024
