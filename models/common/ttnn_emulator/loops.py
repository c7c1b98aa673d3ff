"""Compiled loops, each for a computation that would take torch many passes over the data.

They read and write bf16 as bit patterns (int16) and compute in fp32. The result of a row (a user, a head) does not
depend on the number of other rows. All loops are in this one file, because numba's cache on disk only notices changes
in the file of the compiled function.
"""

import math

import numpy

from .compiled import compiled
from .dtypes import TILE_SIZE

# numba widens the result of int32 arithmetic to int64, unless each result is converted back.
_int, _float = numpy.int32, numpy.float32

BLOCK = 16  # elements of a block-float block

# These flags allow sums to be reordered, so that they use vector registers.
_SUMS = {"reassoc", "contract", "nsz"}


@compiled()
def _widen(pattern):
    """The fp32 value of a bf16 bit pattern."""
    return _int(_int(pattern) << 16).view(numpy.float32)


@compiled()
def _narrow(value):
    """The bit pattern of the bf16 nearest to an fp32 value, ties to even."""
    pattern = _float(value).view(numpy.int32)
    if _int(pattern & _int(0x7FFFFFFF)) > _int(0x7F800000):
        return numpy.int16(0x7FC0)  # NaN: rounding its bits could change the sign
    odd = _int(_int(pattern >> 16) & _int(1))
    return numpy.int16(_int(_int(_int(pattern + odd) + _int(0x7FFF)) >> 16))


@compiled()
def round_blocks(values, rounded, magnitude_bits):
    """Rounds `values` `[n, 16]`, bit patterns of fp32 or bf16, to block floats. Writes bf16 patterns into `rounded`.

    `bfp` describes the rule.
    """
    if values.itemsize == 4:
        _round_exactly(values, rounded, magnitude_bits)
        return
    maxima = numpy.empty(_AT_ONCE * BLOCK, numpy.int16)
    powers = numpy.empty(_AT_ONCE * BLOCK, numpy.float32)
    for start in range(0, values.shape[0], _AT_ONCE):
        some, target = values[start : start + _AT_ONCE], rounded[start : start + _AT_ONCE]
        if _find_powers(some.reshape(-1), maxima, powers):
            _round_in_fp32(some.reshape(-1), target.reshape(-1), powers, magnitude_bits)
        else:
            _round_exactly(some, target, magnitude_bits)


@compiled()
def round_blocks_down(values, rounded, magnitude_bits):
    """As `round_blocks`, of blocks that run down the columns: `values` and `rounded` are `[n, 16, width]`."""
    width, at_once = values.shape[2], _AT_ONCE * BLOCK
    maxima, powers = numpy.empty(at_once, numpy.int16), numpy.empty(at_once, numpy.float32)
    for row in range(values.shape[0]):
        for start in range(0, width, at_once):
            some, target = values[row, :, start : start + at_once], rounded[row, :, start : start + at_once]
            if values.itemsize == 2 and _find_powers_down(some, maxima, powers):
                for element in range(BLOCK):
                    _round_in_fp32(some[element], target[element], powers, magnitude_bits)
            else:
                blocks = numpy.empty((some.shape[1], BLOCK), rounded.dtype)
                _round_exactly(numpy.ascontiguousarray(some.T), blocks, magnitude_bits)
                target[:] = blocks.T


_AT_ONCE = 64  # blocks, few enough that intermediate results stay in the CPU's cache
# `_round_in_fp32` is exact if the largest magnitude of a bf16 block, as a bit pattern, is between these two. Larger
# exponents overflow its constant. With smaller ones, subnormal elements would not round to zero.
_FP32_FROM, _FP32_TO = 16 << 7, 230 << 7


@compiled()
def _find_powers_down(values, maxima, powers):
    """As `_find_powers`, for `values` `[16, blocks]`: one power for each column."""
    maxima[:] = 0
    for element in range(BLOCK):
        for block in range(values.shape[1]):
            maxima[block] = max(maxima[block], values[element, block] & 0x7FFF)
    within = True
    for block in range(values.shape[1]):
        largest = maxima[block]
        within = within and (largest == 0 or _FP32_FROM <= largest <= _FP32_TO)
        powers[block] = _widen(largest & 0x7F80)
    return within


@compiled()
def _find_powers(values, maxima, powers):
    """Writes into `powers`, for each of `values`, 2 to its block's exponent. Returns whether all blocks are zero or
    within the limits above.

    The maximum of 16 neighbours is found in four passes over all values, because such passes use vector registers.
    """
    for i in range(values.size):
        maxima[i] = values[i] & 0x7FFF
    for distance in (8, 4, 2, 1):
        for i in range(values.size - distance):
            maxima[i] = max(maxima[i], maxima[i + distance])
    within = True
    for block in range(values.size // BLOCK):
        largest = maxima[BLOCK * block]
        within = within and (largest == 0 or _FP32_FROM <= largest <= _FP32_TO)
        power = _widen(largest & 0x7F80)
        for i in range(BLOCK):
            powers[BLOCK * block + i] = power
    return within


@compiled()
def _round_in_fp32(values, rounded, powers, magnitude_bits):
    """Rounds bf16 values: adding and then subtracting 1.5 * 2^23 quanta rounds to a whole quantum, ties to even."""
    largest = _float(2 - 2.0 ** (1 - magnitude_bits))
    many_quanta = _float(1.5 * 2.0 ** (24 - magnitude_bits))
    for i in range(values.size):
        limit, shift = powers[i] * largest, powers[i] * many_quanta
        value = _widen(values[i])
        value = value if value < limit else limit
        value = value if value > -limit else -limit
        value = _float(_float(value + shift) - shift)
        rounded[i] = numpy.int16(_int(value.view(numpy.int32) >> 16))


@compiled()
def _round_exactly(values, rounded, magnitude_bits):
    to_float32 = _int(32 - 8 * values.itemsize)
    dropped = _int(24 - magnitude_bits)
    below_half = _int((1 << (23 - magnitude_bits)) - 1)
    largest = _int((1 << magnitude_bits) - 1)
    quantum = _float(2.0 ** (1 - magnitude_bits))  # at exponent 0
    for block in range(values.shape[0]):
        shared = _int(0)
        for i in range(BLOCK):
            pattern = _int(_int(values[block, i]) << to_float32)
            shared = max(shared, _int(_int(pattern >> 23) & _int(255)))
        # 2 to the block's exponent, in two factors because the largest exponent does not fit float32.
        power = _int(min(shared, _int(254)) << 23).view(numpy.float32) * quantum
        rest = _float(2.0 if shared == 255 else 1.0)
        for i in range(BLOCK):
            pattern = _int(_int(values[block, i]) << to_float32)
            exponent = _int(_int(pattern >> 23) & _int(255))
            significand = _int(_int(pattern & _int(0x7FFFFF)) | _int(0x800000)) if exponent > 0 else _int(0)
            significand = _int(significand >> min(_int(shared - exponent), _int(31)))
            odd = _int(_int(significand >> dropped) & _int(1))
            magnitude = min(_int(_int(_int(significand + odd) + below_half) >> dropped), largest)
            result = _float(_float(magnitude) * power * rest).view(numpy.int32)
            if magnitude > 0:
                result = _int(result | _int(pattern & _int(-0x80000000)))
            if _int(pattern & _int(0x7FFFFFFF)) > _int(0x7F800000):
                result = _int(0x7FC00000)  # a NaN stays a NaN
            rounded[block, i] = numpy.int16(_int(result >> 16))


@compiled(fastmath=_SUMS)
def rms_norm(values, normalised, weight, epsilon):
    """x / sqrt(mean(x^2) + epsilon) * weight for each row of `values` `[rows, width]`; weight is `[width]`."""
    rows, width = values.shape
    epsilon = _float(epsilon)
    for row in range(rows):
        squares = _float(0)
        for i in range(width):
            value = _widen(values[row, i])
            squares += value * value
        scale = _float(1) / _float(math.sqrt(squares / _float(width) + epsilon))
        for i in range(width):
            normalised[row, i] = _narrow(_float(_widen(values[row, i]) * scale) * _widen(weight[i]))


@compiled()
def _widen_row(row, values):
    for i in range(row.size):
        values[i] = _widen(row[i])


@compiled()
def _add_turned(turned, values, sources, entries):
    for i in range(turned.size):
        turned[i] += values[sources[i]] * entries[i]


@compiled()
def _turn_pairs(turned, values, entries):
    for i in range(turned.size // 2):
        turned[2 * i] = values[2 * i + 1] * entries[2 * i]
        turned[2 * i + 1] = values[2 * i] * entries[2 * i + 1]


@compiled()
def _combine(values, cos, turned, sin, rotated):
    for i in range(values.size):
        rotated[i] = _narrow(values[i] * _widen(cos[i]) + turned[i] * _widen(sin[i]))


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
    depth, pairs = 0, False
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
                            entries[found, start + j] = _widen(matrices[b, i, j])
                        found += 1
                depth = max(depth, found)
            pairs = depth == 1
            for j in range(width):
                pairs = pairs and (sources[0, j] == j ^ 1 or entries[0, j] == 0)
        b_cos = b if cos.shape[0] > 1 else 0
        for row in range(rows):
            row_cos = row if cos.shape[1] > 1 else 0
            _widen_row(values[b, row], value)
            if pairs:
                _turn_pairs(turned, value, entries[0])
            else:
                turned[:] = 0
                for k in range(depth):
                    _add_turned(turned, value, sources[k], entries[k])
            _combine(value, cos[b_cos, row_cos], turned, sin[b_cos, row_cos], rotated[b, row])


@compiled(fastmath=_SUMS)
def _dot(queries, row):
    """sum(queries * row), where queries are fp32 and row holds bf16 patterns."""
    total = _float(0)
    for i in range(row.size):
        total += queries[i] * _widen(row[i])
    return total


@compiled(fastmath=_SUMS)
def _add_scaled(total, row, weight):
    for i in range(row.size):
        total[i] += weight * _widen(row[i])


@compiled(fastmath=_SUMS)
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
def mix(a, b, mixed, weights):
    """a + (b - a) * weight for each row of bf16 `[rows, width]`. Weights are fp32, `[rows]`."""
    for row in range(a.shape[0]):
        for i in range(a.shape[1]):
            value = _widen(a[row, i])
            mixed[row, i] = _narrow(value + (_widen(b[row, i]) - value) * weights[row])


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
                _widen_row(parts[0][row, k, start:stop], some)
                for part in parts[1:]:
                    _add_row(part[row, k, start:stop], some)
                if total.itemsize == 2:
                    _narrow_row(some, total[k, row, start:stop])
                else:
                    total[k, row, start:stop] = some[: stop - start]


_SUMMED_AT_ONCE = 1024  # elements, few enough that their sums stay in the CPU's cache


@compiled()
def _add_row(row, values):
    for i in range(row.size):
        values[i] += _widen(row[i])


@compiled()
def _narrow_row(values, row):
    for i in range(row.size):
        row[i] = _narrow(values[i])


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
def user_without_pages(pages, positions, window, page_size, n_pages):
    """The first user with a page that `attend` would read and that a cache of `n_pages` lacks; -1 if there is none."""
    for user in range(positions.size):
        count = positions[user] + 1
        for index in range(max(0, count - window) // page_size, (count + page_size - 1) // page_size):
            if not 0 <= pages[user, index] < n_pages:
                return user
    return -1


@compiled()
def attend(queries, attended, users, rows, keys, values, page_size, pages, positions, window, scale):
    """softmax(q k^T * scale) v for one query per user and head, over that user's cached positions.

    queries and attended are `[n, group, width]`: entry i has the `group` heads of user `users[i]`, which read row
    `rows[i]` of keys and values `[rows, positions, width]`. A user's position p is stored at
    `pages[user, p // page_size] * page_size + p % page_size`. A user attends to its last `window` positions up to
    positions[user]. A user with position -1 gets zeros.
    """
    n, group, width = queries.shape
    query = numpy.empty((group, width), numpy.float32)
    total = numpy.empty((group, width), numpy.float32)
    scores = numpy.empty((group, positions.max() + 1), numpy.float32)
    for i in range(n):
        user, row = users[i], rows[i]
        count = positions[user] + 1
        first = max(0, count - window)
        for member in range(group):
            for j in range(width):
                query[member, j] = _widen(queries[i, member, j]) * scale
        # Page by page, because a division for each position would take as long as its dot product.
        for page in range(first // page_size, (count + page_size - 1) // page_size):
            shift = (pages[user, page] - page) * page_size
            for position in range(max(first, page * page_size), min(count, (page + 1) * page_size)):
                for member in range(group):
                    scores[member, position - first] = _dot(query[member], keys[row, shift + position])
        total[:] = 0
        for member in range(group):
            _softmax(scores[member, : count - first])
        for page in range(first // page_size, (count + page_size - 1) // page_size):
            shift = (pages[user, page] - page) * page_size
            for position in range(max(first, page * page_size), min(count, (page + 1) * page_size)):
                for member in range(group):
                    _add_scaled(total[member], values[row, shift + position], scores[member, position - first])
        for member in range(group):
            for j in range(width):
                attended[i, member, j] = _narrow(total[member, j])
