"""Collectives."""

from collections.abc import Callable

from ..call import Call
from ..card import Card
from ..work import Work, dram_bytes_of


def collective(kind: str, rounds: Callable[[float, int], float]):
    """settings: "devices" on the line, and "axis" of the mesh that it is on."""

    def rule(call: Call, card: Card) -> Work:
        devices, axis = call.settings["devices"], call.settings["axis"]
        whole = max(tensor.bytes for tensor in (*call.inputs[:1], *call.outputs))
        # Around a ring of all chips of the axis, half of the data goes each way.
        ring = call.settings.get("ring", card.ring[axis] and devices == card.shape[axis]) and devices > 2
        wire = rounds(whole, devices) / card.links[axis] / (2 if ring else 1)
        local = dram_bytes_of(*call.inputs[:1], *call.outputs)
        return Work(
            kind, wire_bytes=wire, hops=devices - 1, ring=ring, dram_bytes=local, fixed=(("collective_start", 1),)
        )

    return rule


def part(whole, devices):
    """Each device sends or passes on all parts but one."""
    return whole * (devices - 1) / devices


all_reduce = collective("collective", lambda whole, devices: 2 * part(whole, devices))
