"""Norms, rotation, sums and copies of rows of bf16."""

import math

import numpy
from llvmlite import ir

from ..compiled import compiled
from ..dtypes import TILE_SIZE
from .bf16 import SUMS, narrow, narrow_row, widen, widen_row
from .vectors import FLOATS, INTS, LANES, copy_rows, emitted, load, pointers, repeat, store_narrowed, times, widened

_float = numpy.float32
_SUMMED_AT_ONCE = 1024  # elements, few enough that their sums stay in the CPU's cache


@compiled(fastmath=SUMS)
def rms_norm(values, normalised, weight, epsilon):
    """x / sqrt(mean(x^2) + epsilon) * weight for each row of `values` `[rows, width]`; weight is `[width]`."""
    rows, width = values.shape
    epsilon = _float(epsilon)
    for row in range(rows):
        squares = _float(0)
        for i in range(width):
            value = widen(values[row, i])
            squares += value * value
        scale = _float(1) / _float(math.sqrt(squares / _float(width) + epsilon))
        for i in range(width):
            normalised[row, i] = narrow(_float(widen(values[row, i]) * scale) * widen(weight[i]))


@compiled()
def _add_turned(turned, values, sources, entries):
    for i in range(turned.size):
        turned[i] += values[sources[i]] * entries[i]


@emitted
def _rotate_pairs(builder, row, cos, sin, entries, rotated, vectors):
    """x * cos + y * entries * sin for 16 * `vectors` columns, where y is x with the columns of each pair exchanged.

    row, cos, sin and rotated are bf16, entries fp32.
    """
    row, cos, sin, entries, rotated = pointers(builder, row, cos, sin, entries, rotated)
    exchanged = ir.Constant(INTS, [lane ^ 1 for lane in range(LANES)])

    def body(vector, _):
        at = times(builder, vector, 2 * LANES)
        x = widened(builder, row, at)
        turned = builder.shuffle_vector(x, ir.Constant(FLOATS, ir.Undefined), exchanged)
        turned = builder.fmul(turned, load(builder, entries, times(builder, vector, 4 * LANES), FLOATS, align=4))
        turned = builder.fmul(turned, widened(builder, sin, at))
        store_narrowed(builder, builder.fadd(builder.fmul(x, widened(builder, cos, at)), turned), rotated, at)
        return []

    repeat(builder, vectors, [], body)


@compiled()
def _address(array, b, row):
    """Of array[b, row]: a view would take as long as rotating a row."""
    return array.ctypes.data + b * array.strides[0] + row * array.strides[1]


@compiled()
def _combine(values, cos, turned, sin, rotated):
    for i in range(values.size):
        rotated[i] = narrow(values[i] * widen(cos[i]) + turned[i] * widen(sin[i]))


@compiled()
def rotate(values, rotated, cos, sin, matrices):
    """x * cos + (x @ matrix) * sin, where the matrix acts on each 32 columns of x.

    values and rotated are `[B, rows, width]`, cos and sin `[1 or B, 1 or at least rows, width]`, matrices
    `[1 or B, 32, 32]`. The matrix of a rotation has one nonzero entry per column. So the matrices are read in passes:
    pass i takes the i-th nonzero entry of every column and the index of its source, mostly the column's neighbour.
    """
    batch, rows, width = values.shape
    sources = numpy.zeros((TILE_SIZE, width), numpy.uint32)
    entries = numpy.zeros((TILE_SIZE, width), numpy.float32)
    value = numpy.empty(width, numpy.float32)
    turned = numpy.empty(width, numpy.float32)
    depth, pairs, first_entries = 0, False, entries.ctypes.data
    for b in range(batch):
        if b == 0 or (b < matrices.shape[0] and not numpy.array_equal(matrices[b], matrices[b - 1])):
            entries[:] = 0
            depth = 0
            for j in range(TILE_SIZE):
                found = 0
                for i in range(TILE_SIZE):
                    if matrices[b, i, j] & 0x7FFF:
                        for start in range(0, width, TILE_SIZE):
                            sources[found, start + j] = start + i
                            entries[found, start + j] = widen(matrices[b, i, j])
                        found += 1
                depth = max(depth, found)
            pairs = depth == 1
            for j in range(width):
                pairs = pairs and (sources[0, j] == j ^ 1 or entries[0, j] == 0)
        b_cos = b if cos.shape[0] > 1 else 0
        for row in range(rows):
            row_cos = row if cos.shape[1] > 1 else 0
            if pairs:
                _rotate_pairs(
                    _address(values, b, row), _address(cos, b_cos, row_cos), _address(sin, b_cos, row_cos), first_entries,
                    _address(rotated, b, row), width // LANES,
                )  # fmt: skip
                continue
            own_cos, own_sin = cos[b_cos, row_cos], sin[b_cos, row_cos]
            widen_row(values[b, row], value)
            turned[:] = 0
            for k in range(depth):
                _add_turned(turned, value, sources[k], entries[k])
            _combine(value, own_cos, turned, own_sin, rotated[b, row])


@compiled()
def add_up(parts, total):
    """The sum of `parts`, a tuple of bf16 `[rows, n, width]`, added in fp32 in their order.

    `total` is `[n, rows, width]`, bf16 or fp32.
    """
    rows, n, width = parts[0].shape
    some = numpy.empty(_SUMMED_AT_ONCE, numpy.float32)
    for row in range(rows):
        for k in range(n):
            for start in range(0, width, _SUMMED_AT_ONCE):
                stop = min(start + _SUMMED_AT_ONCE, width)
                widen_row(parts[0][row, k, start:stop], some)
                for part in parts[1:]:
                    _add_row(part[row, k, start:stop], some)
                if total.itemsize == 2:
                    narrow_row(some, total[k, row, start:stop])
                else:
                    total[k, row, start:stop] = some[: stop - start]


@compiled()
def _add_row(row, values):
    for i in range(row.size):
        values[i] += widen(row[i])


@compiled()
def write_rows(cache, rows, positions, pages):
    """Writes `rows` [users, heads, width] into `cache` [pages, heads, page_size, width] and returns -1.

    A user's position p is in page `pages[user, p // page_size]`. A user with position -1 is skipped. If a position or a
    page is outside, nothing is written, and the first such user is returned.
    """
    n_pages, heads, page_size, width = cache.shape
    for user in range(positions.size):
        index = positions[user] // page_size
        if positions[user] != -1 and not (0 <= index < pages.shape[1] and 0 <= pages[user, index] < n_pages):
            return user
    for user in range(positions.size):
        if positions[user] != -1:
            page, at = pages[user, positions[user] // page_size], positions[user] % page_size
            for head in range(heads):
                for i in range(width):
                    cache[page, head, at, i] = rows[user, head, i]
    return -1


@compiled()
def fill_pages(cache, rows, pages):
    """Copies `rows` [heads, n, width] into `pages` of `cache` [pages, heads, page_size, width]; a page of -1 is skipped.

    Elements of a row are neighbours in memory.
    """
    _, heads, page_size, width = cache.shape
    n = rows.shape[1]
    for index in range((n + page_size - 1) // page_size):
        if pages[index] >= 0:
            start = index * page_size
            for head in range(heads):
                copy_rows(
                    _address(rows, head, start), rows.strides[1], _address(cache, pages[index], head), cache.strides[2],
                    rows.itemsize * width, min(page_size, n - start),
                )  # fmt: skip
