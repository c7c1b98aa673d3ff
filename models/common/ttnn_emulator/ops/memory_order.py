"""Stores a device tensor's values in another order of dimensions in torch memory, which an op reads faster.

The order in memory changes neither shape nor values of the tensor. It is changed once, on first use, and replaces the
old copy.
"""

import torch

from ..packed import PackedMatrix
from ..tensor import Tensor, lazy_zeros


def store_transposed(tensor: Tensor) -> None:
    """Stores `[..., K, N]` as contiguous `[..., N, K]`, which a CPU's matmul of few rows reads fastest; not if packed."""
    _reorder(
        tensor,
        lambda shard: type(shard) is PackedMatrix or shard.mT.is_contiguous(),
        lambda shard: shard.mT.contiguous().mT,
    )


def store_heads_first(cache: Tensor) -> None:
    """Stores a paged cache `[pages, heads, page_size, head_dim]` so that the pages of a head are neighbours in memory.

    Consecutive pages are then one `[heads, positions, head_dim]` view.
    """
    _reorder(
        cache,
        lambda shard: shard.transpose(0, 1).is_contiguous(),
        lambda shard: shard.transpose(0, 1).contiguous().transpose(0, 1),
    )


def _reorder(tensor, in_order, reorder) -> None:
    storage = tensor.storage
    if storage.pending or all(shard.is_meta or in_order(shard) for shard in storage.shards):
        return
    if storage.zeroed:
        # Zeros are the same in every order. A copy would write them all.
        reorder = _zeros_in_the_order_of(reorder)
    reordered = {id(shard): reorder(shard) for shard in storage.shards}
    storage.shards = type(storage.shards)([reordered[id(shard)] for shard in storage.shards])
    storage.aliased = False


def _zeros_in_the_order_of(reorder):
    def make(shard):
        stride = reorder(torch.empty(shard.shape, dtype=shard.dtype, device="meta")).stride()
        return lazy_zeros(shard.shape, shard.dtype, stride)

    return make
