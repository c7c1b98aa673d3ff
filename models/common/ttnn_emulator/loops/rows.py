"""Norms, rotation, sums and copies of rows of bf16."""

import math

import numpy
from llvmlite import ir

from ..compiled import compiled
from ..dtypes import TILE_SIZE
from .bf16 import fp32_of, halves, narrow, narrow_row, row_address, widen, widen_row, words
from .block_float import BLOCK, round_row
from .functions import fp32
from .vectors import (
    FLOAT, FLOATS, INT8, INT64, INTS, LANES, call, copy_rows, emitted, halved, in_all_lanes, load, multiply_add, pointers,
    repeat, store, store_narrowed, times, widened,
)  # fmt: skip

_float = numpy.float32
_SUMMED_AT_ONCE = 1024  # elements, few enough that their sums stay in the CPU's cache


@emitted
def _add_squares(builder, row, total, vectors):
    """total[0] = the sum of squares of 16 * `vectors` bf16."""
    row, total = pointers(builder, row, total)

    def body(vector, sums):
        value = widened(builder, row, times(builder, vector, 2 * LANES))
        return [multiply_add(builder, value, value, sums[0])]

    (sums,) = repeat(builder, vectors, [fp32(0)], body)
    store(builder, halved(builder, sums, builder.fadd), total, INT64(0))


@emitted
def _normalise_row(builder, row, scale, weight, normalised, vectors):
    """normalised = row * scale[0] * weight for 16 * `vectors` bf16; the scale is fp32."""
    row, scale, weight, normalised = pointers(builder, row, scale, weight, normalised)
    scale = in_all_lanes(builder, load(builder, scale, INT64(0), FLOAT, align=4))

    def body(vector, _):
        at = times(builder, vector, 2 * LANES)
        value = builder.fmul(widened(builder, row, at), scale)
        store_narrowed(builder, builder.fmul(value, widened(builder, weight, at)), normalised, at)
        return []

    repeat(builder, vectors, [], body)


@compiled()
def rms_norm(start, stop, values, normalised, weight, width, epsilon):
    """x / sqrt(mean(x^2) + epsilon) * weight for some rows of `values` `[rows, width]`; weight is `[width]`.

    values, normalised and weight are addresses of bf16. epsilon is the bit pattern of an fp32.
    """
    vectors, epsilon = width // LANES, fp32_of(epsilon)
    whole, state = vectors * LANES, numpy.zeros(1, numpy.float32)
    shape, weights = (stop, width), halves(weight, width)
    all_values, all_normalised = halves(values, shape), halves(normalised, shape)
    for row in range(start, stop):
        at = 2 * row * width
        if vectors:
            _add_squares(values + at, state.ctypes.data, vectors)
        squares = state[0]
        for i in range(whole, width):
            value = widen(all_values[row, i])
            squares += value * value
        scale = _float(1) / _float(math.sqrt(squares / _float(width) + epsilon))
        for i in range(whole, width):
            all_normalised[row, i] = narrow(_float(widen(all_values[row, i]) * scale) * widen(weights[i]))
        state[0] = scale
        if vectors:
            _normalise_row(values + at, state.ctypes.data, weight, normalised + at, vectors)
        state[0] = 0


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
def _combine(values, cos, turned, sin, rotated):
    for i in range(values.size):
        rotated[i] = narrow(values[i] * widen(cos[i]) + turned[i] * widen(sin[i]))


@compiled()
def rotate(start, stop, values, rotated, rows, width, cos, sin, n_angles, angle_rows, all_first, matrices, n_matrices):
    """x * cos + (x @ matrix) * sin, where the matrix acts on each 32 columns of x, for some of the first dimension.

    values and rotated are addresses of bf16 `[B, rows, width]`, cos and sin of `[n_angles, angle_rows, width]`, matrices
    of `[n_matrices, 32, 32]`. Of angles and matrices there is one for each of the B, or one for all. A row of x has the
    angles of the row of the same number or, with `all_first`, those of the first.

    The matrix of a rotation has one nonzero entry per column. So the matrices are read in passes: pass i takes the i-th
    nonzero entry of every column and the index of its source, mostly the column's neighbour.
    """
    values, rotated = halves(values, (stop, rows, width)), halves(rotated, (stop, rows, width))
    cos, sin = halves(cos, (n_angles, angle_rows, width)), halves(sin, (n_angles, angle_rows, width))
    matrices = halves(matrices, (n_matrices, TILE_SIZE, TILE_SIZE))
    sources = numpy.zeros((TILE_SIZE, width), numpy.uint32)
    entries = numpy.zeros((TILE_SIZE, width), numpy.float32)
    value = numpy.empty(width, numpy.float32)
    turned = numpy.empty(width, numpy.float32)
    depth, pairs, first_entries = 0, False, entries.ctypes.data
    for b in range(start, stop):
        if b == start or (b < n_matrices and not numpy.array_equal(matrices[b], matrices[b - 1])):
            entries[:] = 0
            depth = 0
            matrix = matrices[b if b < n_matrices else 0]
            for j in range(TILE_SIZE):
                found = 0
                for i in range(TILE_SIZE):
                    if matrix[i, j] & 0x7FFF:
                        for column in range(0, width, TILE_SIZE):
                            sources[found, column + j] = column + i
                            entries[found, column + j] = widen(matrix[i, j])
                        found += 1
                depth = max(depth, found)
            pairs = depth == 1
            for j in range(width):
                pairs = pairs and (sources[0, j] == j ^ 1 or entries[0, j] == 0)
        b_cos = b if n_angles > 1 else 0
        for row in range(rows):
            row_cos = 0 if all_first else row
            if pairs:
                angles = row_address(cos, b_cos, row_cos), row_address(sin, b_cos, row_cos)
                target = row_address(rotated, b, row)
                _rotate_pairs(row_address(values, b, row), *angles, first_entries, target, width // LANES)
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


@emitted
def _clear(builder, target, size):
    (target,) = pointers(builder, target)
    call(builder, "llvm.memset.p0.i64", ir.VoidType(), target, INT8(0), size, ir.IntType(1)(0))


@compiled()
def pad_rows(rows, stride, count, padded, row_bytes, padded_count):
    """Copies `count` rows, which begin every `stride` bytes, one after the other, and adds zeros up to `padded_count` rows."""
    copy_rows(rows, stride, padded, row_bytes, row_bytes, count)
    _clear(padded + count * row_bytes, (padded_count - count) * row_bytes)


@compiled()
def write_rows(
    cache, n_pages, page_size, page_bytes, head_bytes, rows, users, heads, row_bytes, positions, pages, pages_each,
    magnitude_bits,
):  # fmt: skip
    """Writes `rows` [users, heads, width] into `cache` [n_pages, heads, page_size, width] and returns -1.

    A user's position p is in page `pages[user, p // page_size]`; pages is int32 [users, pages_each], positions int32
    [users]. A user with position -1 is skipped. If a position or a page is outside, nothing is written, and the first
    such user is returned. Rows of bf16 are rounded to block floats if `magnitude_bits` is not 0. All are addresses. The
    strides of a page and a head of the cache, and the size of a row, are in bytes.
    """
    positions, pages = words(positions, users), words(pages, (users, pages_each))
    for user in range(users):
        index = positions[user] // page_size
        if positions[user] != -1 and not (0 <= index < pages_each and 0 <= pages[user, index] < n_pages):
            return user
    extremes = numpy.empty(2, numpy.uint16)
    for user in range(users):
        if positions[user] != -1:
            page, at = pages[user, positions[user] // page_size], positions[user] % page_size
            target, source = cache + page * page_bytes + at * row_bytes, rows + user * heads * row_bytes
            if magnitude_bits:
                for head in range(heads):
                    blocks = row_bytes // (2 * BLOCK)
                    round_row(source + head * row_bytes, target + head * head_bytes, blocks, magnitude_bits, extremes)
            else:
                copy_rows(source, row_bytes, target, head_bytes, row_bytes, heads)
    return -1


@compiled()
def fill_pages(cache, n_pages, page_size, cache_strides, rows, heads, n, row_bytes, row_strides, pages):
    """Copies `rows` [heads, n, width] into pages of `cache` [n_pages, heads, page_size, width] and returns -1.

    pages is int32, a page for each `page_size` rows; a page of -1 is skipped. If one is outside, nothing is written, and
    the first such is returned. cache, rows and pages are addresses. Strides are in bytes: of a page and a head of the
    cache, of a head and a row of `rows`. The elements of a row are neighbours in memory.
    """
    needed = (n + page_size - 1) // page_size
    pages = words(pages, needed)
    for index in range(needed):
        if not -1 <= pages[index] < n_pages:
            return index
    for index in range(needed):
        if pages[index] >= 0:
            start = index * page_size
            for head in range(heads):
                copy_rows(
                    rows + head * row_strides[0] + start * row_strides[1], row_strides[1],
                    cache + pages[index] * cache_strides[0] + head * cache_strides[1], row_bytes, row_bytes,
                    min(page_size, n - start),
                )  # fmt: skip
    return -1
