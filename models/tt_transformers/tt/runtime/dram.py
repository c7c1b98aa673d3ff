"""Checks by arithmetic, before any weight is read, whether a model fits the devices."""

import ttnn

from models.common.chip import whole_tiles
from models.common.mesh import dram_capacity
from models.tt_transformers.tt.config.program_configs import TILE, TILE_BYTES, padded_prefill_length
from models.tt_transformers.tt.families.family import CROSS_ATTENTION, SELF_ATTENTION
from models.tt_transformers.tt.modules.decoder import DECODERS
from models.tt_transformers.tt.modules.lm_head import LMHeadConfig
from models.tt_transformers.tt.modules.mlp import MLPConfig
from models.tt_transformers.tt.modules.norm import NormConfig
from models.tt_transformers.tt.runtime.page_table import BLOCK_SIZES
from models.tt_transformers.tt.runtime.prefill_plan import GROUP_ROWS
from models.tt_transformers.tt.vision.config import VisionConfig


def needed(args) -> tuple[int, int]:
    """(weights, KV caches): bytes on each device, without biases, head norms, RoPE tables and activations."""
    weights = args.arch.embeddings * args.placement.residual_width(args.arch.dim) * 2  # in bf16
    linears, kv_cache = list(LMHeadConfig.resolve(args).splits), 0
    for layer in range(args.arch.n_layers):
        attention, mlp = _attention(args, layer), MLPConfig.resolve(args, layer)
        linears += [*attention.linears, mlp.ff1_3, mlp.ff1_3, mlp.ff2]
        kv_cache += _bytes_of_cache(args, attention.cache)
    if args.arch.vision is not None:
        linears += VisionConfig.resolve(args).linears
        weights += _vision_tables(args)
    norm = NormConfig.resolve(args, cores=1).scale
    rows = 1 if norm.weight_layout == ttnn.ROW_MAJOR_LAYOUT else TILE
    weights += (2 * args.arch.n_layers + 1) * rows * norm.columns * TILE_BYTES[norm.weight_dtype] // TILE**2
    banks = args.chip.dram_banks
    for linear in linears:
        columns = -(-_tiles(linear.n) // banks) * banks  # split over the banks, padded to whole tiles
        weights += _tiles(linear.k) * columns * TILE_BYTES[linear.weight_dtype]
    return weights, kv_cache


def check_fits(args) -> None:
    """Raises ValueError with the numbers if weights and KV caches alone need more than a device's DRAM."""
    weights, kv_cache = needed(args)
    capacity = dram_capacity(args.mesh_device)
    if weights + kv_cache > capacity:
        images = "fewer images (max_images), " if args.max_images else ""
        fewer = args.fewer_groups(lambda other: sum(needed(other)) <= capacity)
        raise ValueError(
            f"{args.model_name} does not fit {args.device_name}: {weights / 1e9:.2f} GB of weights and {kv_cache / 1e9:.2f} GB "
            f"of KV cache a device, which has {capacity / 1e9:.2f} GB. Give a smaller max_seq_len, fewer pages "
            f"(page_params), {images}a KV cache in bfp8 or bfp4 (optimizations), or a larger mesh{fewer}"
        )


def pool_tokens(args) -> int:
    """The most tokens, of all its users together, for which a device has DRAM beside weights, RoPE tables and activations.

    A page of the largest size is left out for each user, because its last page may be almost empty. 0 if nothing fits.
    """
    free = dram_capacity(args.mesh_device) - needed(args)[0] - _rope_tables(args) - _activations(args)
    caches = {SELF_ATTENTION: [], CROSS_ATTENTION: []}
    for layer, kind in enumerate(args.arch.layer_kinds):
        caches[kind].append(_attention(args, layer).cache)
    free -= sum(_bytes_of_cache(args, cache) for cache in caches[CROSS_ATTENTION])
    tile_of_tokens = sum(map(_tile_of_tokens, caches[SELF_ATTENTION]))
    return max(0, free // tile_of_tokens * TILE - args.placement.users(args.max_batch_size) * BLOCK_SIZES[-1])


def check_context(args) -> None:
    """Raises ValueError if the pool of pages that fits the devices is too small for one user of `max_seq_len` tokens."""
    fits = pool_tokens(args)
    if fits < args.max_seq_len:
        raise ValueError(
            f"{args.model_name} on {args.device_name}: max_seq_len {args.max_seq_len} does not fit DRAM; the largest that "
            f"fits with {args.max_batch_size} users is {fits}"
        )


def _rope_tables(args) -> int:
    rope, length = args.arch.rope, args.max_seq_len
    return 2 * (rope.row(length - 1, length) + 1) * whole_tiles(rope.head_dim) * 2


def _activations(args) -> int:
    """An upper bound of the peak in a prefill; `measure/capacity` counts 60 to 95% of it.

    The residual streams of a chunk and of the one before, two rows of all columns around a norm or a sum over the
    devices, and three rows of the wider part of a layer: queries, keys and values before and after the split into heads
    and after rotation; or gate, up and their product.
    """
    rows, chunk = padded_prefill_length(args.max_seq_len), args.prefill_chunk_size
    if chunk is not None:
        rows = max(min(rows, chunk), min(chunk, GROUP_ROWS))
    hidden = MLPConfig.resolve(args, 0).ff1_3
    widest = max(_attention(args, 0).input.n * 2, hidden.n * TILE_BYTES[hidden.output_dtype] // TILE**2)
    return rows * (4 * args.placement.residual_width(args.arch.dim) + 4 * args.dim + 3 * widest)


def _vision_tables(args) -> int:
    """The rows that are added before and after the image encoder, in bf16."""
    vision = args.arch.vision
    rows = (len(vision.tile_counts) + 1) * (vision.tokens_an_image + vision.max_tiles)
    return rows * args.placement.residual_width(vision.dim) * 2


def _bytes_of_cache(args, cache) -> int:
    rows, _, length, _ = cache.shape(args)
    return rows * _tiles(length) * _tile_of_tokens(cache)


def _attention(args, layer: int):
    return DECODERS[args.arch.layer_kinds[layer]].attention_config.resolve(args, layer)


def _tile_of_tokens(cache) -> int:
    """Bytes of the keys and values of 32 tokens in one layer."""
    return 2 * cache.n_kv_heads * _tiles(cache.head_dim) * TILE_BYTES[cache.dtype]


def _tiles(length: int) -> int:
    return -(-length // TILE)
