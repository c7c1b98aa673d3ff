"""An op call as the prediction sees it: the device operation's name, its tensors, its cores, fidelity and settings.

Three sources make calls: our op log (`from_log.py`), upstream's layers written as data, and the rows of a measured trace
(the CSV of `tt-perf-report`). All three are therefore judged by the same rules (`rules`) and rates (`cost.py`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

TILE = 32
# Bytes of a tile of 32x32, exponents of the block formats included; of one element of a row-major tensor.
TILE_BYTES = {
    "BFLOAT16": 2048, "BFLOAT8_B": 1088, "BFLOAT4_B": 576, "FLOAT32": 4096, "UINT32": 4096, "INT32": 4096, "UINT16": 2048,
    "UINT8": 1024,
}  # fmt: skip


@dataclass(frozen=True)
class Operand:
    """One device's tensor.

    Attributes:
        shape: padded, as it lies in memory. `logical`: without padding.
        dtype, layout: names, such as BFLOAT8_B and TILE.
        place: DRAM or L1.
        sharding: INTERLEAVED, WIDTH_SHARDED, HEIGHT_SHARDED or BLOCK_SHARDED.
        shards: cores, or DRAM banks, that hold a shard; None if interleaved.
    """

    shape: tuple[int, ...]
    dtype: str
    layout: str = "TILE"
    place: str = "DRAM"
    sharding: str = "INTERLEAVED"
    shards: int | None = None
    logical: tuple[int, ...] | None = None

    @property
    def tiled(self) -> bool:
        return self.layout == "TILE"

    @property
    def in_dram(self) -> bool:
        return self.place == "DRAM"

    @property
    def rows(self) -> int:
        """Rows of all matrices together: every dimension but the last."""
        return math.prod(self.shape[:-1])

    @property
    def tiles(self) -> int:
        """Tiles that the elements fill, also of a row-major tensor."""
        return -(-math.prod(self.shape) // (TILE * TILE))

    @property
    def bytes(self) -> int:
        elements = math.prod(self.shape)
        return elements * TILE_BYTES[self.dtype] // (TILE * TILE)

    @property
    def page_bytes(self) -> int:
        """What one access moves: a tile, or a row of a row-major tensor."""
        return TILE_BYTES[self.dtype] if self.tiled else self.shape[-1] * TILE_BYTES[self.dtype] // (TILE * TILE)


@dataclass(frozen=True)
class Call:
    """One call of a device operation on one device.

    Attributes:
        op: the vendor's name of the device operation, such as MatmulDeviceOperation.
        inputs, outputs: in the op's order; None for a tensor that was left out.
        fidelity: LoFi, HiFi2, HiFi3 or HiFi4.
        cores: cores that it runs on; None: as many as its rule says.
        settings: what else the cost depends on, by the names that the rules read.
        name: the call's public name, for tables, such as ttnn.linear; empty: `op`.
    """

    op: str
    inputs: tuple[Operand | None, ...]
    outputs: tuple[Operand, ...]
    fidelity: str = "HiFi4"
    cores: int | None = None
    settings: Mapping = field(default_factory=dict)
    name: str = ""

    @property
    def key(self) -> tuple:
        """Equal for calls that are alike."""
        return (
            self.op,
            self.name,
            self.inputs,
            self.outputs,
            self.fidelity,
            self.cores,
            tuple(sorted(self.settings.items())),
        )
