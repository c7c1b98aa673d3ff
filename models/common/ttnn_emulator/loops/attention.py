"""Attention of one query per user over cached positions."""

import math

import numpy

from ..compiled import compiled
from .bf16 import SUMS, halves, narrow, row_address, widen, words
from .vectors import (
    FLOAT, FLOATS, INT64, emitted, in_all_lanes, load, multiply_add, pointers, prefetch, repeat, store, times, widened,
)  # fmt: skip

_float = numpy.float32
_AHEAD = 2048  # bytes; most of the time the CPU waits for keys and values, and alone it asks for too few of them
_COLUMNS = 32  # of which `_add_rows` keeps the sums in registers


@compiled(fastmath=SUMS)
def _dot(queries, row):
    """sum(queries * row), where queries are fp32 and row holds bf16 patterns."""
    total = _float(0)
    for i in range(row.size):
        total += queries[i] * widen(row[i])
    return total


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
def _prefetch_row(builder, row, lines):
    """Asks for `lines` cache lines from an address on."""
    (row,) = pointers(builder, row)

    def body(line, _):
        prefetch(builder, row, times(builder, line, 64), keep=True)
        return []

    repeat(builder, lines, [], body)


@compiled(fastmath=SUMS)
def _softmax(scores):
    """In place."""
    largest = _float(-numpy.inf)
    for i in range(scores.size):
        largest = max(largest, scores[i])
    total = _float(0)
    for i in range(scores.size):
        scores[i] = math.exp(_float(scores[i] - largest))
        total += scores[i]
    for i in range(scores.size):
        scores[i] /= total


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
    to its own. A user with position -1 gets zeros.
    """
    queries, attended = halves(queries, (stop, group, width)), halves(attended, (stop, group, width))
    users, rows = (stop + kv_heads - 1) // kv_heads, kv_heads if shared else stop
    keys, values = halves(keys, (rows, stored, width)), halves(values, (rows, stored, width))
    pages, positions = words(pages, (users, pages_each)), words(positions, users)
    scale = _float(scale)
    lines = (2 * width + 63) // 64
    query = numpy.empty((group, width), numpy.float32)
    total = numpy.empty((group, width), numpy.float32)
    scores = numpy.empty((group, most), numpy.float32)
    for i in range(start, stop):
        user, row = i // kv_heads, i % kv_heads if shared else i
        count = positions[user] + 1
        first = max(0, count - window)
        for member in range(group):
            for j in range(width):
                query[member, j] = widen(queries[i, member, j]) * scale
        # Page by page, because a division for each position would take as long as its dot product.
        for page in range(first // page_size, (count + page_size - 1) // page_size):
            shift = (pages[user, page] - page) * page_size
            for position in range(max(first, page * page_size), min(count, (page + 1) * page_size)):
                _prefetch_row(row_address(keys, row, shift + position) + _AHEAD, lines)
                _prefetch_row(row_address(values, row, shift + position), lines)
                for member in range(group):
                    scores[member, position - first] = _dot(query[member], keys[row, shift + position])
        total[:] = 0
        for member in range(group):
            _softmax(scores[member, : count - first])
        for page in range(first // page_size, (count + page_size - 1) // page_size):
            shift = (pages[user, page] - page) * page_size
            begin, end = max(first, page * page_size), min(count, (page + 1) * page_size)
            for member in range(group):
                some = values[row, shift + begin : shift + end]
                _add_weighted(some, scores[member, begin - first : end - first], total[member])
        for member in range(group):
            for j in range(width):
                attended[i, member, j] = narrow(total[member, j])
