"""Constants of a Wormhole chip, as the vendor's package reports them. The emulator and the models' layouts share them."""

TILE = 32  # rows, and columns, of a tile
DRAM_BANKS = 12
DRAM_BANK_BYTES = 1_072_693_184
# A core's L1, up to its end, and what of it tensors and circular buffers can have.
L1_BYTES = 1_499_136
L1_BANK_BYTES = 1_393_312


def whole_tiles(length: int) -> int:
    """`length` rows or columns, rounded up to whole tiles."""
    return -(-length // TILE) * TILE
