"""Matmuls, by how their program config divides them over the cores."""

import math
from collections.abc import Callable
from dataclasses import replace

from ..call import TILE, Call
from ..card import Card
from ..work import PRODUCT_FLOPS, Work, dram_bytes_of, passes_of


def matmul(call: Call, card: Card) -> Work:
    """settings["program"] says how it is divided: dram_sharded, prefetched, mcast_2d, mcast_1d, height_sharded, reuse or
    minimal. See `MATMULS`."""
    a, b = call.inputs[:2]
    k, n = -(-b.shape[-2] // TILE), -(-b.shape[-1] // TILE)
    m = -(-a.rows // TILE)
    return replace(MATMULS[call.settings["program"]](call, card, m, k, n), flops=PRODUCT_FLOPS * m * k * n)


def _dram_sharded(call, card, m, k, n):
    """Each core beside a bank computes the columns that its bank holds, while it reads them."""
    banks = call.inputs[1].shards or card.speed.chip.dram_banks
    return Work(
        "matmul, DRAM-sharded", products=m * k * math.ceil(n / banks), passes=passes_of(call), streamed=True,
        dram_bytes=dram_bytes_of(*call.inputs), banked=True, fixed=(("matmul_start", 1),),
    )  # fmt: skip


def _prefetched(call, card, m, k, n):
    """The weight is in L1 before the op starts (the Galaxy's prefetcher), spread over a ring of cores."""
    return Work(
        "matmul, prefetched", products=m * k * math.ceil(n / call.cores), passes=passes_of(call), streamed=True,
        fixed=(("matmul_start", 1),),
    )  # fmt: skip


def _mcast_2d(call, card, m, k, n):
    """Rows of tiles over the grid's rows, columns over its columns. One core of each row and column reads for the others.

    A batch that is not fused into the rows runs one after the other, and reads the weight again each time.
    """
    x, y = call.settings["grid"]
    batch = call.settings.get("batch", 1)
    m_core, n_core = math.ceil(m / batch / y), math.ceil(n / x)
    a, b, *_ = call.inputs
    return Work(
        "matmul, 2D", products=batch * m_core * k * n_core, passes=passes_of(call),
        dram_bytes=dram_bytes_of(a, *call.outputs) + batch * dram_bytes_of(b), readers=x, fixed=(("matmul_start", 1),),
    )  # fmt: skip


def _mcast_1d(call, card, m, k, n):
    """Every core reads its own columns of the weight; the activations are multicast."""
    cores = call.cores or min(n, card.speed.cores)
    n_core = math.ceil(n / cores)
    return Work(
        "matmul, 1D", products=m * k * n_core, passes=passes_of(call), dram_bytes=dram_bytes_of(*call.inputs, *call.outputs),
        dram_pages=k * n_core, dram_page_bytes=call.inputs[1].page_bytes, fixed=(("matmul_start", 1),),
    )  # fmt: skip


def _height_sharded(call, card, m, k, n):
    """Every core has its own rows; one core reads the weight tile by tile and multicasts it, without overlap."""
    return Work(
        "matmul, height-sharded", products=math.ceil(m / call.cores) * k * n, passes=passes_of(call), dram_bytes=dram_bytes_of(*call.inputs),
        fixed=(("matmul_start", 1), ("multicast_tile", k * n)),
    )  # fmt: skip


def _reuse(call, card, m, k, n):
    """Small matrices, one after the other: each core waits for every tile it reads."""
    batch = math.prod(call.inputs[0].shape[:-2])
    outputs = math.ceil(m * n / call.cores)
    tiles = (m // batch * k + k * n) * batch / call.cores
    return Work(
        "matmul, batched", products=outputs * k, passes=passes_of(call), dram_bytes=dram_bytes_of(*call.inputs, *call.outputs),
        dram_pages=tiles, dram_page_bytes=call.inputs[0].page_bytes, fixed=(("matmul_start", 1),),
    )  # fmt: skip


def _minimal(call, card, m, k, n):
    """As `_mcast_2d`, but its readers wait for every tile: one column of readers for the weight."""
    x, y = call.settings["grid"]
    n_core = math.ceil(n / x)
    return Work(
        "matmul, minimal", products=math.ceil(m / y) * k * n_core, passes=passes_of(call), dram_bytes=dram_bytes_of(*call.inputs, *call.outputs),
        dram_pages=k * n_core / 2, dram_page_bytes=call.inputs[1].page_bytes, fixed=(("matmul_start", 1),),
    )  # fmt: skip


MATMULS: dict[str, Callable] = {
    "dram_sharded": _dram_sharded, "prefetched": _prefetched, "mcast_2d": _mcast_2d, "mcast_1d": _mcast_1d,
    "height_sharded": _height_sharded, "reuse": _reuse, "minimal": _minimal,
}  # fmt: skip
