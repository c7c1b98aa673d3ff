"""How a device tensor's values are held in torch memory, where an op reads them faster in another order.

The order of the dimensions in memory does not show in a tensor's shape or values; it is changed once, on
first use, in place of the old copy.
"""

import torch

from ..tensor import Tensor, lazy_zeros


def hold_transposed(tensor: Tensor) -> None:
    """Holds `[..., K, N]` as contiguous `[..., N, K]`: what a CPU's matmul of few rows reads fastest."""
    _hold(tensor, lambda shard: shard.mT.is_contiguous(), lambda shard: shard.mT.contiguous().mT)


def hold_heads_first(cache: Tensor) -> None:
    """Holds a paged cache `[pages, heads, page_size, head_dim]` with a head's pages side by side.

    A run of consecutive pages is then one `[heads, positions, head_dim]` view.
    """
    _hold(
        cache,
        lambda shard: shard.transpose(0, 1).is_contiguous(),
        lambda shard: shard.transpose(0, 1).contiguous().transpose(0, 1),
    )


def _hold(tensor, is_held, hold) -> None:
    storage = tensor.storage
    if storage.pending or all(shard.is_meta or is_held(shard) for shard in storage.shards):
        return
    if storage.zeroed:
        # Any order of zeros is the same values; a copy would write them all.
        hold = _zeros_in_the_order_of(hold)
    held = {id(shard): hold(shard) for shard in storage.shards}
    storage.shards = type(storage.shards)([held[id(shard)] for shard in storage.shards])
    storage.aliased = False


def _zeros_in_the_order_of(hold):
    def make(shard):
        stride = hold(torch.empty(shard.shape, dtype=shard.dtype, device="meta")).stride()
        return lazy_zeros(shard.shape, shard.dtype, stride)

    return make
