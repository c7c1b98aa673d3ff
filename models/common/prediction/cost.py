"""The time of an op's work on a card: the largest of compute, DRAM, NoC and ethernet, and a fixed start-up.

    time = fixed + max(compute, pages that a core waits for, DRAM) + ethernet

`Rates` has the constants that were fitted to measured ops; the facts of a card are in `card.py`. A rate is physical: an
overhead in cycles, a share of a peak that kernels reach, or a fixed time of a kind of kernel. None belongs to a model.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from .call import Call
from .card import PRODUCT_CYCLES, Card
from .rules import work_of
from .work import Work

US = 1e-6


@dataclass(frozen=True)
class Rates:
    """Constants of kernels. Times in seconds on Wormhole's clock; cycles are of any chip's clock."""

    # Cycles of a product beside its multiplications: unpacking operands, changing blocks.
    # 4096^3 bf16 HiFi2 takes 61 cycles a product, of which 32 multiply; 2048^3 bfp8 LoFi 38, of which 16 (GEMM_FLOPS);
    # M 13,664 on a Galaxy 55 to 63.
    product_overhead: float = 26
    # The same where one operand streams past the other: the Galaxy's ring matmuls (galaxy_decode_ops.csv).
    streamed_overhead: float = 8
    # Cycles of a pass of one tile through the vector unit: unpack, compute, pack.
    vector_cycles: float = 150
    # Seconds of a line of 32 bytes among many in flight.
    line: float = 0.05 * US
    # Share of DRAM's peak: banks read by the core beside them; pages over all banks in turn (the vendor's 190 GB/s of 288
    # over one NoC).
    banked_share: float = 0.83
    interleaved_share: float = 0.66
    # Share of the vendor's rate of one reader that reads for others and multicasts.
    reader_share: float = 0.5
    # Share of a link's peak in one direction, on a line and around a ring (golden: unicast 8.0 to 11.8 of 12.5 GB/s by
    # packet size, multicast around a ring 5.8).
    link_share: float = 0.65
    ring_share: float = 0.46
    # Seconds a hop costs a collective, beside the wire's latency: its buffers are handed over by software.
    hop: float = 0.3 * US
    op_start: float = 1.5 * US
    matmul_start: float = 1.5 * US
    collective_start: float = 3.7 * US
    sharded_norm: float = 7 * US
    decode_attention: float = 5 * US
    # Softmax of one tile of scores, and the joining of its block with the others: in a prompt, and for the 32 keys of a
    # decode step, whose blocks are small.
    score_tile: float = 0.7 * US
    key_tile: float = 2.1 * US
    multicast_tile: float = 0.137 * US
    # A tile filled with an op's scalar; erf of a tile, a polynomial (wormhole_op_times.csv, as `op_start` and `line`).
    scalar_tile: float = 3.6 * US
    erf_tile: float = 3.6 * US
    untilize_tile: float = 0.39 * US  # the vendor's table
    topk_tile: float = 0.57 * US
    argmax_number: float = 10e-9
    sampling: float = 67 * US


RATES = Rates()


@dataclass(frozen=True)
class Time:
    """Predicted seconds of an op call.

    Attributes:
        seconds: of the kernel, without the gap to the next op.
        bound: what takes most of it: compute, DRAM, ethernet, or latency (start-up, waiting for pages).
        ideal: seconds that the largest of compute, DRAM and ethernet would take at the card's peak.
    """

    seconds: float
    bound: str
    ideal: float

    @property
    def share(self) -> float:
        """How much of its bound the op reaches, 0 to 1."""
        return self.ideal / self.seconds


def time_of(work: Work, card: Card, rates: Rates = RATES) -> Time:
    """Predicted time of an op's work on one device of a card."""
    chip = card.speed
    cycle = 1 / chip.clock_hz
    overhead = rates.streamed_overhead if work.streamed else rates.product_overhead
    compute = (work.products * (PRODUCT_CYCLES * work.passes + overhead) + work.vector * rates.vector_cycles) * cycle
    if work.paced is not None:
        compute += getattr(rates, work.paced[0]) * work.paced[1]
    waiting = (
        work.dram_pages * chip.dram_latency_s
        + work.dram_pages * work.dram_page_bytes / chip.reader_bytes_s
        + work.l1_pages * chip.l1_latency_s
        + work.l1_pages * work.l1_page_bytes / chip.reader_bytes_s
        + work.lines * rates.line
    )
    rate = chip.dram_bytes_s * (rates.banked_share if work.banked else rates.interleaved_share)
    if work.readers is not None:
        rate = min(rate, work.readers * chip.reader_bytes_s * rates.reader_share)
    dram = work.dram_bytes / rate
    link = chip.link_bytes_s * (rates.ring_share if work.ring else rates.link_share)
    wire = work.hops * (chip.hop_s + rates.hop) + (work.wire_bytes / link if work.wire_bytes else 0)
    fixed = sum(getattr(rates, name) * count for name, count in work.fixed)
    seconds = fixed + max(compute, waiting, dram) + wire
    parts = {"compute": compute, "DRAM": dram, "ethernet": wire, "latency": fixed + waiting}
    ideals = (
        work.products * PRODUCT_CYCLES * work.passes * cycle,
        work.dram_bytes / chip.dram_bytes_s,
        work.wire_bytes / chip.link_bytes_s if work.wire_bytes else 0,
    )
    return Time(seconds, max(parts, key=parts.get), max(ideals))


def times(calls: Iterable[Call], card: Card, rates: Rates = RATES) -> list[Time]:
    """Predicted times of calls. Raises ValueError for an op without a cost."""
    return [time_of(work_of(call, card), card, rates) for call in calls]
