"""Attention of one query per user over cached positions."""

import numpy

from ..compiled import compiled
from .bf16 import fp32_of, halves, narrow, row_address, widen, words
from .functions import exp, fp32, larger
from .vectors import (
    FLOAT, FLOATS, INT64, LANES, emitted, halved, in_all_lanes, load, multiply_add, pointers, prefetch, repeat, store,
    times, widened,
)  # fmt: skip

_AHEAD = 2048  # bytes; most of the time the CPU waits for keys and values, and alone it asks for too few of them
_COLUMNS = 32  # of which `_add_rows` keeps the sums in registers


@emitted
def _score_rows(builder, rows, stride, values, query, scores, vectors, count):
    """scores[i] = the sum of query * row i of keys, over 16 * `vectors` columns, for `count` rows of bf16.

    `stride`: bytes of a row. query is fp32. Asks for the rows of `values` too, which are read next.
    """
    rows, values, query, scores = pointers(builder, rows, values, query, scores)

    def body(i, _):
        at = builder.mul(i, stride)
        row, value = builder.gep(rows, [at]), builder.gep(values, [at])

        def add(vector, totals):
            own = times(builder, vector, 2 * LANES)
            # Lines are asked for twice where a vector is half of one: still less than it costs to tell.
            prefetch(builder, row, builder.add(own, INT64(_AHEAD)), keep=True)
            prefetch(builder, value, own, keep=True)
            factor = load(builder, query, times(builder, vector, 4 * LANES), FLOATS, align=4)
            return [multiply_add(builder, factor, widened(builder, row, own), totals[0])]

        (total,) = repeat(builder, vectors, [fp32(0)], add)
        store(builder, halved(builder, total, builder.fadd), scores, times(builder, i, 4))
        return []

    repeat(builder, count, [], body)


@emitted
def _add_rows(builder, rows, stride, weights, total, count):
    """total[32] += the sum of weights[i] * row i over `count` rows of bf16, in their order; `stride`: bytes of a row."""
    rows, weights, total = pointers(builder, rows, weights, total)
    at = [(INT64(32 * half), INT64(64 * half)) for half in range(2)]

    def body(i, totals):
        weight = in_all_lanes(builder, load(builder, weights, times(builder, i, 4), FLOAT, align=4))
        row = builder.gep(rows, [builder.mul(i, stride)])
        return [multiply_add(builder, weight, widened(builder, row, own), sums) for (own, _), sums in zip(at, totals)]

    totals = repeat(builder, count, [load(builder, total, start, FLOATS, align=4) for _, start in at], body)
    for (_, start), sums in zip(at, totals):
        store(builder, sums, total, start)


@compiled()
def _add_weighted(rows, weights, total):
    """total[width] += weights[n] @ rows[n, width], each sum in the order of the rows."""
    count, width = rows.shape
    whole = width // _COLUMNS * _COLUMNS
    for start in range(0, whole, _COLUMNS):
        first, sums = rows.ctypes.data + 2 * start, total.ctypes.data + 4 * start
        _add_rows(first, 2 * width, weights.ctypes.data, sums, count)
    for i in range(count):
        for column in range(whole, width):
            total[column] += weights[i] * widen(rows[i, column])


@emitted
def _softmax(builder, scores, vectors):
    """In place, of 16 * `vectors` fp32."""
    (scores,) = pointers(builder, scores)

    def at(vector):
        return times(builder, vector, 4 * LANES)

    def find(vector, found):
        return [larger(builder, found[0], load(builder, scores, at(vector), FLOATS, align=4))]

    (largest,) = repeat(builder, vectors, [fp32(float("-inf"))], find)
    largest = in_all_lanes(builder, halved(builder, largest, lambda a, b: larger(builder, a, b)))

    def weigh(vector, totals):
        weight = exp(builder, builder.fsub(load(builder, scores, at(vector), FLOATS, align=4), largest))
        store(builder, weight, scores, at(vector))
        return [builder.fadd(totals[0], weight)]

    (total,) = repeat(builder, vectors, [fp32(0)], weigh)
    total = in_all_lanes(builder, halved(builder, total, builder.fadd))

    def divide(vector, _):
        weight = load(builder, scores, at(vector), FLOATS, align=4)
        store(builder, builder.fdiv(weight, total), scores, at(vector))
        return []

    repeat(builder, vectors, [], divide)


@compiled()
def longest(pages, users, pages_each, positions, window, page_size, n_pages):
    """The number of positions that `attend` would read of the user with most of them, and -1; or any number and the first
    user that it cannot read: one whose position is not in its pages, or is below -1, or whose page a cache of `n_pages`
    lacks. pages and positions are addresses, as for `attend`."""
    pages, positions = words(pages, (users, pages_each)), words(positions, users)
    most = 0
    for user in range(users):
        count = positions[user] + 1
        if not 0 <= count <= pages_each * page_size:
            return most, user
        for index in range(max(0, count - window) // page_size, (count + page_size - 1) // page_size):
            if not 0 <= pages[user, index] < n_pages:
                return most, user
        most = max(most, count)
    return most, -1


@compiled()
def attend(
    start, stop, queries, attended, kv_heads, group, width, keys, values, stored, shared, page_size, pages, pages_each,
    positions, window, scale, most,
):  # fmt: skip
    """softmax(q k^T * scale) v for one query per user and head, over that user's cached positions, of which `most` is the
    largest number.

    Addresses: queries and attended, bf16 `[users * kv_heads, group, width]`, of which entries from `start` to below `stop`
    are taken; keys and values, bf16 `[rows, stored, width]`, of which an entry reads the row of its kv head if they are
    `shared`, else its own; pages, int32 `[users, pages_each]`; and positions, int32 `[users]`. A user's position p is
    stored at `pages[user, p // page_size] * page_size + p % page_size`. A user attends to its last `window` positions up
    to its own. A user with position -1 gets zeros. scale is the bit pattern of an fp32.
    """
    queries, attended = halves(queries, (stop, group, width)), halves(attended, (stop, group, width))
    users, rows = (stop + kv_heads - 1) // kv_heads, kv_heads if shared else stop
    keys, values = halves(keys, (rows, stored, width)), halves(values, (rows, stored, width))
    pages, positions = words(pages, (users, pages_each)), words(positions, users)
    scale, row_bytes, vectors = fp32_of(scale), 2 * width, width // LANES
    query = numpy.empty((group, width), numpy.float32)
    total = numpy.empty((group, width), numpy.float32)
    scores = numpy.empty((group, (most + LANES - 1) // LANES * LANES), numpy.float32)
    for i in range(start, stop):
        user, row = i // kv_heads, i % kv_heads if shared else i
        count = positions[user] + 1
        first = max(0, count - window)
        n = count - first
        total[:] = 0
        for member in range(group):
            for j in range(width):
                query[member, j] = widen(queries[i, member, j]) * scale
        # Page by page, because a division for each position would take as long as its dot product.
        for page in range(first // page_size, (count + page_size - 1) // page_size):
            begin, end = max(first, page * page_size), min(count, (page + 1) * page_size)
            place = (pages[user, page] - page) * page_size + begin
            keys_at, values_at = row_address(keys, row, place), row_address(values, row, place)
            for member in range(group):
                own = scores[member, begin - first : end - first]
                if vectors:
                    query_at = row_address(query, member, 0)
                    _score_rows(keys_at, row_bytes, values_at, query_at, own.ctypes.data, vectors, own.size)
                else:
                    own[:] = 0
                for j in range(vectors * LANES, width):
                    for position in range(own.size):
                        own[position] += query[member, j] * widen(keys[row, place + position, j])
        for member in range(group if n else 0):
            scores[member, n:] = -numpy.inf
            _softmax(row_address(scores, member, 0), (n + LANES - 1) // LANES)
        for page in range(first // page_size, (count + page_size - 1) // page_size):
            shift = (pages[user, page] - page) * page_size
            begin, end = max(first, page * page_size), min(count, (page + 1) * page_size)
            for member in range(group):
                some = values[row, shift + begin : shift + end]
                _add_weighted(some, scores[member, begin - first : end - first], total[member])
        for member in range(group):
            for j in range(width):
                attended[i, member, j] = narrow(total[member, j])
