"""How many tokens of a prompt run at a time: the model's default for the mesh, or the environment's value.

`MAX_PREFILL_CHUNK_SIZE` counts thousands (1024s) of tokens. A larger chunk reads the weights less often; a smaller one
needs less memory for activations. Only paged caches can be filled chunk by chunk.
"""

import os

from models.tt_transformers.tt.config.model_params import Limits

SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
# Most tokens of a prompt with images that run at a time: the mask of a chunk has a number for each token and image token.
IMAGE_CHUNK = 4096
VARIABLE = "MAX_PREFILL_CHUNK_SIZE"
FALLBACK = 4  # thousands of tokens, for a model or a mesh without a known limit


def prefill_chunk_size(model_name: str, limits: Limits, device_name: str, paged: bool, max_seq_len: int) -> int | None:
    """Tokens of a prefill chunk, a multiple of 1024, for contexts of `max_seq_len` tokens; None for whole prompts.

    Unpaged caches take whole prompts unless the environment says otherwise (the generator then refuses longer ones).

    Raises ValueError for a MAX_PREFILL_CHUNK_SIZE that is not a power of 2 from 1 to 128, and for a model whose limits
    exclude this mesh.
    """
    thousands = limits.prefill_chunk_size.get(device_name, FALLBACK)
    if thousands is None:
        works = [mesh for mesh, size in limits.prefill_chunk_size.items() if size is not None]
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
    longer = limits.long_context.get(device_name)
    if longer is not None and max_seq_len > longer["beyond"]:
        thousands = longer["prefill_chunk_size"]
    return thousands * 1024
