"""Where tensors lie and how ops are laid out on a chip: pure functions of sizes.

Sizes are in elements unless a name says tiles or bytes. The vendor's op validation accepted all of these configs on the
mock device. The limits that it enforces (buffers within L1, shards that divide, rectangular norm grids) explain them.
"""

import math
from dataclasses import dataclass
from functools import cache

import ttnn

from models.common.chip import TILE, whole_tiles
from models.common.mesh import chip_of

# What of a core's L1 is left alone: the firmware's, and a margin.
L1_RESERVED_BYTES = 112 * 1024
# rms_norm with a row-major weight keeps a whole row of tiles in L1, in fp32 too. No wider row of bf16 fits beside an fp32
# weight (4032 columns); with a weight in tiles the op reads wider rows in parts.
MAX_ROW_MAJOR_NORM = 126 * TILE
TILE_BYTES = {ttnn.bfloat16: 2048, ttnn.bfloat8_b: 1088, ttnn.bfloat4_b: 576, ttnn.float32: 4096}
FP32_TILE_BYTES = 4096
# More than 32 cores do not read weights faster: 12 DRAM banks are what bounds a decode matmul.
MAX_DECODE_CORES = 32
# A matrix whose decode matmul would use fewer cores is padded with columns of zeros, at most this part of its columns.
GOOD_DECODE_CORES = 16
MAX_PADDING = 1 / 16
# Prefills are padded to 128 rows; above 1024 rows, to 512. Above 1024 rows matmuls are also cut into batches of 1024 or
# 512 rows, so that their output blocks fit L1.
PREFILL_MULTIPLE = 128
PREFILL_ROWS = (1024, 512)
# The widest heads of which prefill attention keeps 256 rows of bf16 queries, keys and values in L1.
MAX_WIDE_CHUNK_HEAD_DIM = 192
# out_subblock_h * out_subblock_w: the destination registers hold 4 tiles when they accumulate in fp32, else 8.
MAX_SUBBLOCK_TILES = 4


@dataclass(frozen=True)
class ChipLayout:
    """The facts of a chip that the configs depend on: its grid of worker cores, its DRAM banks, bytes of a core's L1."""

    grid_x: int
    grid_y: int
    dram_banks: int
    l1_bytes: int

    @classmethod
    def of(cls, mesh_device) -> "ChipLayout":
        grid, chip = mesh_device.compute_with_storage_grid_size(), chip_of(mesh_device)
        return cls(grid.x, grid.y, chip.dram_banks, chip.l1_bytes)

    def rectangle(self, cores: int) -> tuple[int, int] | None:
        """(x, y) of the widest rectangle of exactly `cores` cores, or None if the grid has none."""
        for x in range(min(self.grid_x, cores), 0, -1):
            if cores % x == 0 and cores // x <= self.grid_y:
                return x, cores // x
        return None

    def decode_cores(self, k: int, n: int) -> int:
        """Cores for a decode matmul [32, k] x [k, n]: the most that split both k and n into whole tiles evenly."""
        k_tiles, n_tiles = k // TILE, math.ceil(n / TILE)
        return max(
            cores
            for cores in range(1, MAX_DECODE_CORES + 1)
            if k_tiles % cores == 0 and n_tiles % cores == 0 and self.rectangle(cores)
        )

    def decode_width(self, k: int, n: int, unit: int = TILE) -> int:
        """The width, at least `n` and a multiple of `unit`, that a matrix [k, n] is padded to so that a decode matmul splits
        over enough cores.

        The smallest width that splits over `GOOD_DECODE_CORES`; if `MAX_PADDING` does not reach one, the width that
        splits over the most cores.
        """
        units = math.ceil(n / unit)
        widths = [count * unit for count in range(units, units + int(units * MAX_PADDING) + 1)]
        return max(widths, key=lambda width: (min(self.decode_cores(k, width), GOOD_DECODE_CORES), -width))

    def width_sharded(self, width: int, cores: int) -> ttnn.MemoryConfig:
        """L1, `[32, width / cores]` on each core of a rectangle: decode activations [1, 1, <= 32, width]."""
        x, y = self.rectangle(cores)
        return _sharded(ttnn.ShardStrategy.WIDTH, (TILE, width // cores), _core_rectangle(x, y))

    def user_sharded(self, users: int, width: int, rows: int = TILE) -> ttnn.MemoryConfig:
        """L1, one user per core, `[rows, width]` each: the heads of a decode step, [1, users, <= rows, width].

        nlp_concat_heads_decode takes a rectangle of cores only.
        """
        return _sharded(ttnn.ShardStrategy.HEIGHT, (whole_tiles(rows), width), _core_rectangle(*self.rectangle(users)))

    def separate_heads(self, users: int, head_dim: int) -> ttnn.MemoryConfig:
        """L1, `[32, head_dim]` on each core: as many cores as users for the queries, as many for the keys, and for the
        values, row by row from the first core on."""
        return _sharded(ttnn.ShardStrategy.HEIGHT, (TILE, head_dim), self._first_cores(3 * users))

    def beside_product(self, width: int, cores: int) -> ttnn.MemoryConfig:
        """L1, `[32, width / cores]` on each of the cores that a decode matmul leaves its product on: row by row from the
        first one on, unlike those of its input, which are a rectangle."""
        return _sharded(ttnn.ShardStrategy.WIDTH, (TILE, width // cores), self._first_cores(cores))

    def _first_cores(self, count: int) -> ttnn.CoreRangeSet:
        return ttnn.num_cores_to_corerangeset(count, ttnn.CoreCoord(self.grid_x, self.grid_y), True)

    def dram_sharded_weight(self, k: int, n: int) -> ttnn.MemoryConfig:
        """DRAM, the columns of a weight [1, 1, k, n] split over the banks in whole tiles (the last ones padded)."""
        columns = math.ceil(n / (TILE * self.dram_banks)) * TILE
        spec = ttnn.ShardSpec(_core_rectangle(self.dram_banks, 1), (k, columns), ttnn.ShardOrientation.ROW_MAJOR)
        return ttnn.MemoryConfig(ttnn.TensorMemoryLayout.WIDTH_SHARDED, ttnn.BufferType.DRAM, spec)

    def decode_matmul(self, k: int, n: int, cores: int, weight_dtype, output_dtype, bias: bool):
        """[1, 1, <= 32, k] width-sharded over `cores` times a DRAM-sharded weight [1, 1, k, n], plus a bias if `bias`.

        The op computes the columns of a DRAM bank on one core. It keeps three blocks of the weight in L1, two of the
        activations, the product in fp32 and in its own dtype, and the bias. The block of k is the largest that fits
        beside these and beside the sharded activations: one input and three outputs, as in an MLP.
        """
        k_tiles, n_tiles = k // TILE // cores, math.ceil(n / (TILE * cores))
        bank_tiles = math.ceil(n / (TILE * self.dram_banks))
        activations = (k_tiles + 3 * n_tiles) * TILE_BYTES[ttnn.bfloat16]
        product = bank_tiles * (TILE_BYTES[output_dtype] + FP32_TILE_BYTES + bias * TILE_BYTES[ttnn.bfloat16])
        per_k_tile = 3 * bank_tiles * TILE_BYTES[weight_dtype] + 2 * TILE_BYTES[ttnn.bfloat16]
        k_tiles_that_fit = (self.l1_bytes - L1_RESERVED_BYTES - activations - product) // per_k_tile
        return ttnn.MatmulMultiCoreReuseMultiCastDRAMShardedProgramConfig(
            in0_block_w=_largest_divisor(k_tiles, max(1, min(8, k_tiles_that_fit))),
            per_core_M=1,
            per_core_N=n_tiles,
            fused_activation=None,
        )

    @cache  # of few different sizes, and asked for at every call
    def prefill_matmul(self, rows: int, fuse_batch: bool, k: int, n: int, weight_dtype, output_dtype, bias: bool):
        """[1, batch, rows, k] times a weight [1, 1, k, n], plus a bias if `bias`; `fuse_batch` if the batch is 1.

        The product is split over the whole grid. A core computes its columns in blocks, one after the other: the fewest
        whose output fits L1. The block of k that streams through L1 is the largest that fits beside it, for bf16 inputs.
        """
        per_core_m = math.ceil(rows / (TILE * self.grid_y))
        columns = math.ceil(n / (TILE * self.grid_x))

        def k_tiles_that_fit(width: int) -> int:
            output = width * (per_core_m * (TILE_BYTES[output_dtype] + FP32_TILE_BYTES) + bias * TILE_BYTES[ttnn.bfloat16])
            per_k_tile = 2 * (per_core_m * TILE_BYTES[ttnn.bfloat16] + width * TILE_BYTES[weight_dtype])
            return (self.l1_bytes - L1_RESERVED_BYTES - output) // per_k_tile

        blocks = next(blocks for blocks in range(1, columns + 1) if k_tiles_that_fit(math.ceil(columns / blocks)) >= 1)
        block_w = math.ceil(columns / blocks)
        subblock_h, subblock_w = _subblock(per_core_m, block_w)
        return ttnn.MatmulMultiCoreReuseMultiCastProgramConfig(
            compute_with_storage_grid_size=(self.grid_x, self.grid_y),
            in0_block_w=_largest_divisor(k // TILE, min(8, k_tiles_that_fit(block_w))),
            out_subblock_h=subblock_h,
            out_subblock_w=subblock_w,
            out_block_w=block_w,
            per_core_M=per_core_m,
            per_core_N=blocks * block_w,
            transpose_mcast=False,
            fused_activation=None,
            fuse_batch=fuse_batch,
        )

    def decode_norm(self, dim: int, cores: int):
        """RMS norm of [1, 1, <= 32, dim] width-sharded over `cores`."""
        width_tiles = dim // TILE // cores
        return ttnn.LayerNormShardedMultiCoreProgramConfig(
            compute_with_storage_grid_size=self.rectangle(cores),
            subblock_w=_largest_divisor(width_tiles, 4),
            block_h=1,
            block_w=width_tiles,
            inplace=False,
        )

    def decode_sdpa(self):
        """Flash-decode over the whole grid; the op chooses its own chunk of keys (0)."""
        return self._sdpa(q_chunk_size=0, k_chunk_size=0)

    def prefill_sdpa(self, seq_len: int, head_dim: int, start: int = 0):
        """Chunks of 128 rows, 256 from 2048 rows up; smaller if `start` (a multiple of 32) is not a multiple of that.

        `seq_len` is a multiple of 128. Where queries attend to other tokens than their own, `start` is their number. Chunks of 256 rows of wider heads than `MAX_WIDE_CHUNK_HEAD_DIM` do not fit L1.
        The op accepts only a multiple of its chunk as start (tt-metal issue 35225).
        """
        is_wide = seq_len >= 2048 and seq_len % 256 == 0 and head_dim <= MAX_WIDE_CHUNK_HEAD_DIM
        chunk = math.gcd(256 if is_wide else 128, start)
        return self._sdpa(q_chunk_size=chunk, k_chunk_size=chunk)

    def _sdpa(self, q_chunk_size: int, k_chunk_size: int):
        return ttnn.SDPAProgramConfig(
            compute_with_storage_grid_size=(self.grid_x, self.grid_y),
            q_chunk_size=q_chunk_size,
            k_chunk_size=k_chunk_size,
            exp_approx_mode=False,
        )


def padded_prefill_length(seq_len: int) -> int:
    """The number of rows that a prefill of `seq_len` tokens runs with."""
    multiple = PREFILL_MULTIPLE if seq_len <= PREFILL_ROWS[0] else PREFILL_ROWS[-1]
    return math.ceil(seq_len / multiple) * multiple


def prefill_rows(seq_len: int) -> int:
    """Rows of one batch of a prefill matmul of `seq_len` (padded) rows."""
    return seq_len if seq_len <= PREFILL_ROWS[0] else next(rows for rows in PREFILL_ROWS if seq_len % rows == 0)


def _core_rectangle(x: int, y: int) -> ttnn.CoreRangeSet:
    return ttnn.CoreRangeSet({ttnn.CoreRange(ttnn.CoreCoord(0, 0), ttnn.CoreCoord(x - 1, y - 1))})


def _sharded(strategy, shard_shape, cores) -> ttnn.MemoryConfig:
    return ttnn.create_sharded_memory_config(
        shard_shape, cores, strategy, ttnn.ShardOrientation.ROW_MAJOR, use_height_and_width_as_shard_shape=True
    )


def _largest_divisor(number: int, limit: int) -> int:
    return max(divisor for divisor in range(1, limit + 1) if number % divisor == 0)


def _subblock(per_core_m: int, per_core_n: int) -> tuple[int, int]:
    """(h, w) of the largest block of output tiles that the destination registers hold; of equal blocks, the widest."""
    return max(
        (
            (h, w)
            for h in range(1, MAX_SUBBLOCK_TILES + 1)
            for w in range(1, MAX_SUBBLOCK_TILES + 1)
            if h * w <= MAX_SUBBLOCK_TILES and per_core_m % h == 0 and per_core_n % w == 0
        ),
        key=lambda block: (block[0] * block[1], block[1]),
    )
