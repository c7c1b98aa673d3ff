"""Attention: rotation, caches, heads, scores."""

import math

from ..call import TILE, Call
from ..card import Card
from ..work import PRODUCT_FLOPS, Work, dram_bytes_of, passes_of
from .tiles import LINES_A_ROW

# Cores of a user's head in a decode's attention at most: the vendor's default, max_cores_per_head_batch.
MAX_CORES_A_HEAD = 16


def rotary(call: Call, card: Card) -> Work:
    """A product with the 32x32 matrix, two multiplications and a sum for each tile."""
    x = call.inputs[0]
    cores = x.shards or min(-(-x.shape[-2] // TILE) * (1 if x.shape[0] == 1 else x.shape[0]), card.speed.cores)
    share = math.ceil(x.tiles / cores)
    return Work(
        "rotary", products=share, vector=2 * share, dram_pages=2 * share if x.in_dram else 0, dram_page_bytes=x.page_bytes,
        dram_bytes=dram_bytes_of(*call.inputs[:1], *call.outputs), fixed=(("op_start", 1),),
    )  # fmt: skip


def update_cache(call: Call, card: Card) -> Work:
    """A user's core reads the tiles that hold its position, changes a row and writes them back."""
    update = call.inputs[1]
    tiles = math.ceil(update.tiles / (update.shards or 1)) * (update.logical or update.shape)[-2]
    return Work(
        "KV cache", vector=2 * tiles, dram_pages=2, dram_page_bytes=tiles * call.inputs[0].page_bytes,
        dram_bytes=2 * tiles * call.inputs[0].page_bytes * (update.shards or 1), fixed=(("op_start", 1),),
    )  # fmt: skip


def sdpa_decode(call: Call, card: Card) -> Work:
    """The keys of a head are split over at most 16 cores; each core works through its share, then one joins the parts.

    settings["context"]: tokens that each user attends to, on average.
    """
    q, keys = call.inputs[:2]
    users, kv_heads, head_tiles = q.shape[1], keys.shape[1], -(-keys.shape[-1] // TILE)
    context = call.settings["context"]
    heads_in_turn = math.ceil(users * kv_heads / card.speed.cores)
    cores_a_head = max(1, min(MAX_CORES_A_HEAD, card.speed.cores // (users * kv_heads)))
    key_tiles = math.ceil(context / TILE / cores_a_head) * heads_in_turn
    cached = users * kv_heads * context * head_tiles * (keys.page_bytes / TILE) * 2
    return Work(
        "attention, decode", flops=PRODUCT_FLOPS * users * kv_heads * math.ceil(context / TILE) * 2 * head_tiles,
        products=2 * head_tiles * key_tiles, passes=passes_of(call), dram_bytes=cached,
        paced=("key_tile", key_tiles), fixed=(("op_start", 1), ("decode_attention", 1)),
    )  # fmt: skip


def sdpa(call: Call, card: Card) -> Work:
    """Tiles of scores are split over all cores; each costs two products per tile of the head, and a softmax.

    settings["start"]: the position of the first query. A causal prompt has half of the tiles of its own keys.
    """
    q, keys = call.inputs[:2]
    batch, heads, head_tiles = q.shape[0], q.shape[1], -(-q.shape[-1] // TILE)
    queries, before = q.shape[-2] / TILE, call.settings.get("start", 0) / TILE
    window = call.settings.get("window")
    keys_a_query = before + (queries + 1) / 2 if window is None else min(before + (queries + 1) / 2, window / TILE)
    blocks = batch * heads * math.ceil(q.shape[-2] / call.settings.get("chunk", 128))
    tiles = batch * heads * queries * keys_a_query
    cached = 2 * batch * keys.shape[1] * min(before + queries, 2 * keys_a_query) * head_tiles * keys.page_bytes
    share = tiles / min(blocks, card.speed.cores)
    return Work(
        "attention, prefill", flops=PRODUCT_FLOPS * tiles * 2 * head_tiles, products=2 * head_tiles * share, passes=passes_of(call),
        dram_bytes=dram_bytes_of(q, *call.outputs) + cached, paced=("score_tile", share), fixed=(("op_start", 1),),
    )  # fmt: skip


def heads_decode(call: Call, card: Card) -> Work:
    """A user's core collects the lines of its row, for each head."""
    tensor = max(call.inputs[:1] + call.outputs, key=lambda t: t.shape[-1])
    lines = LINES_A_ROW * tensor.shape[-1] / TILE
    return Work("heads", lines=lines, fixed=(("op_start", 1),))
