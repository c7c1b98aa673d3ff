"""Facts of the cards that a prediction is made for: clocks, cores, memories, links. No constant here is fitted.

Sources, by the names that the comments use:
- spec: the vendor's product pages and data sheets of N150, N300, T3K (QuietBox, LoudBox), Galaxy, P100a and P150.
- ISA: github.com/tenstorrent/tt-isa-documentation.
- DRAM: tt-metal, tech_reports/Saturating_DRAM_bandwidth. GEMM: tt-metal, tech_reports/GEMM_FLOPS.
- npe: tenstorrent/tt-npe, its wormhole_b0 model. golden: the fabric and op-to-op golden files of tt-metal.
- ccl: the numbers of links in tt-metal's models/tt_transformers/tt/ccl.py.
- mock: what the vendor's package reports of its mock devices (`models/common/chip.py`).
"""

from dataclasses import dataclass, replace

from models.common.chip import P100, P150, WORMHOLE, Chip
from models.common.mesh_names import MESHES

# Clock cycles of a product of two tiles of 32x32 in one pass (LoFi): 65536 FLOP at 4096 FLOP a cycle (ISA, GEMM).
PRODUCT_CYCLES = 16
PASSES = {"LoFi": 1, "HiFi2": 2, "HiFi3": 3, "HiFi4": 4}


@dataclass(frozen=True)
class ChipSpeed:
    """What bounds the speed of a chip.

    Attributes:
        chip: its banks, their bytes and the grid of its worker cores.
        clock_hz: of the cores and the NoC.
        dram_bytes_s: peak of all banks together, in bytes a second.
        reader_bytes_s: what one core reads from DRAM at most, over one NoC, in bytes a second.
        dram_latency_s, l1_latency_s: from a core's read of one page to its arrival, in seconds.
        link_bytes_s: one ethernet link, one direction, in bytes a second. 0 for a board without links.
        hop_s: latency from one chip to its neighbour, in seconds.
        is_calibrated: whether measured times of kernels on this architecture were used.
    """

    chip: Chip
    clock_hz: float
    dram_bytes_s: float
    reader_bytes_s: float
    dram_latency_s: float
    l1_latency_s: float
    link_bytes_s: float
    hop_s: float
    is_calibrated: bool

    @property
    def cores(self) -> int:
        return self.chip.grid[0] * self.chip.grid[1]

    def flops(self, fidelity: str) -> float:
        """Peak FLOP a second of all cores at a math fidelity."""
        return 65536 / (PRODUCT_CYCLES * PASSES[fidelity]) * self.clock_hz * self.cores


@dataclass(frozen=True)
class Card:
    """A mesh: chips of one kind, joined by links.

    Attributes:
        shape: rows and columns of chips.
        links: links that a collective uses to each neighbour, along the rows' axis and the columns' axis.
        ring: whether the chips of an axis close to a ring, on the same axes.
    """

    name: str
    speed: ChipSpeed
    shape: tuple[int, int]
    links: tuple[int, int] = (0, 0)
    ring: tuple[bool, bool] = (False, False)

    @property
    def chips(self) -> int:
        return self.shape[0] * self.shape[1]

    def replica(self, replicas: int) -> "Card":
        """The line of chips that one of several replicas of data parallel has. ValueError if they do not share evenly."""
        if self.chips % replicas:
            raise ValueError(f"data_parallel {replicas} does not divide the {self.chips} chips of {self.name}")
        if replicas == 1:
            return self
        return replace(self, shape=(1, self.chips // replicas), links=(max(self.links),) * 2, ring=(False, False))


_WORMHOLE = ChipSpeed(
    chip=WORMHOLE,
    clock_hz=1.0e9,  # spec
    dram_bytes_s=288e9,  # spec: 6 channels at 12 GT/s
    reader_bytes_s=28e9,  # the vendor's table of bandwidth by page size, 2 KiB and more
    dram_latency_s=358e-9,  # the same table: first access, in cycles
    l1_latency_s=259e-9,  # the same
    link_bytes_s=12.5e9,  # npe: 100 Gb/s
    hop_s=0.8e-6,  # golden: 16 B in 0.79 to 0.89 us
    is_calibrated=True,
)
# A Galaxy's DRAM runs at 14 GT/s (DRAM). Its ops use 7x10 of the cores (tt-metal, llama3_70b_galaxy).
_GALAXY = replace(_WORMHOLE, chip=replace(WORMHOLE, grid=(7, 10)), dram_bytes_s=336e9)
# Blackhole has no published microbenchmark by page size. Its NoC is twice as wide (64 B a cycle, ISA), at 1.35 times
# the clock. Its latencies are taken to be Wormhole's in cycles, its hops Wormhole's in time.
_P150 = ChipSpeed(
    chip=P150,
    clock_hz=1.35e9,  # spec
    dram_bytes_s=512e9,  # spec: 8 GDDR6 chips at 16 GT/s
    reader_bytes_s=75.6e9,
    dram_latency_s=265e-9,
    l1_latency_s=192e-9,
    link_bytes_s=50e9,  # spec: an 800G port has two links of 400 Gb/s
    hop_s=0.8e-6,
    is_calibrated=False,
)
_P100 = replace(_P150, chip=P100, dram_bytes_s=448e9, link_bytes_s=0)  # spec

_LINKS = {
    "N150": {},
    "N300": dict(links=(1, 1)),  # ccl
    "N150x4": dict(links=(1, 1)),  # ccl
    "T3K": dict(links=(1, 1), ring=(False, True)),  # ccl; its 8 chips form a ring
    "TG": dict(links=(4, 4), ring=(True, True)),  # golden: the 6U machine
    "P100": {},
    "P150": {},
    "P150x4": dict(links=(2, 2), ring=(False, True)),  # ccl
}
_SPEEDS = {"TG": _GALAXY, "P100": _P100, "P150": _P150, "P150x4": _P150}
CARDS = {name: Card(name, _SPEEDS.get(name, _WORMHOLE), MESHES[name].shape, **links) for name, links in _LINKS.items()}
ALIASES = {"Galaxy": "TG"}


def card_of(mesh: str) -> Card:
    """The card of a mesh's name. Raises ValueError for a name that has none."""
    name = ALIASES.get(mesh, mesh)
    if name not in CARDS:
        raise ValueError(f"mesh {mesh!r} is not known; known are {', '.join([*CARDS, *ALIASES])}")
    return CARDS[name]
