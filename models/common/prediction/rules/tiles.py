"""Ops on tiles: elementwise, norms, tables, layouts, moves."""

import math
from collections.abc import Callable
from dataclasses import replace

from ..call import TILE, Call
from ..card import Card
from ..work import Work, cores_of, dram_bytes_of

# A tile has 64 lines of 32 bytes (16 numbers of bf16): ops that move rows within tiles address each of them.
LINES_A_ROW = 2

# Passes of a tile through the vector unit that an activation adds to the op's own. ERF has a rate, `erf_tile`.
ACTIVATIONS = {"RELU": 1, "SILU": 3, "SIGMOID": 3, "TANH": 3, "EXP": 4, "GELU": 16, "ERF": 0}


def tilewise(kind: str, passes: float = 1):
    """Each core takes its share of the tiles: reads, computes, writes one after the other where pages are interleaved."""

    def rule(call: Call, card: Card) -> Work:
        inputs = [x for index, x in enumerate(call.inputs) if x is not None and (index == 0 or x.tiles > 1)]
        largest = max(
            [*call.outputs, *inputs], key=lambda x: x.tiles
        )  # of equals, the output: its shards say the cores
        share = math.ceil(largest.tiles / (call.cores or cores_of(largest, card)))
        activation = call.settings.get("activation")
        fixed = [("op_start", 1)] + [("scalar_tile", 1)] * bool(call.settings.get("scalar"))
        return Work(
            kind, vector=share * (passes + _passes_of_activation(activation)), paced=("erf_tile", share) if activation == "ERF" else None,
            dram_pages=_pages("DRAM", inputs, call.outputs, share), dram_page_bytes=largest.page_bytes,
            l1_pages=_pages("L1", inputs, call.outputs, share), l1_page_bytes=largest.page_bytes,
            dram_bytes=dram_bytes_of(*inputs, *call.outputs), fixed=tuple(fixed),
        )  # fmt: skip

    return rule


def _passes_of_activation(name: str | None) -> float:
    if name is not None and name not in ACTIVATIONS:
        raise ValueError(f"no cost is known for the activation {name}; known are {', '.join(ACTIVATIONS)}")
    return 0 if name is None else ACTIVATIONS[name]


def _pages(place: str, inputs, outputs, share: int) -> int:
    """Pages in a memory that a core waits for, one after the other; a shard in its own L1 is no page.

    All inputs' pages of a tile are asked for together and cost one latency. Only the last write is waited for.
    """
    reads, writes = (
        any(x.place == place and (x.in_dram or x.shards is None) for x in group) for group in (inputs, outputs)
    )
    return (share if reads or writes else 0) + writes


def only(operands: Callable[[Call], tuple], rule):
    """`rule` for an op that reads no more of its inputs than these operands have, such as a slice."""

    def of_part(call: Call, card: Card) -> Work:
        part = operands(call)
        return rule(replace(call, inputs=part, outputs=part), card)

    return of_part


def norm(call: Call, card: Card) -> Work:
    """Sharded: each core reduces its columns, and sums go around the cores. Interleaved: a core takes whole rows of tiles,
    and reads them and the weight tile by tile."""
    x = call.inputs[0]
    width, rows = -(-x.shape[-1] // TILE), -(-x.rows // TILE)
    if x.shards:
        return Work("norm", vector=3 * math.ceil(width / x.shards), fixed=(("op_start", 1), ("sharded_norm", 1)))
    cores = call.cores or min(rows, card.speed.cores)
    weights = [weight for weight in call.inputs[1:] if weight is not None]
    share = math.ceil(rows / cores) * width
    pages = share + len(weights) * width
    return Work(
        "norm", vector=3 * share, dram_pages=pages if x.in_dram else 0, dram_page_bytes=x.page_bytes,
        l1_pages=0 if x.in_dram else pages, l1_page_bytes=x.page_bytes,
        dram_bytes=dram_bytes_of(x, *call.outputs), fixed=(("op_start", 1),),
    )  # fmt: skip


def softmax(call: Call, card: Card) -> Work:
    x = call.inputs[0]
    share = math.ceil(x.tiles / (call.cores or cores_of(x, card)))
    return Work(
        "softmax", vector=24 * share, dram_pages=3 * share, dram_page_bytes=x.page_bytes, dram_bytes=dram_bytes_of(x, *call.outputs),
        fixed=(("op_start", 1),),
    )  # fmt: skip


def embedding(call: Call, card: Card) -> Work:
    """Each core reads its rows of the table one after the other and writes them. 32 rows go to one core if the result
    is tiled."""
    indices, table = call.inputs[:2]
    output = call.outputs[0]
    rows = math.prod((indices.logical or indices.shape))
    cores = call.cores or min(math.ceil(rows / TILE), card.speed.cores)
    share = math.ceil(rows / cores)
    row_bytes = table.shape[-1] * 2
    return Work(
        "embedding", dram_pages=share * (1 if output.tiled else 2), dram_page_bytes=row_bytes,
        vector=0 if not output.tiled else share / TILE * table.shape[-1] / TILE,
        dram_bytes=rows * row_bytes + dram_bytes_of(output), fixed=(("op_start", 1),),
    )  # fmt: skip


def tilize(call: Call, card: Card) -> Work:
    """Each core reads its part of every row, one after the other."""
    x, output = call.inputs[0], call.outputs[0]
    cores = call.cores or cores_of(output, card)
    share = math.ceil(output.tiles / cores)
    rows = min(TILE, (x.logical or x.shape)[-2])
    return Work(
        "layout", dram_pages=rows * math.ceil(share / max(1, output.shape[-1] // TILE)) + share, dram_page_bytes=64 * share,
        vector=share, dram_bytes=dram_bytes_of(x, output), fixed=(("op_start", 1),),
    )  # fmt: skip


def untilize(call: Call, card: Card) -> Work:
    """A row of tiles goes to one core, at the rate that the vendor measured."""
    x = call.inputs[0]
    rows = -(-x.rows // TILE)
    share = math.ceil(rows / min(rows, card.speed.cores)) * (x.shape[-1] // TILE)
    return Work("layout", dram_bytes=dram_bytes_of(x, *call.outputs), fixed=(("op_start", 1), ("untilize_tile", share)))


def rows_moved(kind: str, waits: bool):
    """Rows within tiles change place: every line of 32 bytes is moved by itself. `waits`: one after the other."""

    def rule(call: Call, card: Card) -> Work:
        output = call.outputs[0]
        shape = output.logical or output.shape
        cores = call.cores or cores_of(output, card)
        share = math.ceil(output.tiles / cores)
        lines = share * LINES_A_ROW * min(TILE, shape[-2])
        place = (
            dict(dram_pages=lines, dram_page_bytes=32)
            if waits
            else dict(lines=lines, dram_pages=2 * share, dram_page_bytes=output.page_bytes)
        )
        return Work(kind, dram_bytes=dram_bytes_of(*call.inputs, *call.outputs), fixed=(("op_start", 1),), **place)

    return rule


def transpose(call: Call, card: Card) -> Work:
    rule = tilewise("transpose") if call.settings["dims"] == "WH" else rows_moved("transpose", waits=False)
    return rule(call, card)
