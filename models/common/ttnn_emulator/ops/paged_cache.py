"""Writing into KV caches whose rows lie in pages, and into caches with a row of positions per user.

A paged cache is `[pages, kv_heads, page_size, head_dim]`; `page_table[user, i]` is the page that holds the
user's positions from `i * page_size` on.
"""

import torch

from ..dtypes import TILE_SIZE, DataType, TensorMemoryLayout
from ..memory import DRAM_MEMORY_CONFIG
from ..op import op, rounding, run
from ..tensor import Tensor
from .checks import check_dtype, check_indices, check_kernel_config, check_rank4, check_tiled, not_emulated
from .held import hold_heads_first

_UPDATES = (DataType.BFLOAT16, DataType.FLOAT32)


@op("ttnn.experimental.paged_update_cache")
def paged_update_cache(
    cache_tensor: Tensor,
    input_tensor: Tensor,
    *,
    update_idxs=(),
    update_idxs_tensor: Tensor = None,
    share_cache: bool = None,
    page_table: Tensor = None,
    batch_offset: int = 0,
    compute_kernel_config=None,
    mesh_coords=None,
    block_size: int = None,
    num_kv_heads: int = None,
    cache_position_modulo: int = None,
) -> Tensor:
    """Writes one row per user, `[1, B, kv_heads, head_dim]` height-sharded, into the cache at the user's position.

    Positions come from `update_idxs_tensor` (`[B]` INT32; -1 skips the user) or, without a page table, from the
    list `update_idxs`. Without `page_table` (`[B, pages per user]` INT32) the cache is `[B, kv_heads, S, head_dim]`.
    Each row is rounded to the cache's dtype. Returns the cache. RuntimeError for a position past the cache.
    """
    name = "ttnn.experimental.paged_update_cache"
    _check_update_only(name, share_cache, batch_offset, mesh_coords, block_size, num_kv_heads, cache_position_modulo)
    check_kernel_config(name, compute_kernel_config)
    kernel, positions = _update(name, cache_tensor, input_tensor, update_idxs, update_idxs_tensor, page_table)
    return run(name, kernel, [cache_tensor, input_tensor, positions, page_table], [], in_place=cache_tensor)


@op("ttnn.experimental.paged_fused_update_cache")
def paged_fused_update_cache(
    cache_tensor1: Tensor,
    input_tensor1: Tensor,
    cache_tensor2: Tensor,
    input_tensor2: Tensor,
    *,
    update_idxs=(),
    update_idxs_tensor: Tensor = None,
    share_cache: bool = None,
    page_table: Tensor = None,
    batch_offset: int = 0,
    compute_kernel_config=None,
    mesh_coords=None,
) -> tuple:
    """`paged_update_cache` of two caches, whose inputs must lie on cores that do not overlap."""
    name = "ttnn.experimental.paged_fused_update_cache"
    _check_update_only(name, share_cache, batch_offset, mesh_coords, None, None, None)
    check_kernel_config(name, compute_kernel_config)
    calls = []
    for cache, rows in ((cache_tensor1, input_tensor1), (cache_tensor2, input_tensor2)):
        kernel, positions = _update(name, cache, rows, update_idxs, update_idxs_tensor, page_table)
        calls.append((kernel, [cache, rows, positions, page_table]))
    grids = [rows.memory_config().shard_spec.grid for rows in (input_tensor1, input_tensor2)]
    if any(grids[0].contains(each) or each.contains(grids[0]) for each in grids[1:]):
        raise RuntimeError(f"{name}: input_tensor1 and input_tensor2 must lie on cores that do not overlap, got {grids}")
    return tuple(run(name, kernel, inputs, [], in_place=inputs[0]) for kernel, inputs in calls)


@op("ttnn.experimental.paged_fill_cache")
def paged_fill_cache(
    cache_tensor: Tensor,
    input_tensor: Tensor,
    page_table: Tensor,
    *,
    batch_idx_tensor: Tensor = None,
    batch_idx: int = 0,
    compute_kernel_config=None,
    mesh_coords=None,
    block_size: int = None,
    cache_position_modulo: int = None,
    valid_seq_len_tensor: Tensor = None,
) -> Tensor:
    """Writes `[1, kv_heads, S, head_dim]`, of the cache's dtype, into the pages of row `batch_idx` of the page table.

    With `batch_idx_tensor` (`[n]`), input row i of n goes to page table row `batch_idx_tensor[i]`. A page of -1
    is skipped. Returns the cache. RuntimeError if S positions do not fit the page table's row.
    """
    name = "ttnn.experimental.paged_fill_cache"
    not_emulated(
        name,
        mesh_coords=mesh_coords,
        block_size=block_size,
        cache_position_modulo=cache_position_modulo,
        valid_seq_len_tensor=valid_seq_len_tensor,
    )
    check_kernel_config(name, compute_kernel_config)
    _check_fill(name, cache_tensor, input_tensor, page_table)
    if batch_idx_tensor is None:
        if input_tensor.shape[0] != 1:
            raise RuntimeError(f"{name}: without batch_idx_tensor one user is filled, got {list(input_tensor.shape)}")
        if isinstance(batch_idx, bool) or not isinstance(batch_idx, int) or batch_idx < 0:
            raise TypeError(f"{name}: batch_idx takes a whole number from 0, not {batch_idx!r}")
        if batch_idx >= page_table.shape[0]:
            raise RuntimeError(f"{name}: batch_idx={batch_idx} is not in a page table of {page_table.shape[0]} users")
    elif tuple(batch_idx_tensor.shape) != (input_tensor.shape[0],):
        raise RuntimeError(
            f"{name}: batch_idx_tensor must be [{input_tensor.shape[0]}], got {list(batch_idx_tensor.shape)}"
        )
    hold_heads_first(cache_tensor)

    def kernel(cache, rows, table, users):
        if cache.is_meta:
            return
        users = [batch_idx] if users is None else users.tolist()
        for user, values in zip(users, rows):
            _fill_pages(name, cache, values, table, user)

    inputs = [cache_tensor, input_tensor, page_table, batch_idx_tensor]
    return run(name, kernel, inputs, [], {"batch_idx": batch_idx}, in_place=cache_tensor)


def _fill_pages(name, cache, values, table, user):
    """Copies `[kv_heads, S, head_dim]` into the pages of row `user` of the page table."""
    if not 0 <= user < table.shape[0]:
        raise RuntimeError(f"{name}: user {user} is not in a page table of {table.shape[0]} users")
    page_size, seq_len = cache.shape[2], values.shape[1]
    whole = seq_len // page_size
    pages = table[user, : -(-seq_len // page_size)].tolist()
    for page in pages:
        _check_page(name, page, cache)
    kept = [index for index in range(whole) if pages[index] >= 0]
    blocks = values[:, : whole * page_size].unflatten(1, (whole, page_size)) if whole else None
    if kept and pages[:whole] == list(range(pages[0], pages[0] + whole)):
        cache.transpose(0, 1)[:, pages[0] : pages[0] + whole] = blocks
    elif kept:
        target = table[user, kept].long()
        cache.transpose(0, 1).index_copy_(1, target, blocks if len(kept) == whole else blocks[:, kept])
    if seq_len > whole * page_size and pages[whole] >= 0:
        cache[pages[whole], :, : seq_len - whole * page_size] = values[:, whole * page_size :]


def _check_pages(name, users, pages, cache):
    lowest, highest = (bound.item() for bound in pages.aminmax())
    if lowest < 0 or highest >= cache.shape[0]:
        raise RuntimeError(
            f"{name}: users {users.tolist()} have pages {pages.tolist()}, the cache has pages 0 to {cache.shape[0] - 1}"
        )


def _check_page(name, page, cache):
    if not -1 <= page < cache.shape[0]:
        raise RuntimeError(f"{name}: page {page} is not in a cache of {cache.shape[0]} pages")


def _check_update_only(name, share_cache, batch_offset, mesh_coords, block_size, num_kv_heads, cache_position_modulo):
    if batch_offset != 0:
        raise RuntimeError(f"{name}: batch_offset must be 0, got {batch_offset}")
    not_emulated(
        name,
        share_cache=share_cache,
        mesh_coords=mesh_coords,
        block_size=block_size,
        num_kv_heads=num_kv_heads,
        cache_position_modulo=cache_position_modulo,
    )


def _update(name, cache, rows, update_idxs, positions, page_table):
    """The kernel that writes the rows, and the tensor of positions it reads (None if they are in a list)."""
    _check_rows(name, cache, rows)
    batch = rows.shape[1]
    if positions is not None:
        check_indices(name, "update_idxs_tensor", positions)
        if tuple(positions.shape) != (batch,):
            raise RuntimeError(f"{name}: update_idxs_tensor must be [{batch}], got {list(positions.shape)}")
        if positions.memory_config() != DRAM_MEMORY_CONFIG:
            raise RuntimeError(f"{name}: update_idxs_tensor must be interleaved in DRAM, got {positions.memory_config()}")
    elif page_table is not None:
        raise RuntimeError(f"{name}: a paged cache needs update_idxs_tensor")
    elif len(update_idxs) != batch or any(index < 0 for index in update_idxs):
        raise RuntimeError(f"{name}: update_idxs must be {batch} positions from 0, got {list(update_idxs)}")
    fixed = None if positions is not None else list(update_idxs)
    round_to = rounding(cache.dtype)
    if page_table is None:
        if cache.shape[0] != batch:
            raise RuntimeError(f"{name}: the cache must have {batch} users, got {list(cache.shape)}")
    else:
        _check_table(name, cache, page_table)
        if page_table.shape[0] != batch:
            raise RuntimeError(f"{name}: page_table must have {batch} users, got {list(page_table.shape)}")
        hold_heads_first(cache)
    capacity = cache.shape[2] * (1 if page_table is None else page_table.shape[1])
    page_size = cache.shape[2]

    def kernel(cache, rows, positions, table):
        if cache.is_meta:
            return
        places = fixed if positions is None else positions.tolist()
        users = [user for user, position in enumerate(places) if position != -1]
        for user in users:
            if not 0 <= places[user] < capacity:
                raise RuntimeError(f"{name}: user {user}'s position {places[user]} is past the cache's {capacity}")
        if not users:
            return
        rows = round_to(rows)[0]
        if len(users) == 1:
            _write_row(name, cache, rows, users[0], places[users[0]], table)
            return
        at = torch.tensor([places[user] for user in users])
        users = torch.tensor(users)
        block = users
        if table is not None:
            block, at = table[users, at // page_size].long(), at % page_size
            _check_pages(name, users, block, cache)
        cache[block, :, at] = rows if len(users) == batch else rows[users]

    return kernel, positions


def _write_row(name, cache, rows, user, position, table):
    """Writes one user's row: without index tensors, which cost more than the row itself."""
    page, at = user, position
    if table is not None:
        page, at = int(table[user, position // cache.shape[2]]), position % cache.shape[2]
        if not 0 <= page < cache.shape[0]:
            raise RuntimeError(f"{name}: user {user} has page {page}, the cache has pages 0 to {cache.shape[0] - 1}")
    cache[page, :, at] = rows[user]


def _check_rows(name, cache, rows):
    check_tiled(name, "cache_tensor", cache)
    check_tiled(name, "input_tensor", rows)
    check_rank4(name, "cache_tensor", cache)
    check_rank4(name, "input_tensor", rows)
    check_dtype(name, "input_tensor", rows.dtype, _UPDATES)
    held = rows.memory_config()
    if held.memory_layout is not TensorMemoryLayout.HEIGHT_SHARDED:
        raise RuntimeError(f"{name}: input_tensor must be height-sharded, got {held}")
    one, _, heads, head_dim = rows.shape
    if one != 1 or head_dim != cache.shape[3] or heads != cache.shape[1] or heads > TILE_SIZE:
        raise RuntimeError(
            f"{name}: input_tensor must be [1, users, {cache.shape[1]}, {cache.shape[3]}] with at most {TILE_SIZE} heads, "
            f"got {list(rows.shape)}"
        )


def _check_table(name, cache, page_table):
    check_indices(name, "page_table", page_table)
    if len(page_table.shape) != 2:
        raise RuntimeError(f"{name}: page_table must be [users, pages per user], got {list(page_table.shape)}")
    if page_table.shape[1] > cache.shape[0]:
        raise RuntimeError(
            f"{name}: page_table has {page_table.shape[1]} pages a user, the cache only {cache.shape[0]} pages"
        )


def _check_fill(name, cache, rows, page_table):
    check_tiled(name, "cache_tensor", cache)
    check_tiled(name, "input_tensor", rows)
    check_rank4(name, "cache_tensor", cache)
    check_rank4(name, "input_tensor", rows)
    check_indices(name, "page_table", page_table)
    if rows.dtype is not cache.dtype:
        raise RuntimeError(f"{name}: input_tensor must have the cache's dtype {cache.dtype.name}, got {rows.dtype.name}")
    if rows.memory_config().is_sharded():
        raise RuntimeError(f"{name}: input_tensor must be interleaved, got {rows.memory_config()}")
    if (rows.shape[1], rows.shape[3]) != (cache.shape[1], cache.shape[3]):
        raise RuntimeError(
            f"{name}: input_tensor must be [users, {cache.shape[1]}, positions, {cache.shape[3]}], got {list(rows.shape)}"
        )
    capacity = page_table.shape[1] * cache.shape[2]
    if rows.shape[2] > capacity:
        raise RuntimeError(f"{name}: {rows.shape[2]} positions do not fit the page table's {capacity}")
