"""Attention of one new token per user to the user's cached positions.

Each user is computed alone, over exactly the positions up to its own. So a user's result does not depend on the
other users. Scores, softmax and accumulation are in fp32.
"""

from collections.abc import Sequence

import torch

from ..compiled import fp32_bits, in_memory, in_threads
from ..declaration import NoEffect, NotEmulated
from ..dtypes import TILE_SIZE, DataType, Layout, TensorMemoryLayout
from ..loops import attention as loops
from ..memory import DRAM_MEMORY_CONFIG, MemoryConfig
from ..op import op
from ..program import Program
from ..program_config import DeviceComputeKernelConfig, SDPAProgramConfig
from ..tensor import Tensor, TensorSpec
from .attention_checks import (
    check_heads,
    check_page_table,
    check_sdpa_config,
    default_scale,
    shapes_of,
)
from .checks import check_dtype, check_indices, check_rank4, check_tiled
from .memory_order import store_heads_first


@op("ttnn.transformer.paged_scaled_dot_product_attention_decode")
def paged_scaled_dot_product_attention_decode(
    input_tensor_q: Tensor,
    input_tensor_k: Tensor,
    input_tensor_v: Tensor,
    page_table_tensor: Tensor,
    *,
    is_causal: NotEmulated = True,
    attn_mask: NotEmulated = None,
    cur_pos_tensor: Tensor = None,
    attention_sink: NotEmulated = None,
    scale: float = None,
    sliding_window_size: int = None,
    memory_config: MemoryConfig = None,
    program_config: SDPAProgramConfig = None,
    compute_kernel_config: NoEffect[DeviceComputeKernelConfig] = None,
    paged_cache_geometry: NotEmulated = None,
    cache_position_modulo: NotEmulated = None,
    spec_multi_pos_tiles: NotEmulated = 0,
) -> Tensor:
    """softmax(q k^T * scale) v over positions 0 to `cur_pos` of each user, in a paged cache.

    q is `[1, B, heads, head_dim]`, k and v are `[pages, kv_heads, page_size, head_dim]`, `page_table_tensor` is
    `[B, pages per user]` INT32, and `cur_pos_tensor` is `[B]` INT32. A position of -1 skips a user: its output is zero.
    `scale` defaults to 1 / sqrt(head_dim). `sliding_window_size` limits a user to its last positions, its own included.
    """
    q, k, v, table = input_tensor_q, input_tensor_k, input_tensor_v, page_table_tensor
    _check(q, k, v, sliding_window_size, program_config)
    if cur_pos_tensor is None:
        raise RuntimeError("causal attention over pages needs cur_pos_tensor")
    users = q.shape[1]
    check_page_table(table, users)
    _check_positions(cur_pos_tensor, users)
    page_size = k.shape[2]
    store_heads_first(k)
    store_heads_first(v)
    attend = _attention(q, k, table.shape[1] * page_size, scale, sliding_window_size, paged=True)

    def kernel(q, k, v, table, positions):
        if q.is_meta:
            return q.new_empty(q.shape)
        # The pages are stored heads first, so a head's positions are neighbours in memory.
        return attend(q, k.transpose(0, 1), v.transpose(0, 1), page_size, table, positions)

    inputs = [q, k, v, table, cur_pos_tensor]
    return _program(kernel, inputs, memory_config, k.shape[1])


@op("ttnn.transformer.scaled_dot_product_attention_decode")
def scaled_dot_product_attention_decode(
    input_tensor_q: Tensor,
    input_tensor_k: Tensor,
    input_tensor_v: Tensor,
    *,
    is_causal: NotEmulated = True,
    attn_mask: NotEmulated = None,
    cur_pos: Sequence[int] = (),
    cur_pos_tensor: Tensor = None,
    attention_sink: NotEmulated = None,
    scale: float = None,
    sliding_window_size: int = None,
    memory_config: MemoryConfig = None,
    program_config: SDPAProgramConfig = None,
    compute_kernel_config: NoEffect[DeviceComputeKernelConfig] = None,
    share_cache: NotEmulated = None,
) -> Tensor:
    """As the paged form, with k and v `[B, kv_heads, S, head_dim]`. Positions may also be the list `cur_pos`."""
    q, k, v = input_tensor_q, input_tensor_k, input_tensor_v
    _check(q, k, v, sliding_window_size, program_config)
    users, capacity = q.shape[1], k.shape[2]
    if k.shape[0] != users:
        raise RuntimeError(f"k and v must have {users} users, got {list(k.shape)}")
    _check_key_chunks(capacity, program_config)
    if cur_pos_tensor is not None:
        if cur_pos:
            raise RuntimeError("cur_pos and cur_pos_tensor cannot both be given")
        _check_positions(cur_pos_tensor, users)
    elif len(cur_pos) != users or any(position < 0 or position >= capacity for position in cur_pos):
        raise RuntimeError(f"cur_pos must be {users} positions below {capacity}, got {list(cur_pos)}")
    attend = _attention(q, k, capacity, scale, sliding_window_size, paged=False)
    fixed, own = torch.tensor(cur_pos, dtype=torch.int32), torch.zeros(users, 1, dtype=torch.int32)

    def kernel(q, k, v, positions):
        if q.is_meta:
            return q.new_empty(q.shape)
        return attend(q, k, v, capacity, own, fixed if positions is None else positions)

    return _program(kernel, [q, k, v, cur_pos_tensor], memory_config, k.shape[1])


def _attention(q, k, capacity, scale, window, paged):
    """The function that attends for all users. `k` and `v` are `[kv_heads, pages, page_size, head_dim]` if `paged`, else
    `[users, kv_heads, positions, head_dim]`; `pages` is `[users, pages per user]`."""
    _, users, heads, head_dim = q.shape
    kv_heads = k.shape[1]
    heads_each = kv_heads, heads // kv_heads, head_dim
    stored = k.shape[0] * k.shape[2] if paged else capacity
    scale = fp32_bits(default_scale(q) if scale is None else scale)
    window = capacity if window is None else min(window, capacity)

    def attend(q, k, v, page_size, pages, positions):
        q, k, v, pages, positions = map(in_memory, (q, k, v, pages, positions))
        table = pages.data_ptr(), pages.shape[1], positions.data_ptr(), window
        n_pages = stored // page_size
        longest, user = loops.longest(table[0], users, *table[1:], page_size, n_pages)
        if user != -1:
            position = int(positions.flatten()[user])
            if not -1 <= position < capacity:
                raise RuntimeError(f"user {user}'s position {position} is past the cache's {capacity} positions")
            raise RuntimeError(f"user {user}'s pages are not all in a cache of {n_pages}: {pages[user].tolist()}")
        result = torch.empty(q.shape, dtype=torch.bfloat16)
        cache = k.data_ptr(), v.data_ptr(), stored, int(paged), page_size
        in_threads(
            loops.attend, users * kv_heads, q.data_ptr(), result.data_ptr(), *heads_each, *cache, *table, scale, longest,
            work=users * longest * heads * head_dim,
        )  # fmt: skip
        return result

    return attend


def _program(kernel, inputs, memory_config, kv_heads):
    q = inputs[0]
    memory_config = DRAM_MEMORY_CONFIG if memory_config is None else memory_config
    if memory_config.is_sharded() and (kv_heads > 1 or memory_config.shard_spec is None):
        raise RuntimeError(
            f"a sharded output is possible with one kv head and a shard_spec only, got {memory_config}; "
            "use an interleaved one"
        )
    spec = TensorSpec(q.shape, q.dtype, Layout.TILE, memory_config)
    return Program(kernel, inputs, spec)


def _check(q, k, v, window, program_config):
    for argument, tensor in (("input_tensor_q", q), ("input_tensor_k", k), ("input_tensor_v", v)):
        check_tiled(argument, tensor)
        check_rank4(argument, tensor)
    check_dtype("input_tensor_q", q.dtype, (DataType.BFLOAT16,))
    for argument, tensor in (("input_tensor_k", k), ("input_tensor_v", v)):
        check_dtype(argument, tensor.dtype, (DataType.BFLOAT16, DataType.BFLOAT8_B, DataType.BFLOAT4_B))
        if tensor.memory_config().is_sharded():
            raise RuntimeError(f"{argument} must be interleaved, got {tensor.memory_config()}")
    held = q.memory_config()
    if held.is_sharded() and held.memory_layout is not TensorMemoryLayout.HEIGHT_SHARDED:
        raise RuntimeError(f"input_tensor_q must be interleaved or height-sharded, got {held}")
    if q.shape[0] != 1 or k.shape != v.shape:
        raise RuntimeError(
            f"q must be [1, users, heads, head_dim] and k and v alike, got {shapes_of(q, k, v)}"
        )
    check_heads(q, k, v, q.shape[2])
    check_sdpa_config(program_config)
    if window is not None and window < 1:
        raise RuntimeError(f"sliding_window_size must be 1 or more, got {window}")
    if program_config is not None:
        _check_program(program_config, q.shape[1])


def _check_program(config, users):
    grid = config.compute_with_storage_grid_size
    if grid.x * grid.y < users:
        raise RuntimeError(f"compute_with_storage_grid_size has {grid.x * grid.y} cores for {users} users")
    size = config.k_chunk_size
    if size and (size % TILE_SIZE or size & (size - 1)):
        raise RuntimeError(f"k_chunk_size must be 0 (chosen by the op) or a power of 2 from 32, got {size}")


def _check_key_chunks(positions, config):
    """Checks that the keys of an unpaged cache are whole chunks. A chunk size of 0 means the largest power of 2 up to
    512 that divides them."""
    size = 0 if config is None else config.k_chunk_size
    size = size or min(512, positions & -positions)
    if size % TILE_SIZE or positions % size:
        raise RuntimeError(f"{positions} cached positions are not whole chunks of k_chunk_size={max(size, TILE_SIZE)}")


def _check_positions(positions, users):
    check_indices("cur_pos_tensor", positions)
    if tuple(positions.shape) not in ((users,), (1, users)):
        raise RuntimeError(f"cur_pos_tensor must be [{users}], got {list(positions.shape)}")
