"""Facts of the chips, as the vendor's package reports them. The emulator and the models' layouts share them."""

from dataclasses import dataclass, replace

TILE = 32  # rows, and columns, of a tile


@dataclass(frozen=True)
class Chip:
    """A chip with its harvested parts left out, in bytes and cores.

    Attributes:
        arch: the vendor's name of the architecture, in lower case.
        grid: columns and rows of the worker cores that dispatch leaves.
        dram_banks: DRAM banks; `dram_bank_bytes` is what tensors can have of one, from address `dram_base` on.
        dram_alignment: the bytes that a page in DRAM begins at a multiple of.
        l1_bytes: a core's L1, up to its end; `l1_bank_bytes` is what tensors and circular buffers can have of it, and
            `max_worker_l1_bytes` what they could have with the smallest possible reservation.
    """

    arch: str
    grid: tuple[int, int]
    dram_banks: int
    dram_bank_bytes: int
    dram_base: int
    dram_alignment: int
    l1_bytes: int
    l1_bank_bytes: int
    max_worker_l1_bytes: int

    def __str__(self) -> str:
        return f"{self.arch} chips with {self.dram_banks} DRAM banks"


WORMHOLE = Chip(
    "wormhole_b0", grid=(8, 8),
    dram_banks=12, dram_bank_bytes=1_072_693_184, dram_base=1_048_640, dram_alignment=32,
    l1_bytes=1_499_136, l1_bank_bytes=1_393_312, max_worker_l1_bytes=1_463_968,
)  # fmt: skip
# Nothing of this P150 is harvested. Some boards have two columns of cores less, as a P100 has.
P150 = Chip(
    "blackhole", grid=(13, 10),
    dram_banks=8, dram_bank_bytes=4_277_141_376, dram_base=1_048_704, dram_alignment=64,
    l1_bytes=1_572_864, l1_bank_bytes=1_461_120, max_worker_l1_bytes=1_531_776,
)  # fmt: skip
P100 = replace(P150, grid=(11, 10), dram_banks=7)
CHIPS = (WORMHOLE, P100, P150)


def chip_with(arch: str, dram_banks: int) -> Chip:
    """The chip of this architecture (in upper or lower case) with so many DRAM banks. ValueError if none is known."""
    for chip in CHIPS:
        if (chip.arch, chip.dram_banks) == (arch.lower(), dram_banks):
            return chip
    known = ", ".join(map(str, CHIPS))
    raise ValueError(f"{arch.lower()} chips with {dram_banks} DRAM banks are not known; known are {known}")


def whole_tiles(length: int) -> int:
    """`length` rows or columns, rounded up to whole tiles."""
    return -(-length // TILE) * TILE
