"""Reads positions from a paged cache that is stored heads first (see `memory_order`)."""

import torch


def gather_pages(cache: torch.Tensor, pages: list, count: int) -> torch.Tensor:
    """The first `count` positions of one user, `[kv_heads, count, head_dim]`, from a cache
    `[pages, kv_heads, page_size, head_dim]`. `pages` is the user's row of the page table.

    Consecutive pages give a view. Other pages are copied. Raises RuntimeError for a page that the cache lacks.
    """
    page_size = cache.shape[2]
    used = pages[: -(-count // page_size)]
    if min(used) < 0 or max(used) >= cache.shape[0]:
        raise RuntimeError(f"pages {used[:8]} are not all in a cache of {cache.shape[0]} pages")
    heads_first = cache.transpose(0, 1)
    if used == list(range(used[0], used[0] + len(used))):
        chosen = heads_first[:, used[0] : used[0] + len(used)]
    else:
        chosen = heads_first.index_select(1, torch.tensor(used))
    return chosen.flatten(1, 2)[:, :count]
