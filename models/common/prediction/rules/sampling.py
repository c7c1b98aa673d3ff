"""Sampling on the device."""

from ..call import Call
from ..card import Card
from ..work import Work, dram_bytes_of


def topk(call: Call, card: Card) -> Work:
    return Work(
        "sampling", dram_bytes=dram_bytes_of(*call.inputs), fixed=(("op_start", 1), ("topk_tile", call.inputs[0].tiles))
    )


def argmax(call: Call, card: Card) -> Work:
    """Scalar code compares number by number; the cores share a row's pages."""
    x = call.inputs[0]
    numbers = x.rows * x.shape[-1] / card.speed.cores
    return Work("sampling", dram_bytes=dram_bytes_of(x), fixed=(("op_start", 1), ("argmax_number", numbers)))


def sampling(call: Call, card: Card) -> Work:
    return Work("sampling", fixed=(("sampling", 1),))
