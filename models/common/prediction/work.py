"""What an op call asks of a chip: products, passes, reads, bytes, hops. `rules` has the rule of each operation.

Figures are those of the busiest core, because a kernel ends when its last core does; bytes of DRAM are the whole chip's.
"""

from dataclasses import dataclass

from .call import TILE, Call, Operand
from .card import PASSES, Card

PRODUCT_FLOPS = 2 * TILE**3


@dataclass(frozen=True)
class Work:
    """What one call asks of one device.

    Attributes:
        kind: the row of the table by kind that it belongs to.
        flops: multiplications and additions of all cores together, those of whole matrices only.
        products: products of two tiles on the busiest core, `passes` each (1 for LoFi to 4 for HiFi4). `streamed`: one
            operand stays in L1 and the other streams through, so that unpacking hides behind multiplying.
        vector: passes of a tile through the vector unit on the busiest core.
        dram_pages, dram_page_bytes: pages that the busiest core reads or writes one after the other, and their size.
        l1_pages, l1_page_bytes: the same of other cores' L1.
        lines: lines of 32 bytes that the busiest core moves, many at a time.
        dram_bytes: all bytes that the chip reads and writes in DRAM.
        banked: whether each bank is read by the core beside it; else the pages of a tensor lie over all banks in turn.
        readers: cores that read DRAM for the others; None: every core reads its own.
        wire_bytes: what crosses the busiest link of a collective. `hops`: neighbours that its first byte passes.
        ring: whether the wire is a ring's, used in both directions.
        paced: a name of `Rates` and how many times it adds to the compute of the busiest core.
        fixed: names of `Rates` whose times are added as they are, with how many times.
    """

    kind: str
    flops: float = 0
    products: float = 0
    passes: int = 4
    streamed: bool = False
    vector: float = 0
    dram_pages: float = 0
    dram_page_bytes: float = 0
    l1_pages: float = 0
    l1_page_bytes: float = 0
    lines: float = 0
    dram_bytes: float = 0
    banked: bool = False
    readers: int | None = None
    wire_bytes: float = 0
    hops: int = 0
    ring: bool = False
    paced: tuple[str, float] | None = None
    fixed: tuple[tuple[str, float], ...] = ()


def passes_of(call: Call) -> int:
    """Passes that a product takes at the call's fidelity."""
    return PASSES[call.fidelity]


def dram_bytes_of(*operands: Operand | None) -> int:
    """Bytes of those operands that lie in DRAM."""
    return sum(operand.bytes for operand in operands if operand is not None and operand.in_dram)


def cores_of(tensor: Operand, card: Card) -> int:
    """Cores that work on a tensor: those that hold its shards, else as many as it has tiles for."""
    return tensor.shards if tensor.shards and not tensor.in_dram else min(tensor.tiles, card.speed.cores)
