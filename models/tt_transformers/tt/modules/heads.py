"""The heads of a decode step: query, key and value are split into heads, one user on each core, and joined again."""

import ttnn

from models.tt_transformers.tt.config.program_configs import TILE, ChipLayout
from models.tt_transformers.tt.placement import HeadSplit


def decode_heads(chip: ChipLayout, heads: HeadSplit, head_dim: int, users: int, rows: int, cores: int, ccl):
    """The heads of a decode step of `rows` users, of which a device serves `users`. `cores`: that wqkv's product is
    width-sharded over.

    `OwnUsersHeads` if these are not all; else `TileOfHeads` where one device's query heads fit one tile, else
    `TilesOfHeads`.
    """
    if users < rows:
        return OwnUsersHeads(chip, heads, head_dim, users, rows, cores, ccl)
    return (TileOfHeads if heads.n_heads <= TILE else TilesOfHeads)(chip, heads, head_dim, users)


def joined_cores(chip: ChipLayout, heads: HeadSplit, head_dim: int) -> int:
    """The cores that joined heads are width-sharded over: the vendor's op leaves one head on each."""
    width = heads.n_heads * head_dim
    return heads.n_heads if heads.n_heads <= TILE else chip.decode_cores(width, width)


class TileOfHeads:
    """Up to 32 query heads a device: the vendor's ops for decode, whose kernels address the rows of one tile."""

    def __init__(self, chip: ChipLayout, heads: HeadSplit, head_dim: int, users: int):
        self.heads, self.users, self.width = heads, users, heads.n_heads * head_dim
        self._a_user_a_core = chip.user_sharded(users, head_dim)

    def placed(self, x):
        """wqkv's product, L1 width-sharded -> the same, where `split` takes it."""
        return ttnn.sharded_to_interleaved(x, ttnn.L1_MEMORY_CONFIG)

    def split(self, x):
        """x: [1, 1, users, columns of q, k and v], L1 interleaved -> q, k, v: [1, users, heads, head_dim], L1
        height-sharded, one user a core."""
        return ttnn.experimental.nlp_create_qkv_heads_decode(
            x,
            num_heads=self.heads.n_heads,
            num_kv_heads=self.heads.n_kv_heads,
            memory_config=self._a_user_a_core,
        )

    def join(self, x):
        """x: [1, users, heads, head_dim], interleaved -> [1, 1, users, heads * head_dim], L1 width-sharded over
        `joined_cores` cores."""
        x = ttnn.to_memory_config(x, self._a_user_a_core)
        x = ttnn.experimental.nlp_concat_heads_decode(x, num_heads=self.heads.n_heads)
        # The op gives a full tile of rows for any batch; its first rows are the users.
        return ttnn.reshape(x, (1, 1, self.users, self.width), (1, 1, TILE, self.width))


class OwnUsersHeads:
    """As `TileOfHeads`, where a device's users are some of the batch: `split` sums the products and keeps the users' rows,
    `join` gathers all rows."""

    def __init__(self, chip: ChipLayout, heads: HeadSplit, head_dim: int, users: int, rows: int, cores: int, ccl):
        self.ccl = ccl
        self._of_all = TileOfHeads(chip, heads, head_dim, rows)
        self._split = dict(num_heads=heads.n_heads, num_kv_heads=heads.n_kv_heads, slice_size=users)
        self._a_user_a_core = chip.separate_heads(users, head_dim)
        self._parts = ccl.room_for_parts(chip, rows, (heads.n_heads + 2 * heads.n_kv_heads) * head_dim, cores)

    def placed(self, x):
        """As `TileOfHeads.placed`."""
        return x

    def split(self, x):
        """x: partial products of wqkv [1, 1, users, columns of q, k and v], L1 width-sharded -> q, k, v: [1, users of a
        device, heads, head_dim], L1 height-sharded, one user a core; on cores of their own, so that one op can rotate, or
        store, two of them."""
        return self.ccl.sum_to_heads(x, self._parts, self._a_user_a_core, **self._split)

    def join(self, x):
        """x: [1, users of a device, heads, head_dim], interleaved -> as `TileOfHeads.join`, of all users."""
        return self._of_all.join(self.ccl.gather_users(x, ttnn.L1_MEMORY_CONFIG))


class TilesOfHeads:
    """More query heads than a tile has rows: the ops of prefill, which take users as positions, and transposes.

    The vendor's checks accept more heads in the ops for decode too, but its kernels address the rows of one tile.
    """

    def __init__(self, chip: ChipLayout, heads: HeadSplit, head_dim: int, users: int):
        self.heads, width = heads, heads.n_heads * head_dim
        self._joined = chip.width_sharded(width, joined_cores(chip, heads, head_dim))
        self._a_user_a_core = [
            chip.user_sharded(users, head_dim, count) for count in (heads.n_heads, heads.n_kv_heads, heads.n_kv_heads)
        ]

    def placed(self, x):
        """As `TileOfHeads.placed`."""
        return ttnn.sharded_to_interleaved(x, ttnn.L1_MEMORY_CONFIG)

    def split(self, x):
        """As `TileOfHeads.split`."""
        parts = ttnn.experimental.nlp_create_qkv_heads(
            x,
            num_heads=self.heads.n_heads,
            num_kv_heads=self.heads.n_kv_heads,
            transpose_k_heads=False,
            memory_config=ttnn.L1_MEMORY_CONFIG,
        )
        return tuple(
            ttnn.interleaved_to_sharded(ttnn.transpose(part, 1, 2), placement)
            for part, placement in zip(parts, self._a_user_a_core)
        )

    def join(self, x):
        """As `TileOfHeads.join`."""
        x = ttnn.experimental.nlp_concat_heads(ttnn.transpose(x, 1, 2), memory_config=ttnn.L1_MEMORY_CONFIG)
        return ttnn.interleaved_to_sharded(x, self._joined)
