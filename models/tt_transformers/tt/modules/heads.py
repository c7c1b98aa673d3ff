"""The heads of a decode step: query, key and value are split into heads, one user on each core, and joined again."""

import ttnn

from models.tt_transformers.tt.config.program_configs import TILE, ChipLayout
from models.tt_transformers.tt.placement import HeadSplit


def decode_heads(chip: ChipLayout, heads: HeadSplit, head_dim: int, users: int):
    """`TileOfHeads` where one device's query heads fit one tile, else `TilesOfHeads`."""
    return (TileOfHeads if heads.n_heads <= TILE else TilesOfHeads)(chip, heads, head_dim, users)


class TileOfHeads:
    """Up to 32 query heads a device: the vendor's ops for decode, whose kernels address the rows of one tile."""

    def __init__(self, chip: ChipLayout, heads: HeadSplit, head_dim: int, users: int):
        self.heads, self.users, self.width = heads, users, heads.n_heads * head_dim
        self.joined_cores = heads.n_heads  # `join` leaves one head on each core
        self._a_user_a_core = chip.user_sharded(users, head_dim)

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
        `joined_cores`."""
        x = ttnn.to_memory_config(x, self._a_user_a_core)
        x = ttnn.experimental.nlp_concat_heads_decode(x, num_heads=self.heads.n_heads)
        # The op gives a full tile of rows for any batch; its first rows are the users.
        return ttnn.reshape(x, (1, 1, self.users, self.width), (1, 1, TILE, self.width))


class TilesOfHeads:
    """More query heads than a tile has rows: the ops of prefill, which take users as positions, and transposes.

    The vendor's checks accept more heads in the ops for decode too, but its kernels address the rows of one tile.
    """

    def __init__(self, chip: ChipLayout, heads: HeadSplit, head_dim: int, users: int):
        self.heads, width = heads, heads.n_heads * head_dim
        self.joined_cores = chip.decode_cores(width, width)
        self._joined = chip.width_sharded(width, self.joined_cores)
        self._a_user_a_core = [
            chip.user_sharded(users, head_dim, count) for count in (heads.n_heads, heads.n_kv_heads, heads.n_kv_heads)
        ]

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
