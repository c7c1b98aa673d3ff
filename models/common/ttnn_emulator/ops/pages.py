"""Reading positions out of a paged cache."""

import torch


def gather_pages(name: str, cache: torch.Tensor, pages: list, count: int, first: int = 0) -> torch.Tensor:
    """Positions `first` to `count` of one user, `[kv_heads, count - first, head_dim]`, of a cache
    `[pages, kv_heads, page_size, head_dim]`; `pages` is the user's row of the page table.

    Consecutive pages of a cache held heads first are a view; otherwise the pages are copied.
    RuntimeError for a page that the cache does not have.
    """
    page_size = cache.shape[2]
    skipped = first // page_size
    used = pages[skipped : -(-count // page_size)]
    if min(used) < 0 or max(used) >= cache.shape[0]:
        raise RuntimeError(f"{name}: pages {used[:8]} are not all in a cache of {cache.shape[0]} pages")
    heads_first = cache.transpose(0, 1)
    if used[-1] - used[0] == len(used) - 1 and used == list(range(used[0], used[-1] + 1)):
        chosen = heads_first[:, used[0] : used[-1] + 1]
    else:
        chosen = heads_first.index_select(1, torch.tensor(used))
    return chosen.flatten(1, 2)[:, first - skipped * page_size : count - skipped * page_size]
