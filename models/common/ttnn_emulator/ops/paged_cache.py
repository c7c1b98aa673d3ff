"""Writes into paged KV caches, and into caches with one row of positions per user.

A paged cache is `[pages, kv_heads, page_size, head_dim]`. The page `page_table[user, i]` holds the user's
`page_size` positions from `i * page_size` on.
"""

from collections.abc import Sequence

import torch

from ..compiled import in_memory, rows_in_memory
from ..declaration import NoEffect, NotEmulated
from ..dtypes import MAGNITUDE_BITS, TILE_SIZE, DataType, TensorMemoryLayout
from ..loops import rows as loops
from ..loops.block_float import BLOCK
from ..memory import DRAM_MEMORY_CONFIG
from ..op import op
from ..program import Program, rounding
from ..program_config import DeviceComputeKernelConfig
from ..tensor import Tensor
from .checks import check_dtype, check_indices, check_rank4, check_tiled
from .memory_order import store_heads_first

_UPDATES = (DataType.BFLOAT16, DataType.FLOAT32)


@op("ttnn.experimental.paged_update_cache")
def paged_update_cache(
    cache_tensor: Tensor,
    input_tensor: Tensor,
    *,
    update_idxs: Sequence[int] = (),
    update_idxs_tensor: Tensor = None,
    share_cache: NotEmulated = None,
    page_table: Tensor = None,
    batch_offset: NotEmulated = 0,
    compute_kernel_config: NoEffect[DeviceComputeKernelConfig] = None,
    mesh_coords: NotEmulated = None,
    block_size: NotEmulated = None,
    num_kv_heads: NotEmulated = None,
    cache_position_modulo: NotEmulated = None,
) -> Tensor:
    """Writes one row per user, `[1, B, kv_heads, head_dim]` height-sharded, into the cache at the user's position.

    Positions come from `update_idxs_tensor` (`[B]` INT32; -1 skips the user) or, without a page table, from the
    list `update_idxs`. `page_table` is `[B, pages per user]` INT32. Without a page table, the cache is
    `[B, kv_heads, S, head_dim]`. Each row is rounded to the cache's dtype. Returns the cache. Raises RuntimeError for
    a position past the cache.
    """
    kernel, positions = _update(cache_tensor, input_tensor, update_idxs, update_idxs_tensor, page_table)
    return Program(kernel, [cache_tensor, input_tensor, positions, page_table], in_place=cache_tensor)


@op("ttnn.experimental.paged_fused_update_cache")
def paged_fused_update_cache(
    cache_tensor1: Tensor,
    input_tensor1: Tensor,
    cache_tensor2: Tensor,
    input_tensor2: Tensor,
    *,
    update_idxs: Sequence[int] = (),
    update_idxs_tensor: Tensor = None,
    share_cache: NotEmulated = None,
    page_table: Tensor = None,
    batch_offset: NotEmulated = 0,
    compute_kernel_config: NoEffect[DeviceComputeKernelConfig] = None,
    mesh_coords: NotEmulated = None,
) -> tuple:
    """`paged_update_cache` of two caches. The cores of the two inputs must not overlap."""
    first, positions = _update(cache_tensor1, input_tensor1, update_idxs, update_idxs_tensor, page_table)
    second, _ = _update(cache_tensor2, input_tensor2, update_idxs, update_idxs_tensor, page_table)
    grids = [rows.memory_config().shard_spec.grid for rows in (input_tensor1, input_tensor2)]
    if any(grids[0].contains(each) or each.contains(grids[0]) for each in grids[1:]):
        raise RuntimeError(f"input_tensor1 and input_tensor2 must lie on cores that do not overlap, got {grids}")

    def kernel(cache1, rows1, cache2, rows2, positions, table):
        first(cache1, rows1, positions, table)
        second(cache2, rows2, positions, table)

    inputs = [cache_tensor1, input_tensor1, cache_tensor2, input_tensor2, positions, page_table]
    return Program(kernel, inputs, in_place=(cache_tensor1, cache_tensor2))


@op("ttnn.experimental.paged_fill_cache")
def paged_fill_cache(
    cache_tensor: Tensor,
    input_tensor: Tensor,
    page_table: Tensor,
    *,
    batch_idx_tensor: Tensor = None,
    batch_idx: int = 0,
    compute_kernel_config: NoEffect[DeviceComputeKernelConfig] = None,
    mesh_coords: NotEmulated = None,
    block_size: NotEmulated = None,
    cache_position_modulo: NotEmulated = None,
    valid_seq_len_tensor: NotEmulated = None,
) -> Tensor:
    """Writes `[1, kv_heads, S, head_dim]`, in the cache's dtype, into the pages of row `batch_idx` of the page table.

    With `batch_idx_tensor` (`[n]`), the input has n rows, and row i goes to page table row `batch_idx_tensor[i]`. A
    page of -1 is skipped. Returns the cache. Raises RuntimeError if S positions do not fit the page table's row.
    """
    _check_fill(cache_tensor, input_tensor, page_table)
    if batch_idx_tensor is None:
        if input_tensor.shape[0] != 1:
            raise RuntimeError(f"without batch_idx_tensor one user is filled, got {list(input_tensor.shape)}")
        if not 0 <= batch_idx < page_table.shape[0]:
            raise RuntimeError(f"batch_idx={batch_idx} is not in a page table of {page_table.shape[0]} users")
    elif batch_idx != 0:
        raise RuntimeError(f"batch_idx={batch_idx} and batch_idx_tensor cannot both be given")
    elif tuple(batch_idx_tensor.shape) != (input_tensor.shape[0],):
        raise RuntimeError(
            f"batch_idx_tensor must be [{input_tensor.shape[0]}], got {list(batch_idx_tensor.shape)}"
        )
    store_heads_first(cache_tensor)

    def kernel(cache, rows, table, users):
        if cache.is_meta:
            return
        for index, user in enumerate([batch_idx] if users is None else users.tolist()):
            _fill_pages(cache, rows[index], table, user)

    inputs = [cache_tensor, input_tensor, page_table, batch_idx_tensor]
    return Program(kernel, inputs, in_place=cache_tensor)


def _fill_pages(cache, rows, table, user):
    """Copies `[kv_heads, S, head_dim]` into the pages of row `user` of the page table."""
    if not 0 <= user < table.shape[0]:
        raise RuntimeError(f"user {user} is not in a page table of {table.shape[0]} users")
    rows, pages = rows_in_memory(rows), in_memory(table[user])
    target = _with_whole_pages(cache)
    n_pages, _, page_size, _ = cache.shape
    heads, n, width = rows.shape
    size = rows.element_size()
    head_bytes, row_bytes, _ = (size * stride for stride in rows.stride())
    page_bytes, cache_head_bytes, *_ = (size * stride for stride in target.stride())
    bad = loops.fill_pages(
        target.data_ptr(), n_pages, page_size, (page_bytes, cache_head_bytes), rows.data_ptr(), heads, n, size * width,
        (head_bytes, row_bytes), pages.data_ptr(),
    )  # fmt: skip
    if bad != -1:
        raise RuntimeError(f"page {int(pages[bad])} is not in a cache of {n_pages} pages")
    if target is not cache:
        cache.copy_(target)


def _with_whole_pages(cache):
    """The cache, or a copy, in which a head's rows of a page are neighbours in memory: not so in one that is a transpose."""
    return cache if cache.stride()[2:] == (cache.shape[3], 1) else cache.contiguous()


def _update(cache, rows, update_idxs, positions, page_table):
    """The kernel that writes the rows, and the tensor of positions that it reads (None if a list gives them)."""
    _check_rows(cache, rows)
    batch = rows.shape[1]
    if positions is not None:
        if update_idxs:
            raise RuntimeError("update_idxs and update_idxs_tensor cannot both be given")
        check_indices("update_idxs_tensor", positions)
        if tuple(positions.shape) != (batch,):
            raise RuntimeError(f"update_idxs_tensor must be [{batch}], got {list(positions.shape)}")
        if positions.memory_config() != DRAM_MEMORY_CONFIG:
            raise RuntimeError(f"update_idxs_tensor must be interleaved in DRAM, got {positions.memory_config()}")
    elif page_table is not None:
        raise RuntimeError("a paged cache needs update_idxs_tensor")
    elif len(update_idxs) != batch or any(index < 0 for index in update_idxs):
        raise RuntimeError(f"update_idxs must be {batch} positions from 0, got {list(update_idxs)}")
    fixed = torch.tensor(update_idxs, dtype=torch.int32)
    round_to = rounding(cache.dtype)
    if page_table is None:
        if cache.shape[0] != batch:
            raise RuntimeError(f"the cache must have {batch} users, got {list(cache.shape)}")
    else:
        _check_table(cache, page_table)
        if page_table.shape[0] != batch:
            raise RuntimeError(f"page_table must have {batch} users, got {list(page_table.shape)}")
        store_heads_first(cache)
    n_pages, heads, page_size, width = cache.shape
    magnitude_bits = 0 if width % BLOCK else MAGNITUDE_BITS.get(cache.dtype, 0)
    one_page_each = torch.arange(batch, dtype=torch.int32)
    pages_each = 1 if page_table is None else page_table.shape[1]
    capacity = page_size * pages_each

    def kernel(cache, rows, positions, table):
        if cache.is_meta:
            return
        places = fixed if positions is None else in_memory(positions)
        pages = one_page_each if table is None else in_memory(table)
        rows = in_memory(rows if magnitude_bits and rows.dtype is torch.bfloat16 else round_to(rows))
        target, size = _with_whole_pages(cache), cache.element_size()
        page_bytes, head_bytes, *_ = (size * stride for stride in target.stride())
        user = loops.write_rows(
            target.data_ptr(), n_pages, page_size, page_bytes, head_bytes, rows.data_ptr(), batch, heads, size * width,
            places.data_ptr(), pages.data_ptr(), pages_each, magnitude_bits,
        )  # fmt: skip
        if user == -1:
            if target is not cache:
                cache.copy_(target)
            return
        position = int(places[user])
        if not 0 <= position < capacity:
            raise RuntimeError(f"user {user}'s position {position} is past the cache's {capacity}")
        page = int(table[user, position // page_size])
        raise RuntimeError(f"user {user} has page {page}, the cache has pages 0 to {n_pages - 1}")

    return kernel, positions


def _check_rows(cache, rows):
    check_tiled("cache_tensor", cache)
    check_tiled("input_tensor", rows)
    check_rank4("cache_tensor", cache)
    check_rank4("input_tensor", rows)
    check_dtype("input_tensor", rows.dtype, _UPDATES)
    held = rows.memory_config()
    if held.memory_layout is not TensorMemoryLayout.HEIGHT_SHARDED:
        raise RuntimeError(f"input_tensor must be height-sharded, got {held}")
    one, _, heads, head_dim = rows.shape
    if one != 1 or head_dim != cache.shape[3] or heads != cache.shape[1] or heads > TILE_SIZE:
        raise RuntimeError(
            f"input_tensor must be [1, users, {cache.shape[1]}, {cache.shape[3]}] with at most {TILE_SIZE} heads, "
            f"got {list(rows.shape)}"
        )


def _check_table(cache, page_table):
    check_indices("page_table", page_table)
    if len(page_table.shape) != 2:
        raise RuntimeError(f"page_table must be [users, pages per user], got {list(page_table.shape)}")
    if page_table.shape[1] > cache.shape[0]:
        raise RuntimeError(
            f"page_table has {page_table.shape[1]} pages a user, the cache only {cache.shape[0]} pages"
        )


def _check_fill(cache, rows, page_table):
    check_tiled("cache_tensor", cache)
    check_tiled("input_tensor", rows)
    check_rank4("cache_tensor", cache)
    check_rank4("input_tensor", rows)
    check_indices("page_table", page_table)
    if rows.dtype is not cache.dtype:
        raise RuntimeError(f"input_tensor must have the cache's dtype {cache.dtype.name}, got {rows.dtype.name}")
    if rows.memory_config().is_sharded():
        raise RuntimeError(f"input_tensor must be interleaved, got {rows.memory_config()}")
    if (rows.shape[1], rows.shape[3]) != (cache.shape[1], cache.shape[3]):
        raise RuntimeError(
            f"input_tensor must be [users, {cache.shape[1]}, positions, {cache.shape[3]}], got {list(rows.shape)}"
        )
    capacity = page_table.shape[1] * cache.shape[2]
    if rows.shape[2] > capacity:
        raise RuntimeError(f"{rows.shape[2]} positions do not fit the page table's {capacity}")
