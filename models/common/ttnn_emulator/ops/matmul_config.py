"""The requirements of a matmul's program config on its tensors, and the place of the output.

The rules are the vendor's: each was found by calling the vendor's op on its mock device.
"""

import math

from .. import machine
from ..cores import CoreCoord, CoreRange, CoreRangeSet, num_cores_to_corerangeset
from ..dtypes import TILE_SIZE, BufferType, ShardOrientation, TensorMemoryLayout, tile_size
from ..memory import DRAM_MEMORY_CONFIG, MemoryConfig, ShardSpec
from ..program_config import (
    MatmulMultiCoreReuseMultiCast1DProgramConfig,
    MatmulMultiCoreReuseMultiCastDRAMShardedProgramConfig,
    MatmulMultiCoreReuseMultiCastProgramConfig,
)
from ..shapes import round_up, volume
from .checks import check_grid


def check_matmul_config(a, b, shape, dtype, memory_config, program_config, compute_kernel_config) -> None:
    """RuntimeError if the program config does not fit the tensors (`shape` and `dtype` are the product's)."""
    if program_config is None:
        _check_default(b, memory_config)
    elif isinstance(program_config, MatmulMultiCoreReuseMultiCastDRAMShardedProgramConfig):
        _check_dram_sharded(a, b, shape, memory_config, program_config)
    else:
        _check_blocks(a, b, shape, program_config, compute_kernel_config)
        _check_buffers(a, b, dtype, program_config)


def matmul_memory_config(shape, memory_config, program_config) -> MemoryConfig:
    """The memory config of the product: as requested, but if sharded, with the program config's cores and shard."""
    if memory_config is None:
        return DRAM_MEMORY_CONFIG
    if not memory_config.is_sharded():
        return memory_config
    rows, columns = _tiles(shape)
    height = rows * TILE_SIZE
    if isinstance(program_config, MatmulMultiCoreReuseMultiCastProgramConfig):
        return _block_sharded(rows, columns, memory_config, program_config)
    width = program_config.per_core_N * TILE_SIZE
    grid = getattr(program_config, "compute_with_storage_grid_size", machine.worker_grid())
    cores = num_cores_to_corerangeset(-(-columns // program_config.per_core_N), grid, row_wise=True)
    return _with_shards(memory_config, cores, (height, width))


def _with_shards(memory_config, cores, shard_shape, orientation=ShardOrientation.ROW_MAJOR):
    spec = ShardSpec(cores, shard_shape, orientation)
    return MemoryConfig(memory_config.memory_layout, memory_config.buffer_type, spec)


def _block_sharded(rows, columns, memory_config, config):
    down, across = -(-rows // config.per_core_M), -(-columns // config.per_core_N)
    orientation = ShardOrientation.ROW_MAJOR
    if config.transpose_mcast:
        down, across, orientation = across, down, ShardOrientation.COL_MAJOR
    cores = CoreRangeSet([CoreRange(CoreCoord(0, 0), CoreCoord(across - 1, down - 1))])
    return _with_shards(memory_config, cores, (config.per_core_M * TILE_SIZE, config.per_core_N * TILE_SIZE), orientation)


def _tiles(shape):
    """Rows and columns of a shape in tiles. Leading dimensions count as rows."""
    height = round_up(shape[-2], TILE_SIZE) if len(shape) > 1 else TILE_SIZE
    return volume(shape[:-2]) * height // TILE_SIZE, round_up(shape[-1], TILE_SIZE) // TILE_SIZE


def _check_default(b, memory_config):
    if b.memory_config().is_sharded():
        raise RuntimeError(f"without program_config input_tensor_b must be interleaved, got {b.memory_config()}")
    if memory_config is not None and memory_config.is_sharded():
        raise RuntimeError(f"a sharded output needs a program_config, got none with {memory_config}")


def _check_dram_sharded(a, b, shape, memory_config, config):
    kind = "MatmulMultiCoreReuseMultiCastDRAMShardedProgramConfig"
    for argument, tensor, buffer_type in (("input_tensor_a", a, BufferType.L1), ("input_tensor_b", b, BufferType.DRAM)):
        held = tensor.memory_config()
        if held.memory_layout is not TensorMemoryLayout.WIDTH_SHARDED or held.buffer_type is not buffer_type:
            raise RuntimeError(f"{kind} takes {argument} width-sharded in {buffer_type.name}, got {held}")
    if memory_config is None or not memory_config.is_sharded():
        raise RuntimeError(f"{kind} needs a sharded memory_config for the output, got {memory_config}")
    rows, columns = _tiles(shape)
    inner = a.padded_shape[-1] // TILE_SIZE
    shard = a.memory_config().shard_spec.shape[1] // TILE_SIZE
    block = config.in0_block_w
    if block == 0 or config.per_core_N == 0:
        raise RuntimeError(f"{kind} needs in0_block_w and per_core_N above 0, got {config}")
    if (shard % block and block % shard) or inner % block:
        raise RuntimeError(
            f"{kind} in0_block_w={block} must divide a's width of {inner} tiles and its shard of {shard}"
        )
    if config.per_core_M != rows:
        raise RuntimeError(f"{kind} per_core_M={config.per_core_M} must be the {rows} tile rows of a")
    cores = math.prod(machine.chip().grid)
    if -(-columns // config.per_core_N) > cores:
        raise RuntimeError(f"{kind} per_core_N={config.per_core_N} spreads {columns} tiles over more than {cores} cores")


def _check_blocks(a, b, shape, config, kernel_config):
    kind = type(config).__name__
    check_grid(f"{kind} compute_with_storage_grid_size", config.compute_with_storage_grid_size)
    for field in ("in0_block_w", "per_core_M", "per_core_N", "out_subblock_h", "out_subblock_w"):
        if getattr(config, field) == 0:
            raise RuntimeError(f"{kind} {field} is 0, which is not valid")
    inner = a.padded_shape[-1] // TILE_SIZE
    if inner % config.in0_block_w:
        raise RuntimeError(f"{kind} in0_block_w={config.in0_block_w} must divide the {inner} inner tiles")
    limit = 4 if kernel_config is not None and kernel_config.fp32_dest_acc_en else 8
    if config.out_subblock_h * config.out_subblock_w > limit:
        raise RuntimeError(
            f"{kind} out_subblock_h={config.out_subblock_h} times out_subblock_w={config.out_subblock_w} "
            f"must be at most {limit}"
        )
    block_h = getattr(config, "out_block_h", config.per_core_M)
    block_w = getattr(config, "out_block_w", config.per_core_N)
    for field, whole, part in (
        ("out_subblock_h", block_h, config.out_subblock_h),
        ("out_subblock_w", block_w, config.out_subblock_w),
        ("out_block_h", config.per_core_M, block_h),
        ("out_block_w", config.per_core_N, block_w),
    ):
        if whole % part:
            raise RuntimeError(f"{kind} {field}={part} must divide {whole}")
    if isinstance(config, MatmulMultiCoreReuseMultiCastProgramConfig):
        _check_2d(kind, a, shape, config)
    elif isinstance(config, MatmulMultiCoreReuseMultiCast1DProgramConfig):
        _check_1d(kind, a, b, shape, config)


def _check_buffers(a, b, dtype, config):
    """Refuses blocks whose circular buffers cannot fit L1: two blocks of each input, one of the output.

    A card may need more, to accumulate in another dtype or for a bias. So a call that passes may still not fit a card.
    """
    block_h = getattr(config, "out_block_h", config.per_core_M)
    block_w = getattr(config, "out_block_w", config.per_core_N)
    copies = 1 if config.in0_block_w * TILE_SIZE == a.padded_shape[-1] else 2
    needed = block_h * block_w * tile_size(dtype)
    if not a.memory_config().is_sharded():
        needed += copies * block_h * config.in0_block_w * tile_size(a.dtype)
    if b.memory_config().buffer_type is BufferType.DRAM:
        needed += copies * block_w * config.in0_block_w * tile_size(b.dtype)
    available = machine.chip().l1_bank_bytes
    if needed > available:
        raise RuntimeError(
            f"{type(config).__name__} needs circular buffers of {needed} B a core, L1 has {available} B; "
            "take smaller blocks"
        )


def _check_2d(kind, a, shape, config):
    if a.memory_config().is_sharded() and not config.fuse_batch:
        raise RuntimeError(f"{kind} needs fuse_batch when input_tensor_a is sharded")
    rows, columns = _tiles(shape if config.fuse_batch else shape[-2:])
    grid = config.compute_with_storage_grid_size
    limit_x, limit_y = (grid.y, grid.x) if config.transpose_mcast else (grid.x, grid.y)
    for field, blocks, limit in (
        ("per_core_N", -(-columns // config.per_core_N), limit_x),
        ("per_core_M", -(-rows // config.per_core_M), limit_y),
    ):
        if blocks > limit:
            raise RuntimeError(f"{kind} {field} makes {blocks} blocks for {limit} cores")


def _check_1d(kind, a, b, shape, config):
    if config.gather_in0:
        raise NotImplementedError(f"{kind} gather_in0 is not emulated; leave it out")
    if b.memory_config().is_sharded():
        raise RuntimeError(f"{kind} takes input_tensor_b interleaved, got {b.memory_config()}")
    if not config.fuse_batch and a.memory_config().is_sharded():
        raise RuntimeError(f"{kind} needs fuse_batch when input_tensor_a is sharded")
    rows, columns = _tiles(shape if config.fuse_batch else shape[-2:])
    blocks = -(-columns // config.per_core_N) * -(-rows // config.per_core_M)
    cores = config.compute_with_storage_grid_size.x * config.compute_with_storage_grid_size.y
    if blocks > cores:
        raise RuntimeError(f"{kind} makes {blocks} blocks for {cores} cores")
