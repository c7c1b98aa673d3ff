"""Writes into KV caches with one row of positions per user: `[users, kv_heads, positions, head_dim]`."""

from ..declaration import NoEffect
from ..dtypes import TILE_SIZE
from ..op import op
from ..program import Program, rounding
from ..program_config import DeviceComputeKernelConfig
from ..tensor import Tensor
from .checks import check_dtype, check_rank4, check_tiled


@op("ttnn.fill_cache")
def fill_cache(cache_tensor: Tensor, input_tensor: Tensor, batch_idx: int, *, update_idx: int = 0) -> Tensor:
    """Writes `[1, kv_heads, S, head_dim]`, in the cache's dtype, for user `batch_idx` from position `update_idx` on."""
    return _fill(cache_tensor, input_tensor, batch_idx, update_idx)


@op("ttnn.kv_cache.fill_cache_for_user_")
def fill_cache_for_user_(cache: Tensor, input: Tensor, batch_index: int, *, update_idx: int = 0) -> Tensor:
    """Another name of `fill_cache`."""
    return _fill(cache, input, batch_index, update_idx)


@op("ttnn.update_cache")
def update_cache(
    cache: Tensor,
    input: Tensor,
    update_idx: int,
    *,
    batch_offset: int = 0,
    compute_kernel_config: NoEffect[DeviceComputeKernelConfig] = None,
) -> Tensor:
    """Writes `[1, kv_heads, B, head_dim]` for the cache's B users at position `update_idx`, rounded to its dtype.

    If the cache has fewer users than the input has rows, it takes the rows from `batch_offset` on.
    """
    return _update(cache, input, update_idx, batch_offset)


@op("ttnn.kv_cache.update_cache_for_token_")
def update_cache_for_token_(
    cache: Tensor,
    input: Tensor,
    update_index: int,
    batch_offset: int = 0,
    compute_kernel_config: NoEffect[DeviceComputeKernelConfig] = None,
) -> Tensor:
    """Another name of `update_cache`."""
    return _update(cache, input, update_index, batch_offset)


def _fill(cache, rows, user, start):
    _check(cache, rows)
    check_dtype("input_tensor", rows.dtype, (cache.dtype,))
    if rows.shape[0] != 1:
        raise RuntimeError(f"input_tensor must hold one user, got {list(rows.shape)}")
    _check_index("batch_idx", user, cache.shape[0])
    if start % TILE_SIZE or start < 0 or start + rows.shape[2] > cache.shape[2]:
        raise RuntimeError(
            f"update_idx={start} must be a multiple of {TILE_SIZE} with {rows.shape[2]} of the cache's "
            f"{cache.shape[2]} positions after it"
        )
    end = start + rows.shape[2]

    def kernel(cache, rows):
        cache[user, :, start:end] = rows[0]

    return Program(kernel, [cache, rows], in_place=cache)


def _update(cache, rows, position, batch_offset):
    _check(cache, rows)
    _check_index("update_idx", position, cache.shape[2])
    users = min(cache.shape[0], rows.shape[2] - batch_offset)
    if rows.shape[0] != 1 or batch_offset < 0 or users < 1:
        raise RuntimeError(
            f"input must be [1, {cache.shape[1]}, users, {cache.shape[3]}] with rows from batch_offset="
            f"{batch_offset} on, got {list(rows.shape)}"
        )
    round_to = rounding(cache.dtype)

    def kernel(cache, rows):
        cache[:users, :, position] = round_to(rows[0, :, batch_offset : batch_offset + users].transpose(0, 1))

    return Program(kernel, [cache, rows], in_place=cache)


def _check(cache, rows):
    check_tiled("cache", cache)
    check_tiled("input", rows)
    check_dtype("cache", cache.dtype)
    check_dtype("input", rows.dtype)
    check_rank4("cache", cache)
    check_rank4("input", rows)
    if (rows.shape[1], rows.shape[3]) != (cache.shape[1], cache.shape[3]):
        raise RuntimeError(
            f"input must be [1, {cache.shape[1]}, ..., {cache.shape[3]}], got {list(rows.shape)}"
        )


def _check_index(argument, index, size):
    if not 0 <= index < size:
        raise RuntimeError(f"{argument} must be from 0 to {size - 1}, got {index}")
