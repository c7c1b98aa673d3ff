"""Token embeddings and rotary angles: rows of tables on the devices."""

from functools import cache, partial

import torch
import ttnn

from models.common.chip import whole_tiles
from models.tt_transformers.tt.config.program_configs import TILE, ChipLayout
from models.tt_transformers.tt.modules.constants import Constants


class Embedding:
    """weight: [1, 1, vocab_size, dim / N], row-major, DRAM."""

    def __init__(self, weight):
        self.weight = weight

    def forward(self, tokens, memory_config):
        """tokens: [1, rows] uint32, row-major -> [1, 1, rows, dim / N] bf16, tiled, interleaved."""
        x = ttnn.embedding(tokens, self.weight, layout=ttnn.TILE_LAYOUT, memory_config=memory_config)
        return ttnn.unsqueeze_to_4D(x)


class Rotation:
    """Rotates heads by the angles of the current tokens."""

    def __init__(self, cos, sin, transformation, is_decode: bool):
        self.cos, self.sin = cos, sin
        self._transformation = transformation
        self._is_decode = is_decode

    def __call__(self, x):
        """x: [1, users, heads, head_dim] in decode, [1, heads, seq_len, head_dim] in prefill -> the same."""
        return ttnn.experimental.rotary_embedding_llama(
            x, self.cos, self.sin, self._transformation, is_decode_mode=self._is_decode
        )

    def keys_then_queries(self, q, k):
        """Yields k, then q, rotated; in decode. Each when it is asked for, so that L1 need not hold both."""
        yield self(k)
        yield self(q)


class JointRotation(Rotation):
    """The same in decode for q and k that lie on different cores: one op rotates both."""

    def keys_then_queries(self, q, k):
        q, k = ttnn.experimental.rotary_embedding_llama_fused_qk(q, k, self.cos, self.sin, self._transformation)
        yield k
        yield q


class RotaryEmbedding:
    """Tables of cos and sin for every position that a token may be decoded at; for LongRoPE, with both sets of factors.

    A token's angles are one row, so users with different frequencies share a decode step. `rope`: see `config/rope`.
    Tables: [1, 1, rows, head_dim], head_dim padded to whole tiles, bf16, row-major, DRAM, replicated.
    rotary_embedding_llama accepts a head_dim of 96; the other rotary ops need 32 or a multiple of 64.
    """

    decode_rotation, copies = Rotation, 1  # copies: cores of each user in decode

    def __init__(self, rope, max_seq_len: int, users: int, chip: ChipLayout, constants: Constants):
        self._rope, self._constants = rope, constants
        self._width = whole_tiles(rope.head_dim)
        tables = cache(partial(rope.table, max_seq_len, self._width))
        self._cos = constants.tensor("cos", lambda: tables()[0][None, None], ttnn.bfloat16, ttnn.ROW_MAJOR_LAYOUT)
        self._sin = constants.tensor("sin", lambda: tables()[1][None, None], ttnn.bfloat16, ttnn.ROW_MAJOR_LAYOUT)
        # In decode each user's core has a copy of the matrix.
        cores = self.copies * users
        self._decode_transformation = constants.tensor(
            "decode transformation", lambda: _pair_rotation().repeat(1, 1, cores, 1), ttnn.bfloat16,
            memory_config=chip.user_sharded(cores, TILE),
        )  # fmt: skip
        self._prefill_transformation = constants.tensor("prefill transformation", _pair_rotation, ttnn.bfloat16)
        self._decode_memory_config = chip.user_sharded(cores, self._width)

    def decode(self, rows) -> Rotation:
        """rows: [1, users] uint32, each user's row of the tables."""
        cos, sin = (self._one_row_a_user(table, rows) for table in (self._cos, self._sin))
        return self.decode_rotation(cos, sin, self._decode_transformation, is_decode=True)

    def prefill(self, rows) -> Rotation:
        """rows: [1, seq_len] uint32, each position's row of the tables."""
        cos, sin = (
            ttnn.unsqueeze_to_4D(ttnn.embedding(rows, table, layout=ttnn.TILE_LAYOUT)) for table in (self._cos, self._sin)
        )
        return Rotation(cos, sin, self._prefill_transformation, is_decode=False)

    def prefill_beyond_table(self, positions: range, length: int) -> Rotation:
        """As `prefill`, for a prompt of `length` tokens whose angles are not in the tables: they come from the host."""
        cos, sin = (
            self._constants.to_device(angles[None, None], ttnn.bfloat16)
            for angles in self._rope.cos_sin(torch.tensor(positions), length, self._width)
        )
        return Rotation(cos, sin, self._prefill_transformation, is_decode=False)

    def _one_row_a_user(self, table, rows):
        x = ttnn.unsqueeze_to_4D(ttnn.embedding(rows, table, layout=ttnn.TILE_LAYOUT))
        # [1, users, 1, head_dim], placed like the heads: one user per core.
        return ttnn.interleaved_to_sharded(self._for_each_core(ttnn.transpose(x, 1, 2)), self._decode_memory_config)

    def _for_each_core(self, x):
        """x: [1, users, 1, head_dim] -> [1, copies * users, 1, head_dim]."""
        return x


class JointRotaryEmbedding(RotaryEmbedding):
    """The same for queries and keys that lie on different cores in decode: both have their copies of the angles."""

    decode_rotation, copies = JointRotation, 2

    def _for_each_core(self, x):
        return ttnn.concat([x, x], dim=1)


def rotary_embedding(args, constants: Constants) -> RotaryEmbedding:
    """The rotary tables of a model: on a grid of devices `JointRotaryEmbedding`, for the heads of `OwnUsersHeads`."""
    kind, users = JointRotaryEmbedding if args.placement.is_grid else RotaryEmbedding, args.placement.users(args.max_batch_size)
    return kind(args.arch.rope, args.max_seq_len, users, args.chip, constants)


def _pair_rotation() -> torch.Tensor:
    """[1, 1, 32, 32]: a row times this matrix has (-b, a) for each pair (a, b); RoPE multiplies that by sin."""
    matrix = torch.zeros(1, 1, TILE, TILE)
    even = torch.arange(0, TILE, 2)
    matrix[..., even, even + 1] = 1
    matrix[..., even + 1, even] = -1
    return matrix
