"""Cluster descriptors for the vendor's mock device, made from a mesh's name.

A descriptor lists the chips, the ethernet links between them, which chips have PCIe, which rows of
cores are harvested, and the boards. The vendor's runtime reads it from
`TT_METAL_MOCK_CLUSTER_DESC_PATH` and behaves as if this machine were present.
"""

from pathlib import Path
from typing import Sequence

import yaml

from models.common.chip import P100, P150, WORMHOLE, Chip

# One row of a Wormhole is harvested. Dispatch from a row of worker cores then leaves the 8x8 grid of a real N300 or
# T3K, which has two rows harvested and dispatches from ethernet cores. With ethernet dispatch, the mock's validation
# counts only 8x7. The masks of the Blackholes are those of tt-umd's examples (tests/cluster_descriptor_examples); its
# P150 have two columns harvested too.
_HARVESTING = {
    WORMHOLE: {"harvest_mask": 0b1, "dram_harvesting_mask": 0, "eth_harvesting_mask": 0, "pcie_harvesting_mask": 0},
    P150: {
        "harvest_mask": 0, "dram_harvesting_mask": 0, "eth_harvesting_mask": 288, "pcie_harvesting_mask": 2,
        "l2cpu_harvesting_mask": 0,
    },
    P100: {
        "harvest_mask": 192, "dram_harvesting_mask": 8, "eth_harvesting_mask": 16383, "pcie_harvesting_mask": 2,
        "l2cpu_harvesting_mask": 0,
    },
}  # fmt: skip

# Ethernet channels that join the two chips of an N300 board: (on the PCIe chip, on the other one).
_ON_BOARD = ((8, 0), (9, 1))

# The chips of a T3K, and its four boards as (PCIe chip, other chip):
#     4 - 0 - 2 - 6
#     |   |   |   |
#     5 - 1 - 3 - 7
_T3K_POSITIONS = ((1, 0), (1, 1), (2, 0), (2, 1), (0, 0), (0, 1), (3, 0), (3, 1))
_T3K_BOARDS = ((0, 4), (1, 5), (2, 6), (3, 7))
_T3K_BETWEEN_BOARDS = {
    (0, 2): ((6, 6), (7, 7)),
    (1, 3): ((0, 0), (1, 1)),
    (0, 1): ((14, 14), (15, 15)),
    (2, 3): ((14, 14), (15, 15)),
    (4, 5): ((6, 6), (7, 7)),
    (6, 7): ((6, 6), (7, 7)),
}

# Ethernet channels that join neighbours of a line of N150 boards: (on the left chip, on the right one).
_N150_LINE = ((14, 6), (15, 7))

# A P150x4 is a ring of four boards, each with four channels to two others.
_P150_RING = {(0, 2): range(4, 8), (0, 3): range(8, 12), (1, 3): range(4, 8), (1, 2): range(8, 12)}

# Bits 36 and up of a board's id encode its type.
_BOARD_TYPE_CODES = {"n150": 0x18, "n300": 0x14, "ubb": 0x35, "p100": 0x43, "p150": 0x41}

# A TG's 8x4 chips sit on four trays of 4x2, one per quarter of the grid. Here are the trays' first PCIe bus ids.
_TG_ROWS, _TG_COLS = 8, 4
_TG_TRAY_BUS_IDS = {("top", "left"): 0xC0, ("top", "right"): 0x00, ("bottom", "left"): 0x40, ("bottom", "right"): 0x80}
# Trays are mirrored. So a chip's channels are grouped by direction: to the middle of the grid, or away from it. The
# channels away from the middle join the first and the last chip of each row and column: without these links
# FABRIC_1D_RING does not open.
_TG_ROW_CHANNELS = {"to middle": (8, 9, 10, 11), "from middle": (4, 5, 6, 7)}
_TG_COL_CHANNELS = {"to middle": (12, 13, 14, 15), "from middle": (0, 1, 2, 3)}


def cluster_descriptor(mesh_name: str) -> dict:
    """Returns the descriptor of `mesh_name`, a name of `mesh_names.MESHES`, as plain data.

    Raises ValueError for any other name.
    """
    if mesh_name not in _BUILDERS:
        raise ValueError(f"No mock cluster for mesh {mesh_name!r}: known are {', '.join(_BUILDERS)}")
    return _BUILDERS[mesh_name]()


def write_cluster_descriptor(mesh_name: str, path: Path) -> None:
    """Writes the descriptor of `mesh_name` to `path` as YAML."""
    Path(path).write_text(yaml.safe_dump(cluster_descriptor(mesh_name), sort_keys=False))


def _n150() -> dict:
    return _describe(1, links={}, pcie_chips=[0], boards=[("n150", [0])], positions=[(0, 0)])


def _n150x4() -> dict:
    links = {(left, left + 1): _N150_LINE for left in range(3)}
    return _describe(4, links, pcie_chips=range(4), boards=[("n150", [number]) for number in range(4)])


def _n300() -> dict:
    return _describe(2, {(0, 1): _ON_BOARD}, pcie_chips=[0], boards=[("n300", [0, 1])], positions=[(0, 0), (1, 0)])


def _t3k() -> dict:
    links = {board: _ON_BOARD for board in _T3K_BOARDS} | _T3K_BETWEEN_BOARDS
    boards = [("n300", list(board)) for board in _T3K_BOARDS]
    return _describe(8, links, pcie_chips=[chip for chip, _ in _T3K_BOARDS], boards=boards, positions=_T3K_POSITIONS)


def _tg() -> dict:
    chips = list(range(_TG_ROWS * _TG_COLS))
    links = {}
    bus_ids = {}
    for chip in chips:
        row, col = divmod(chip, _TG_COLS)
        below, right = (row + 1) % _TG_ROWS * _TG_COLS + col, row * _TG_COLS + (col + 1) % _TG_COLS
        links[chip, below] = _tg_link(row, _TG_ROWS // 2, _TG_ROW_CHANNELS)
        links[chip, right] = _tg_link(col, _TG_COLS // 2, _TG_COL_CHANNELS)
        bus_ids[chip] = f"0x{_tg_bus_id(row, col):04x}"
    descriptor = _describe(len(chips), links, pcie_chips=chips, boards=[("ubb", chips)])
    return descriptor | {"chip_to_bus_id": bus_ids}


def _tg_link(position: int, middle: int, channels: dict) -> tuple:
    """The pairs of channels that link the chip at `position` of a row or column to the next one, the last to the first."""
    here = channels["to middle" if position < middle else "from middle"]
    there = channels["to middle" if middle <= position + 1 < 2 * middle else "from middle"]
    return tuple(zip(here, there))


def _tg_bus_id(row: int, col: int) -> int:
    """A chip's PCIe bus id: its tray's first id plus its place on the tray, counted from 1 at the grid's corner."""
    vertical = "top" if row < _TG_ROWS // 2 else "bottom"
    horizontal = "left" if col < _TG_COLS // 2 else "right"
    rows_from_edge = min(row, _TG_ROWS - 1 - row)
    cols_from_edge = min(col, _TG_COLS - 1 - col)
    place = 1 + rows_from_edge + cols_from_edge * _TG_ROWS // 2
    return _TG_TRAY_BUS_IDS[vertical, horizontal] + place


def _p100() -> dict:
    return _describe(1, links={}, pcie_chips=[0], boards=[("p100", [0])], kind=P100)


def _p150() -> dict:
    return _describe(1, links={}, pcie_chips=[0], boards=[("p150", [0])], kind=P150)


def _p150x4() -> dict:
    links = {chips: tuple(zip(channels, channels)) for chips, channels in _P150_RING.items()}
    boards = [("p150", [number]) for number in range(4)]
    return _describe(4, links, pcie_chips=range(4), boards=boards, kind=P150)


_BUILDERS = {
    "N150": _n150, "N300": _n300, "N150x4": _n150x4, "T3K": _t3k, "TG": _tg,
    "P100": _p100, "P150": _p150, "P150x4": _p150x4,
}  # fmt: skip


def _describe(
    chip_count: int, links: dict, pcie_chips: Sequence, boards: list, positions: Sequence = (), kind: Chip = WORMHOLE
) -> dict:
    """Writes chips, links `{(chip, chip): ((channel, channel), ...)}` and boards in the vendor's format.

    `positions` are those of chips relative to a chip with PCIe. Where every chip has PCIe, none is needed.
    """
    harvesting = {"noc_translation": True, **_HARVESTING[kind]}
    return {
        "arch": {chip: kind.arch for chip in range(chip_count)},
        "chips": {chip: [x, y, 0, 0] for chip, (x, y) in enumerate(positions)},
        "chip_unique_ids": {chip: chip + 1 for chip in range(chip_count)},
        "ethernet_connections": [
            [{"chip": a, "chan": chan_a}, {"chip": b, "chan": chan_b}]
            for (a, b), channels in links.items()
            for chan_a, chan_b in channels
        ],
        "ethernet_connections_to_remote_devices": [],
        "chips_with_mmio": [{chip: device} for device, chip in enumerate(pcie_chips)],
        "harvesting": {chip: dict(harvesting) for chip in range(chip_count)},
        "boards": [
            [{"board_id": (_BOARD_TYPE_CODES[board] << 36) + number}, {"board_type": board}, {"chips": chips}]
            for number, (board, chips) in enumerate(boards)
        ],
    }
