"""Which pages of the KV cache belong to which user."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

BATCH_SIZES = (1, 2, 4, 8, 16, 32)  # users at a time
BLOCK_SIZES = (32, 64, 128)  # tokens in a page


@dataclass(frozen=True)
class PagedAttentionConfig:
    """A KV cache of `max_num_blocks` pages, which all users of a device share, of `block_size` tokens each.

    Where devices serve different users (`Placement.pools`), each group of devices has such a pool: the same page numbers
    are other memory.
    """

    block_size: int
    max_num_blocks: int

    def __post_init__(self):
        if self.block_size not in BLOCK_SIZES:
            supported = ", ".join(map(str, BLOCK_SIZES))
            raise ValueError(f"page_params: block_size {self.block_size!r} is not supported; supported are {supported}")
        if isinstance(self.max_num_blocks, bool) or not isinstance(self.max_num_blocks, int) or self.max_num_blocks < 1:
            raise ValueError(f"page_params: max_num_blocks must be a positive integer, got {self.max_num_blocks!r}")

    @classmethod
    def from_params(cls, page_params: Mapping[str, int]) -> "PagedAttentionConfig":
        keys = {"block_size", "max_num_blocks"}
        if not isinstance(page_params, Mapping) or set(page_params) != keys:
            raise ValueError(f"page_params must have exactly the keys block_size and max_num_blocks, got {page_params!r}")
        return cls(**page_params)

    def blocks_for(self, tokens: int) -> int:
        """Number of pages for `tokens` tokens of one user."""
        return -(-tokens // self.block_size)

    def pages_per_user(self, max_seq_len: int) -> int:
        """Most pages of one user: enough for `max_seq_len` tokens, or the whole pool if that is smaller.

        Page tables have this width; ops refuse a table that is wider than the pool.
        """
        return min(self.blocks_for(max_seq_len), self.max_num_blocks)


def check_pages(config: PagedAttentionConfig, tokens: list[int], users_of_pool: int) -> None:
    """Raises ValueError if users with these numbers of tokens do not fit their pools, `users_of_pool` neighbours each."""
    pools = [tokens[first : first + users_of_pool] for first in range(0, len(tokens), users_of_pool)]
    pages = [sum(map(config.blocks_for, pool)) for pool in pools]
    needed = max(pages)
    if needed > config.max_num_blocks:
        fullest = pools[pages.index(needed)]
        raise ValueError(
            f"{len(fullest)} user(s) with {sum(fullest)} tokens in all need {needed} pages of {config.block_size} tokens, "
            f"page_params has max_num_blocks = {config.max_num_blocks}; give at least {needed}"
        )


def table_of_pools(rows: torch.Tensor, pool_of_row: Sequence[int], pools: int) -> torch.Tensor:
    """The pages `rows` [n, pages] as each pool's devices see them, one pool after the other: [pools * n, pages], -1 (no
    page) in the rows of other pools."""
    table = rows.new_full((pools, *rows.shape), -1)
    for index, pool in enumerate(pool_of_row):
        table[pool, index] = rows[index]
    return table.flatten(0, 1)


class PageTable:
    """Hands pages of a pool to users as their sequences grow, and takes them back.

    users_of_pool: how many neighbours in the batch share a pool; None: all.
    `table`: [users, pages_per_user] int32, page j of a user holds its tokens from j * block_size on. Unused entries are
    0, a valid page id whose contents are never used.

    Raises ValueError if a user would need more than the pool has left.
    """

    def __init__(self, config: PagedAttentionConfig, users: int, max_seq_len: int, users_of_pool: int | None = None):
        self.config = config
        self.table = torch.zeros(users, config.pages_per_user(max_seq_len), dtype=torch.int32)
        self._owned = [0] * users
        self._users_of_pool = users_of_pool or users
        self._free = [list(range(config.max_num_blocks - 1, -1, -1)) for _ in range(0, users, self._users_of_pool)]

    def check(self, tokens: Mapping[int, int]) -> None:
        """Raises ValueError if a pool does not have enough free pages for all its users (user -> tokens) to reach the given
        lengths."""
        free = [len(pages) for pages in self._free]
        for user, length in tokens.items():
            missing, pool = self._missing(user, length), user // self._users_of_pool
            if missing > free[pool]:
                raise ValueError(
                    f"user {user} needs {missing} more page(s) of {self.config.block_size} tokens for {length} tokens, "
                    f"{free[pool]} of max_num_blocks = {self.config.max_num_blocks} are free"
                )
            free[pool] -= missing

    def _missing(self, user: int, tokens: int) -> int:
        return max(0, self.config.blocks_for(tokens) - self._owned[user])

    def grow(self, user: int, tokens: int) -> None:
        """Makes room for `tokens` tokens of `user`."""
        self.check({user: tokens})
        for _ in range(self._missing(user, tokens)):
            self.table[user, self._owned[user]] = self._free[user // self._users_of_pool].pop()
            self._owned[user] += 1

    def move(self, sources: Sequence[int]) -> None:
        """User i gets the pages that user `sources[i]` had; `sources` is an order of all users."""
        self.table = self.table[list(sources)]
        self._owned = [self._owned[source] for source in sources]

    def release(self, user: int) -> None:
        """Takes back all pages of `user`."""
        owned = self.table[user, : self._owned[user]].tolist()
        self._free[user // self._users_of_pool].extend(reversed(owned))
        self.table[user] = 0
        self._owned[user] = 0
