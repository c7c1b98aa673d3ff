"""Reading positions out of a paged cache that is held heads first (see `held`)."""

import torch


def gather_pages(name: str, cache: torch.Tensor, pages: list, count: int) -> torch.Tensor:
    """The first `count` positions of one user, `[kv_heads, count, head_dim]`, of a cache
    `[pages, kv_heads, page_size, head_dim]`; `pages` is the user's row of the page table.

    Consecutive pages are a view; otherwise the pages are copied. RuntimeError for a page that the cache lacks.
    """
    place = find_pages(name, pages, 0, count, cache.shape)
    return read_pages(cache, cache.transpose(0, 1).flatten(1, 2), place)


def find_pages(name: str, pages: list, first: int, count: int, cache_shape) -> tuple:
    """Where positions `first` to `count` of a user with these pages lie: (start, length, page numbers).

    Of consecutive pages `start` counts from the cache's first position and the page numbers are None; otherwise
    it counts from the first position of the pages listed.
    """
    page_size = cache_shape[2]
    skipped = first // page_size
    used = pages[skipped : -(-count // page_size)]
    if min(used) < 0 or max(used) >= cache_shape[0]:
        raise RuntimeError(f"{name}: pages {used[:8]} are not all in a cache of {cache_shape[0]} pages")
    start, length = first - skipped * page_size, count - first
    if used == list(range(used[0], used[0] + len(used))):
        return start + used[0] * page_size, length, None
    return start, length, torch.tensor(used)


def read_pages(cache: torch.Tensor, flat: torch.Tensor, place: tuple) -> torch.Tensor:
    """`[kv_heads, length, head_dim]` at a place; `flat` is the cache as `[kv_heads, positions, head_dim]`."""
    start, length, pages = place
    if pages is None:
        return flat.narrow(1, start, length)
    return cache.transpose(0, 1).index_select(1, pages).flatten(1, 2).narrow(1, start, length)
