"""Ops that fuse others."""

from dataclasses import replace

from ..call import TILE, Call, Operand
from ..card import Card
from ..work import Work
from .attention import heads_decode, update_cache
from .between_chips import all_reduce, collective, part
from .tiles import norm


def heads_of_a_sum(call: Call, card: Card) -> Work:
    """A sum over the devices of a line, then its split into heads."""
    return replace(all_reduce(replace(call, outputs=call.outputs[:1]), card), lines=heads_decode(call, card).lines)


def norm_over_devices(call: Call, card: Card) -> Work:
    """A sharded norm, between whose halves the devices of a line gather a tile of sums from each."""
    own, sums = norm(call, card), Operand((1, 1, TILE, TILE * call.settings["devices"]), "FLOAT32", place="L1")
    gathered = collective("norm", part)(replace(call, inputs=(sums,), outputs=(sums,)), card)
    return replace(
        own, wire_bytes=gathered.wire_bytes, hops=gathered.hops, ring=gathered.ring, fixed=own.fixed + gathered.fixed
    )


def update_both_caches(call: Call, card: Card) -> Work:
    """Keys and values at the same time, on different cores."""
    one = update_cache(call, card)
    return replace(one, dram_bytes=2 * one.dram_bytes)
