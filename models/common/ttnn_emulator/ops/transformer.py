"""Attention over whole sequences and over chunks of them. `sdpa_decode` has the forms for one new token.

Softmax and accumulation are in fp32. No tensor of size queries x keys is made: causal attention is a compiled loop, any other
is torch's flash kernel for CPUs.
"""

import torch

from ..compiled import fp32_bits, in_threads, rows_in_memory
from ..declaration import NoEffect, NotEmulated
from ..dtypes import BLOCK_FLOAT, TILE_SIZE, DataType, Layout
from ..loops.prefill import SLAB, attend_causally
from ..memory import DRAM_MEMORY_CONFIG, MemoryConfig
from ..op import op
from ..program import Program
from ..program_config import DeviceComputeKernelConfig, SDPAProgramConfig
from ..tensor import Tensor, TensorSpec
from . import sdpa_decode
from .attention_checks import (
    check_heads,
    check_page_table,
    check_sdpa_config,
    default_scale,
    shapes_of,
)
from .checks import check_dtype, check_indices, check_rank4, check_tiled
from .memory_order import store_heads_first
from .pages import gather_pages

__all__ = ["chunked_scaled_dot_product_attention", "scaled_dot_product_attention", "sdpa_decode"]

_DTYPES = (DataType.BFLOAT16, *BLOCK_FLOAT)

@op("ttnn.transformer.scaled_dot_product_attention")
def scaled_dot_product_attention(
    input_tensor_q: Tensor,
    input_tensor_k: Tensor,
    input_tensor_v: Tensor,
    *,
    attn_mask: Tensor = None,
    is_causal: bool = True,
    scale: float = None,
    sliding_window_size: int = None,
    memory_config: MemoryConfig = None,
    program_config: SDPAProgramConfig = None,
    compute_kernel_config: NoEffect[DeviceComputeKernelConfig] = None,
    attention_sink: NotEmulated = None,
    cu_window_seqlens: NotEmulated = None,
    windowed_q_token_offset: NotEmulated = 0,
    windowed_q_token_offset_tensor: NotEmulated = None,
    output_concat_heads: NotEmulated = False,
    attn_mask_block_map: NotEmulated = None,
) -> Tensor:
    """softmax(q k^T * scale + mask) v for q `[B, heads, S, head_dim]`, k and v `[B, kv_heads, S, head_dim]`.

    `scale` defaults to 1 / sqrt(head_dim). With `sliding_window_size` (causal only), a query sees that many keys,
    its own included. `attn_mask` is `[1 or B, 1 or heads, S, key positions]`. The output is interleaved.
    """
    q, k, v = input_tensor_q, input_tensor_k, input_tensor_v
    _check_qkv(q, k, v)
    check_sdpa_config(program_config)
    _check_chunks(program_config)
    if k.shape[0] != q.shape[0] or v.shape[2] != k.shape[2]:
        raise RuntimeError(f"q, k and v must have equal batches and k and v equal lengths, got {shapes_of(q, k, v)}")
    if is_causal and attn_mask is not None:
        raise RuntimeError("is_causal and attn_mask cannot both be given; pass is_causal=False")
    if is_causal and q.shape[2] != k.shape[2]:
        raise RuntimeError(f"causal attention takes q and k of one length, got {shapes_of(q, k, v)}")
    if sliding_window_size is not None and not (is_causal and sliding_window_size > 0):
        raise NotImplementedError(f"sliding_window_size={sliding_window_size} is emulated for causal attention only")
    if attn_mask is not None:
        _check_mask(attn_mask, q, k)
    scale = default_scale(q) if scale is None else scale
    length = q.shape[2]

    def kernel(q, k, v, mask):
        if q.is_meta:
            return q.new_empty(q.shape)
        if is_causal:
            return _causal(q, k, v, 0, scale, sliding_window_size)
        if mask is not None:
            mask = mask.expand(*q.shape[:2], -1, -1)[:, :, :length]
        return _flash(q, k, v, scale, mask)

    memory_config = _interleaved(memory_config)
    spec = TensorSpec(q.shape, q.dtype, Layout.TILE, memory_config)
    return Program(kernel, [q, k, v, attn_mask], spec)


@op("ttnn.transformer.chunked_scaled_dot_product_attention")
def chunked_scaled_dot_product_attention(
    input_tensor_q: Tensor,
    input_tensor_k: Tensor,
    input_tensor_v: Tensor,
    page_table_tensor: Tensor,
    chunk_start_idx: int = None,
    *,
    chunk_start_idx_tensor: Tensor = None,
    scale: float = None,
    memory_config: MemoryConfig = None,
    program_config: SDPAProgramConfig = None,
    compute_kernel_config: NoEffect[DeviceComputeKernelConfig] = None,
    paged_cache_geometry: NotEmulated = None,
    sliding_window_size: int = None,
    attention_sink: NotEmulated = None,
) -> Tensor:
    """Causal attention of a chunk of queries in a paged cache, to the earlier positions and to those of the chunk.

    q is `[B, heads, S, head_dim]`, at the positions from `chunk_start_idx` on. k and v are
    `[pages, kv_heads, page_size, head_dim]`. `page_table_tensor`, `[B, pages per user]` INT32, must cover all
    positions. The start must be a multiple of the program config's chunk sizes. `chunk_start_idx_tensor` (`[1]` INT32)
    is read when the op runs. The result does not depend on how a prompt is cut into chunks.
    """
    q, k, v, table = input_tensor_q, input_tensor_k, input_tensor_v, page_table_tensor
    _check_qkv(q, k, v)
    check_sdpa_config(program_config)
    _check_chunks(program_config)
    check_page_table(table, q.shape[0])
    if sliding_window_size is not None and sliding_window_size < 1:
        raise RuntimeError(f"sliding_window_size must be 1 or more, got {sliding_window_size}")
    capacity = table.shape[1] * k.shape[2]
    if chunk_start_idx_tensor is not None:
        if chunk_start_idx is not None:
            raise RuntimeError("chunk_start_idx and chunk_start_idx_tensor cannot both be given")
        check_indices("chunk_start_idx_tensor", chunk_start_idx_tensor)
    elif chunk_start_idx is None:
        raise RuntimeError("give chunk_start_idx or chunk_start_idx_tensor")
    else:
        _check_start(chunk_start_idx, q, capacity, program_config)
    scale = default_scale(q) if scale is None else scale
    length = q.shape[2]
    store_heads_first(k)
    store_heads_first(v)

    def kernel(q, k, v, table, start_tensor):
        if q.is_meta:
            return q.new_empty(q.shape)
        start = chunk_start_idx
        if start_tensor is not None:
            start = int(start_tensor[0])
            if not 0 <= start <= capacity - length:
                raise RuntimeError(f"a chunk of {length} from {start} is not in the page table's {capacity} positions")
        users = [
            _causal(
                q[user : user + 1],
                gather_pages(k, pages, start + length)[None],
                gather_pages(v, pages, start + length)[None],
                start,
                scale,
                sliding_window_size,
            )
            for user, pages in enumerate(table.tolist())
        ]
        return users[0] if len(users) == 1 else torch.cat(users)

    memory_config = _interleaved(memory_config)
    spec = TensorSpec(q.shape, q.dtype, Layout.TILE, memory_config)
    return Program(kernel, [q, k, v, table, chunk_start_idx_tensor], spec)


def _causal(q, k, v, start, scale, window=None):
    """Causal attention of S queries from position `start` on to `start + S` keys. Each sees its last `window` keys."""
    end = start + q.shape[2]
    q, k, v = map(rows_in_memory, (q, k, v))
    result = torch.empty(q.shape, dtype=torch.bfloat16)
    tasks = k.shape[0] * k.shape[1] * -(-q.shape[2] // SLAB)
    given = [part for tensor in (q, k, v) for part in (tensor.data_ptr(), *[2 * stride for stride in tensor.stride()[:3]])]
    sizes = q.shape[0], q.shape[1], k.shape[1], *q.shape[2:], start
    seen = end if window is None else min(window, end)
    others = result.data_ptr(), *sizes, seen, fp32_bits(scale)
    in_threads(attend_causally, tasks, *given, *others, work=q.numel() * end // _MULTIPLIED_AT_ONCE)
    return result


_MULTIPLIED_AT_ONCE = 4  # elements in the time that `in_threads` takes one to need


def _flash(q, k, v, scale, mask=None):
    """Attention `[B, heads, S, head_dim]` by torch's flash kernel. Query heads may share a key head."""
    group = q.shape[1] // k.shape[1]
    if group == 1:
        return _flash_heads(q, k, v, scale, mask)
    output = torch.empty_like(q)
    for member in range(group):
        chosen = mask if mask is None or mask.shape[1] == 1 else mask[:, member::group]
        output[:, member::group] = _flash_heads(q[:, member::group], k, v, scale, chosen)
    return output


def _flash_heads(q, k, v, scale, mask):
    if mask is not None:
        mask = mask.to(torch.float32)
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, False, attn_mask=mask, scale=scale)[0]


def _check_chunks(config):
    if config is None:
        return
    for field in ("q_chunk_size", "k_chunk_size"):
        size = getattr(config, field)
        if size == 0 or size % TILE_SIZE:
            raise RuntimeError(f"{field} must be a multiple of {TILE_SIZE} above 0, got {size}")


def _check_start(start, q, capacity, config):
    if start < 0:
        raise RuntimeError(f"chunk_start_idx must be 0 or more, got {start}")
    for field in ("q_chunk_size", "k_chunk_size"):
        size = TILE_SIZE if config is None else getattr(config, field)
        if start % size:
            raise RuntimeError(f"chunk_start_idx={start} must be a multiple of {field}={size}")
    if start + q.shape[2] > capacity:
        raise RuntimeError(
            f"{q.shape[2]} queries from chunk_start_idx={start} need more than the page table's {capacity} positions"
        )


def _check_qkv(q, k, v):
    for argument, tensor in (("input_tensor_q", q), ("input_tensor_k", k), ("input_tensor_v", v)):
        check_tiled(argument, tensor)
        check_rank4(argument, tensor)
        check_dtype(argument, tensor.dtype, _DTYPES)
        if tensor.memory_config().is_sharded():
            raise RuntimeError(f"{argument} must be interleaved, got {tensor.memory_config()}")
    check_heads(q, k, v, q.shape[1])


def _check_mask(mask, q, k):
    check_tiled("attn_mask", mask)
    check_rank4("attn_mask", mask)
    batch, heads, rows, columns = mask.shape
    if batch not in (1, q.shape[0]) or heads not in (1, q.shape[1]) or (rows, columns) != (q.shape[2], k.shape[2]):
        raise RuntimeError(
            f"attn_mask must be [1 or {q.shape[0]}, 1 or {q.shape[1]}, {q.shape[2]}, {k.shape[2]}], "
            f"got {list(mask.shape)}"
        )


def _interleaved(memory_config):
    memory_config = DRAM_MEMORY_CONFIG if memory_config is None else memory_config
    if memory_config.is_sharded():
        raise RuntimeError(f"the output must be interleaved, got {memory_config}")
    return memory_config
