"""Checks by arithmetic, before any weight is read, whether a model fits the devices."""

from models.common.mesh import dram_capacity
from models.tt_transformers.tt.config.program_configs import TILE, TILE_BYTES
from models.tt_transformers.tt.modules.attention import AttentionConfig
from models.tt_transformers.tt.modules.lm_head import LMHeadConfig
from models.tt_transformers.tt.modules.mlp import MLPConfig


def needed(args) -> tuple[int, int]:
    """(weights, KV caches): bytes on each device, without norms, RoPE tables, padding of banks and activations."""
    weights = args.arch.vocab_size * args.placement.residual_width(args.arch.dim) * 2  # the embedding, in bf16
    linears, kv_cache = list(LMHeadConfig.resolve(args).splits), 0
    for layer in range(args.arch.n_layers):
        attention, mlp = AttentionConfig.resolve(args, layer), MLPConfig.resolve(args, layer)
        linears += [attention.wqkv, attention.wo, mlp.ff1_3, mlp.ff1_3, mlp.ff2]
        rows, heads, length, head_dim = attention.cache.shape(args)
        kv_cache += 2 * rows * heads * _tiles(length) * _tiles(head_dim) * TILE_BYTES[attention.cache.dtype]
    weights += sum(_tiles(linear.k) * _tiles(linear.n) * TILE_BYTES[linear.weight_dtype] for linear in linears)
    return weights, kv_cache


def check_fits(args) -> None:
    """Raises ValueError with the numbers if weights and KV caches alone need more than a device's DRAM."""
    weights, kv_cache = needed(args)
    capacity = dram_capacity(args.mesh_device)
    if weights + kv_cache > capacity:
        raise ValueError(
            f"{args.model_name} does not fit {args.device_name}: {weights / 1e9:.2f} GB of weights and {kv_cache / 1e9:.2f} GB "
            f"of KV cache a device, which has {capacity / 1e9:.2f} GB. Give a smaller max_seq_len, fewer pages "
            "(page_params), a KV cache in bfp8 or bfp4 (optimizations), or a larger mesh"
        )


def _tiles(length: int) -> int:
    return -(-length // TILE)
