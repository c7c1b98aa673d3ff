"""Memory configs and shard specs, and how many bytes a tensor takes in each bank.

Sizes are those of the machine's chip, and the free bytes agree with the vendor's allocator. Only bytes per bank are
counted and no addresses are assigned, so fragmentation is not modelled.
"""

import functools
import math

from models.common.chip import Chip

from . import machine
from .cores import CoreCoord, CoreGrid, CoreRange, CoreRangeSet, corerange_to_cores
from .dtypes import (
    BLOCK_FLOAT,
    TILE_SIZE,
    BufferType,
    DataType,
    Layout,
    ShardOrientation,
    ShardStrategy,
    TensorMemoryLayout,
    element_size,
    tile_size,
)
from .shapes import Shape, round_up, volume

L1_ALIGNMENT = 16


class ShardSpec:
    """One shard per core: the cores, the (height, width) of a shard in elements, and the order of the shards."""

    __slots__ = ("grid", "shape", "orientation", "_hash")

    def __init__(self, grid: CoreRangeSet, shard_shape, shard_orientation: ShardOrientation):
        if not isinstance(grid, CoreRangeSet):
            raise TypeError(f"ShardSpec: grid must be a CoreRangeSet, got {type(grid).__name__}")
        if not isinstance(shard_orientation, ShardOrientation):
            raise TypeError(f"ShardSpec: shard_orientation must be a ShardOrientation, got {shard_orientation!r}")
        self.grid, self.shape, self.orientation = grid, [int(size) for size in shard_shape], shard_orientation
        self._hash = hash((grid, tuple(self.shape), shard_orientation))

    def num_cores(self) -> int:
        return self.grid.num_cores()

    def __eq__(self, other):
        return isinstance(other, ShardSpec) and (self.grid, self.shape, self.orientation) == (
            other.grid,
            other.shape,
            other.orientation,
        )

    def __hash__(self):
        return self._hash

    def __repr__(self):
        return f"ShardSpec(grid={self.grid}, shape={self.shape}, orientation={self.orientation.name})"


class MemoryConfig:
    """Interleaved over all banks, or sharded over the cores of a ShardSpec, in DRAM or L1."""

    __slots__ = ("memory_layout", "buffer_type", "shard_spec", "_hash")

    def __init__(
        self,
        memory_layout: TensorMemoryLayout = TensorMemoryLayout.INTERLEAVED,
        buffer_type: BufferType = BufferType.DRAM,
        shard_spec: ShardSpec = None,
    ):
        if not isinstance(memory_layout, TensorMemoryLayout) or not isinstance(buffer_type, BufferType):
            raise TypeError(
                "MemoryConfig takes (memory_layout: TensorMemoryLayout, buffer_type: BufferType, shard_spec), "
                f"got {memory_layout!r}, {buffer_type!r}"
            )
        if shard_spec is not None and memory_layout is TensorMemoryLayout.INTERLEAVED:
            raise RuntimeError("MemoryConfig: an interleaved memory layout takes no shard_spec")
        self.memory_layout, self.buffer_type, self.shard_spec = memory_layout, buffer_type, shard_spec
        self._hash = hash((memory_layout, buffer_type, shard_spec))

    def is_sharded(self) -> bool:
        return self.memory_layout is not TensorMemoryLayout.INTERLEAVED

    @property
    def interleaved(self) -> bool:
        return self.memory_layout is TensorMemoryLayout.INTERLEAVED

    def __eq__(self, other):
        return self is other or (
            isinstance(other, MemoryConfig)
            and self.memory_layout is other.memory_layout
            and self.buffer_type is other.buffer_type
            and self.shard_spec == other.shard_spec
        )

    def __hash__(self):
        return self._hash

    def __repr__(self):
        return (
            f"MemoryConfig(memory_layout={self.memory_layout.name}, buffer_type={self.buffer_type.name}, "
            f"shard_spec={self.shard_spec})"
        )


DRAM_MEMORY_CONFIG = MemoryConfig(TensorMemoryLayout.INTERLEAVED, BufferType.DRAM)
L1_MEMORY_CONFIG = MemoryConfig(TensorMemoryLayout.INTERLEAVED, BufferType.L1)
L1_HEIGHT_SHARDED_MEMORY_CONFIG = MemoryConfig(TensorMemoryLayout.HEIGHT_SHARDED, BufferType.L1)
L1_WIDTH_SHARDED_MEMORY_CONFIG = MemoryConfig(TensorMemoryLayout.WIDTH_SHARDED, BufferType.L1)
L1_BLOCK_SHARDED_MEMORY_CONFIG = MemoryConfig(TensorMemoryLayout.BLOCK_SHARDED, BufferType.L1)


def _divide_up(value: int, divisor: int) -> int:
    return -(-value // divisor)


def create_sharded_memory_config(
    shape,
    core_grid,
    strategy: ShardStrategy,
    orientation: ShardOrientation = None,
    use_height_and_width_as_shard_shape: bool = False,
) -> MemoryConfig:
    """An L1 memory config that spreads a tensor of `shape` over `core_grid` (CoreGrid or CoreRangeSet).

    With `use_height_and_width_as_shard_shape`, the last two sizes of `shape` are the shape of a shard. Otherwise the
    tensor, as [product of the leading sizes, width], is divided over the cores.
    """
    if not isinstance(shape, (list, tuple)):
        raise RuntimeError(f"create_sharded_memory_config: shape must be a list, tuple or Shape, got {shape!r}")
    if isinstance(core_grid, CoreGrid):
        core_grid = CoreRangeSet([CoreRange(CoreCoord(0, 0), CoreCoord(core_grid.x - 1, core_grid.y - 1))])
    if not isinstance(core_grid, CoreRangeSet):
        raise RuntimeError(
            f"create_sharded_memory_config: core_grid must be a CoreGrid or CoreRangeSet, got {core_grid!r}"
        )
    if not isinstance(strategy, ShardStrategy):
        raise RuntimeError(f"create_sharded_memory_config: strategy must be a ShardStrategy, got {strategy!r}")
    orientation = ShardOrientation.ROW_MAJOR if orientation is None else orientation

    *leading, height, width = shape
    cores = core_grid.num_cores()
    row_major = orientation is ShardOrientation.ROW_MAJOR
    if use_height_and_width_as_shard_shape:
        shard_shape = (height, width) if row_major else (width, height)
    elif strategy is ShardStrategy.BLOCK:
        grid = core_grid.bounding_box().grid_size()
        if grid.x * grid.y != cores:
            raise RuntimeError(f"create_sharded_memory_config: block sharding needs a full rectangle, got {core_grid}")
        down, across = (grid.y, grid.x) if row_major else (grid.x, grid.y)
        shard_shape = (_divide_up(volume(leading) * height, down), _divide_up(width, across))
    elif strategy is ShardStrategy.HEIGHT:
        shard_shape = (_divide_up(volume(leading) * height, cores), width)
    else:
        shard_shape = (volume(leading) * height, _divide_up(width, cores))
    layout = TensorMemoryLayout[f"{strategy.name}_SHARDED"]
    return MemoryConfig(layout, BufferType.L1, ShardSpec(core_grid, shard_shape, orientation))


def padded_shape(shape, layout: Layout) -> tuple:
    """`shape` with its last two sizes rounded up to tiles in TILE layout (a rank-1 shape becomes [32, width])."""
    sizes = tuple(shape)
    if layout is Layout.ROW_MAJOR:
        return sizes or (1,)
    sizes = (1,) * (2 - len(sizes)) + sizes
    return sizes[:-2] + (round_up(sizes[-2], TILE_SIZE), round_up(sizes[-1], TILE_SIZE))


def plan(shape: tuple, dtype: DataType, layout: Layout, memory_config: MemoryConfig):
    """(padded shape, bytes per bank) of a tensor. RuntimeError if a card does not support this layout in memory."""
    return _plan(shape, dtype, layout, memory_config, machine.chip())


@functools.lru_cache(maxsize=65536)
def _plan(shape: tuple, dtype: DataType, layout: Layout, memory_config: MemoryConfig, chip: Chip):
    if dtype in BLOCK_FLOAT and layout is not Layout.TILE:
        raise RuntimeError(f"{dtype} tensors must be in TILE layout, got {layout}")
    if any(size < 0 for size in shape):
        raise RuntimeError(f"a tensor's sizes must not be negative, got {list(shape)}")
    padded = padded_shape(shape, layout)
    if memory_config.is_sharded():
        return _plan_sharded(padded, dtype, layout, memory_config, chip)
    in_dram = memory_config.buffer_type is BufferType.DRAM
    banks = chip.dram_banks if in_dram else math.prod(chip.grid)
    if layout is Layout.TILE:
        page, pages = tile_size(dtype), volume(padded) // (TILE_SIZE * TILE_SIZE)
    else:
        width = padded[-1] if padded else 1
        page, pages = width * element_size(dtype), volume(padded) // max(width, 1)
    page = round_up(page, _alignment(memory_config, chip))
    return Shape(padded), round_up(_divide_up(pages, banks) * page, chip.dram_alignment)


def _alignment(memory_config, chip):
    return chip.dram_alignment if memory_config.buffer_type is BufferType.DRAM else L1_ALIGNMENT


def _plan_sharded(padded, dtype, layout, memory_config, chip):
    spec = memory_config.shard_spec
    if spec is None:
        raise RuntimeError(f"a sharded tensor needs a shard_spec, got {memory_config}")
    shard_height, shard_width = spec.shape
    if layout is Layout.TILE and (shard_height % TILE_SIZE or shard_width % TILE_SIZE):
        raise RuntimeError(f"shard shape {spec.shape} must be a multiple of tiles {TILE_SIZE}x{TILE_SIZE}")
    if layout is Layout.ROW_MAJOR and padded:
        padded = padded[:-1] + (round_up(padded[-1], shard_width),)
    _check_shards_fit(padded, memory_config)
    _check_cores_exist(memory_config, chip)
    if layout is Layout.TILE:
        shard_bytes = shard_height * shard_width // (TILE_SIZE * TILE_SIZE) * tile_size(dtype)
    else:
        shard_bytes = shard_height * round_up(shard_width * element_size(dtype), _alignment(memory_config, chip))
    return Shape(padded), round_up(shard_bytes, chip.dram_alignment)


def _check_shards_fit(padded, memory_config):
    """The vendor's rule: the tensor, as [rows, width], must not need more shards than there are cores."""
    spec, layout = memory_config.shard_spec, memory_config.memory_layout
    shard_height, shard_width = spec.shape
    rows, width = volume(padded[:-1]), padded[-1] if padded else 1
    down, across, cores = _divide_up(rows, shard_height), _divide_up(width, shard_width), spec.num_cores()
    if layout is TensorMemoryLayout.HEIGHT_SHARDED:
        if shard_width != width:
            raise RuntimeError(f"height sharding: shard width {shard_width} must match the tensor's width {width}")
        if down > cores:
            raise RuntimeError(f"height sharding: {down} shards do not fit on {cores} cores")
    elif layout is TensorMemoryLayout.WIDTH_SHARDED:
        if shard_height != rows:
            raise RuntimeError(f"width sharding: shard height {shard_height} must match the tensor's height {rows}")
        if across > cores:
            raise RuntimeError(f"width sharding: {across} shards do not fit on {cores} cores")
    else:
        grid = spec.grid.bounding_box().grid_size()
        rows_of_cores, columns = grid.y, grid.x
        if spec.orientation is ShardOrientation.COL_MAJOR:
            rows_of_cores, columns = columns, rows_of_cores
        if spec.grid.size() != 1:
            raise RuntimeError(f"block sharding needs one rectangle of cores, got {spec.grid}")
        if down > rows_of_cores or across > columns:
            raise RuntimeError(
                f"block sharding: {down}x{across} shards do not fit on {rows_of_cores}x{columns} cores "
                f"({spec.orientation.name})"
            )


def _check_cores_exist(memory_config, chip):
    limit = (chip.dram_banks, 1) if memory_config.buffer_type is BufferType.DRAM else chip.grid
    for core in corerange_to_cores(memory_config.shard_spec.grid):
        if core.x >= limit[0] or core.y >= limit[1]:
            raise RuntimeError(
                f"shard core {core} does not exist: {memory_config.buffer_type.name} has {limit[0]}x{limit[1]}"
            )
