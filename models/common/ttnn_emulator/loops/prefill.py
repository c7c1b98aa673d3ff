"""Causal attention of whole prompts and of chunks of them.

Queries and keys are taken in blocks of 64 positions. For each block of queries the blocks of keys come one after
another, and a row keeps the maximum of its scores so far and sums relative to it (Dao et al., "FlashAttention", 2022).
No matrix of queries x keys is made. Scores and sums are fp32. The weights are rounded to bf16 before they multiply the
values.

Blocks of keys begin at multiples of 64, wherever a chunk of queries starts, and a row's sums take part in nothing that
belongs to another row. So a row's result depends neither on how a prompt is cut into chunks nor on other rows.
"""

import numpy
from llvmlite import ir

from ..compiled import compiled
from .bf16 import halves, strided, widen, widen_row
from .functions import exp, fp32, larger
from .products import BF16_PAIRS, ROWS, VECTORS, multiply_rows, multiply_rows_by_2
from .vectors import (
    FLOAT, FLOATS, INT32, INT64, INTS, LANES, constant, copy_rows, emitted, in_all_lanes, load, multiply_add, pointers, repeat,
    rounded, store, store_narrowed, times, widened,
)  # fmt: skip

_BLOCK = 64  # positions of queries, and of keys
SLAB = 256  # positions of queries that use a block of keys before the next one
_VALUE_BYTES = 2 if BF16_PAIRS else 4  # of a query or weight, as `multiply_rows` takes them
_GROUPS = _BLOCK // LANES
_PAIRS = 2 * LANES  # columns: widths are filled up with zeros to a multiple


def _reduced(builder, vector, combine):
    """The lanes of a vector, combined in pairs, in all lanes."""
    for distance in (8, 4, 2, 1):
        order = ir.Constant(INTS, [lane ^ distance for lane in range(LANES)])
        vector = combine(vector, builder.shuffle_vector(vector, ir.Constant(FLOATS, ir.Undefined), order))
    return vector


@emitted
def _weigh(builder, scores, scale, low, high, state, weights):
    """The weights of a row's 64 `scores`, of which those from `low` to below `high` are seen, times `scale` (fp32 bits).

    state: the row's maximum and its sum of weights so far, both of which are changed, and the factor by which all that
    was summed before has to be multiplied.
    """
    scores, state, weights = pointers(builder, scores, state, weights)
    scale = in_all_lanes(builder, builder.bitcast(builder.trunc(scale, INT32), FLOAT))
    low, high = (in_all_lanes(builder, builder.trunc(limit, INT32)) for limit in (low, high))
    nothing = fp32(float("-inf"))

    def largest_of(a, b):
        return larger(builder, a, b)

    scaled = []
    for group in range(_GROUPS):
        place = ir.Constant(INTS, [LANES * group + lane for lane in range(LANES)])
        seen = builder.and_(builder.icmp_signed(">=", place, low), builder.icmp_signed("<", place, high))
        value = builder.fmul(load(builder, scores, INT64(64 * group), FLOATS, align=4), scale)
        scaled.append(builder.select(seen, value, nothing))
    largest = largest_of(largest_of(scaled[0], scaled[1]), largest_of(scaled[2], scaled[3]))
    before = in_all_lanes(builder, load(builder, state, INT64(0), FLOAT, align=4))
    largest = largest_of(before, _reduced(builder, largest, largest_of))
    # A row that has seen nothing yet has the maximum -inf, from which no difference can be taken.
    base = builder.select(builder.fcmp_ordered("==", largest, nothing), fp32(0), largest)
    factor = exp(builder, builder.fsub(before, base))
    total = fp32(0)
    for group, value in enumerate(scaled):
        weight = exp(builder, builder.fsub(value, base))
        total = builder.fadd(total, weight)
        if BF16_PAIRS:
            store_narrowed(builder, weight, weights, INT64(2 * LANES * group))
        else:
            nearest = builder.and_(rounded(builder, weight), constant(-65536))
            store(builder, builder.bitcast(nearest, FLOATS), weights, INT64(4 * LANES * group))
    total = _reduced(builder, total, builder.fadd)
    sums = in_all_lanes(builder, load(builder, state, INT64(4), FLOAT, align=4))
    sums = multiply_add(builder, sums, factor, total)
    for index, vector in enumerate((largest, sums, factor)):
        store(builder, builder.extract_element(vector, INT32(0)), state, INT64(4 * index))


@emitted
def _scale_row(builder, sums, factor, vectors):
    """sums[16 * vectors] *= factor, the fp32 at an address."""
    sums, factor = pointers(builder, sums, factor)
    factor = in_all_lanes(builder, load(builder, factor, INT64(0), FLOAT, align=4))

    def body(vector, _):
        at = times(builder, vector, 4 * LANES)
        store(builder, builder.fmul(load(builder, sums, at, FLOATS, align=4), factor), sums, at)
        return []

    repeat(builder, vectors, [], body)


@emitted
def _divide_row(builder, sums, total, row, vectors):
    """row[16 * vectors], bf16, is sums / total, the fp32 at an address."""
    sums, total, row = pointers(builder, sums, total, row)
    total = in_all_lanes(builder, load(builder, total, INT64(0), FLOAT, align=4))

    def body(vector, _):
        mean = builder.fdiv(load(builder, sums, times(builder, vector, 4 * LANES), FLOATS, align=4), total)
        store_narrowed(builder, mean, row, times(builder, vector, 2 * LANES))
        return []

    repeat(builder, vectors, [], body)


@emitted
def _pair_rows(builder, even, odd, chunk, vectors, stride):
    """Two rows of bf16 as one row of a chunk of `multiply_rows`, 16 * `vectors` columns.

    `stride`: bytes from the odd row's place to the even one's, where these are fp32.
    """
    even, odd, chunk = pointers(builder, even, odd, chunk)

    def body(vector, _):
        at, target = times(builder, vector, 2 * LANES), times(builder, vector, 4 * LANES)
        rows = [widened(builder, row, at) for row in (even, odd)]
        if BF16_PAIRS:
            low, high = (builder.bitcast(row, INTS) for row in rows)
            store(builder, builder.or_(builder.lshr(low, constant(16)), high), chunk, target)
        else:
            store(builder, rows[1], chunk, target)
            store(builder, rows[0], chunk, builder.add(target, stride))
        return []

    repeat(builder, vectors, [], body)


@compiled()
def _turn_keys(keys, pairs, odd_and_even):
    """Keys, bf16 `[64, width]`, as a chunk of `multiply_rows` with a column for each key."""
    if BF16_PAIRS:
        both = keys.view(numpy.int32)
        for pair in range(pairs.shape[0]):
            for key in range(_BLOCK):
                pairs[pair, key] = both[key, pair]
    else:
        for pair in range(odd_and_even.shape[0]):
            for key in range(_BLOCK):
                odd_and_even[pair, 0, key] = widen(keys[key, 2 * pair + 1])
                odd_and_even[pair, 1, key] = widen(keys[key, 2 * pair])


@compiled()
def _fill(rows, array, batch, head, start, stop):
    """rows[: stop - start, :width] = array[batch, head, start:stop] of the same width."""
    first = array.ctypes.data + batch * array.strides[0] + head * array.strides[1] + start * array.strides[2]
    copy_rows(first, array.strides[2], rows.ctypes.data, rows.strides[0], 2 * array.shape[3], stop - start)


@compiled()
def _add_products(x, stride, count, chunk, sums, pairs, vectors):
    """sums[count, 64] += x @ chunk, in the first 16 * `vectors` columns (2 or 4). Sums up to a multiple of `ROWS` change."""
    for row in range(0, count, ROWS):
        target = sums + 4 * _BLOCK * row
        if VECTORS == _GROUPS and vectors == 2:
            multiply_rows_by_2(x, stride, row, count - 1, chunk, target, pairs)
        else:
            for vector in range(0, vectors, VECTORS):
                multiply_rows(
                    x, stride, row, count - 1, chunk + 4 * LANES * vector, target + 4 * LANES * vector, pairs
                )


@compiled()
def _pair_values(values, chunks, row_bytes):
    """Values, bf16 `[64, width]`, as chunks of `multiply_rows` for each 64 columns, with a row for each pair of keys."""
    wide = values.shape[1]
    for tile in range(chunks.shape[0]):
        vectors = min(wide - tile * _BLOCK, _BLOCK) // LANES
        for pair in range(_BLOCK // 2):
            even = values.ctypes.data + 2 * (2 * pair * wide + tile * _BLOCK)
            chunk = chunks.ctypes.data + row_bytes * (tile * _BLOCK // 2 + pair)
            _pair_rows(even, even + 2 * wide, chunk, vectors, 4 * _BLOCK)


@compiled()
def _take_queries(queries, batch, heads, first, count, each, bf16, fp32):
    """Queries `first` to `first + count` of some heads, each head at a multiple of `each` rows of `bf16`, or of `fp32`."""
    for member in range(heads.size):
        _fill(bf16[member * each :], queries, batch, heads[member], first, first + count)
    if not BF16_PAIRS:
        for row in range(heads.size * each):
            widen_row(bf16[row], fp32[row])


@compiled()
def _finish(sums, states, attended, batch, heads, first, count, each):
    """Writes the means, sums `[tiles, rows, 64]` divided by the sums of weights, of rows as in `_take_queries`."""
    tiles, rows, _ = sums.shape
    width = attended.shape[3]
    mean = numpy.empty(tiles * _BLOCK, numpy.int16)
    for member in range(heads.size):
        for i in range(count):
            row, target = member * each + i, attended[batch, heads[member], first + i]
            at = target.ctypes.data if width % LANES == 0 else mean.ctypes.data
            for tile in range(tiles):
                vectors = (min(width - tile * _BLOCK, _BLOCK) + LANES - 1) // LANES
                own = sums.ctypes.data + 4 * _BLOCK * (tile * rows + row)
                _divide_row(own, states.ctypes.data + 12 * row + 4, at + 2 * _BLOCK * tile, vectors)
            if width % LANES:
                target[:] = mean[:width]


@compiled()
def attend_causally(
    first_task, end_task, queries, query_batch, query_head, query_row, keys, key_batch, key_head, key_row, values, value_batch,
    value_head, value_row, attended, batches, heads, kv_heads, n, width, start, window, scale,
):  # fmt: skip
    """softmax(q k^T * scale) v, where the query at position p sees the keys at the last `window` positions up to p.

    queries and attended are addresses of bf16 `[batches, heads, n, width]`, at the positions from `start` on; keys and values
    of `[batches, kv_heads, start + n, width]`. The strides of a batch, a head and a row follow, in bytes; attended has none,
    and elements of a row are neighbours in memory. scale is the bit pattern of an fp32. A task is the number of a slab of
    queries: that of its batch and kv head, times the slabs of each, plus its own. Tasks up to `end_task` are done.
    """
    shape, kept = (batches, heads, n, width), (batches, kv_heads, start + n, width)
    queries = strided(queries, shape, (query_batch, query_head, query_row, 2))
    keys = strided(keys, kept, (key_batch, key_head, key_row, 2))
    values = strided(values, kept, (value_batch, value_head, value_row, 2))
    attended = halves(attended, shape)
    group = heads // kv_heads
    slabs = (n + SLAB - 1) // SLAB
    wide = (width + _PAIRS - 1) // _PAIRS * _PAIRS
    tiles, pairs = (wide + _BLOCK - 1) // _BLOCK, wide // 2
    rows = group * min((n + _BLOCK - 1) // _BLOCK * _BLOCK, SLAB)
    row_bytes = 4 * _BLOCK if BF16_PAIRS else 8 * _BLOCK  # of a chunk
    some = numpy.zeros((_BLOCK, wide), numpy.int16)
    bf16_queries = numpy.zeros((rows, wide), numpy.int16)
    fp32_queries = numpy.zeros((1 if BF16_PAIRS else rows, wide), numpy.float32)
    paired_keys = numpy.empty((pairs, _BLOCK), numpy.int32)
    single_keys = numpy.empty((1 if BF16_PAIRS else pairs, 2, _BLOCK), numpy.float32)
    paired_values = numpy.empty((tiles, _BLOCK // 2, row_bytes), numpy.uint8)
    sums = numpy.empty((tiles, rows, _BLOCK), numpy.float32)
    scores = numpy.empty((_BLOCK, _BLOCK), numpy.float32)
    weights = numpy.empty((_BLOCK, _BLOCK * _VALUE_BYTES), numpy.uint8)
    states = numpy.empty((rows, 3), numpy.float32)
    x_bytes, weights_bytes = _VALUE_BYTES * wide, _VALUE_BYTES * _BLOCK
    for task in range(first_task, end_task):
        # Views would take as long as what is done with a row, so rows are named by their addresses. These are taken here,
        # because numba frees an array after the last use of its name, which must not be before the loop.
        x = bf16_queries.ctypes.data if BF16_PAIRS else fp32_queries.ctypes.data
        turned_keys = paired_keys.ctypes.data if BF16_PAIRS else single_keys.ctypes.data
        scores_at, weights_at, states_at = scores.ctypes.data, weights.ctypes.data, states.ctypes.data
        sums_at, values_at = sums.ctypes.data, paired_values.ctypes.data
        batch, kv_head, first = task // slabs // kv_heads, task // slabs % kv_heads, task % slabs * SLAB
        count = min(n - first, SLAB)
        each = (count + _BLOCK - 1) // _BLOCK * _BLOCK  # rows of a head, of whole blocks
        members = numpy.arange(kv_head * group, (kv_head + 1) * group)
        _take_queries(queries, batch, members, first, count, each, bf16_queries, fp32_queries)
        sums[:] = 0
        states[:, 0], states[:, 1] = -numpy.inf, 0
        begin = max(0, start + first - window + 1) // _BLOCK * _BLOCK
        for key in range(begin, start + first + count, _BLOCK):
            stop = min(key + _BLOCK, start + first + count)
            some[stop - key :] = 0
            _fill(some, keys, batch, kv_head, key, stop)
            _turn_keys(some, paired_keys, single_keys)
            _fill(some, values, batch, kv_head, key, stop)
            _pair_values(some, paired_values, row_bytes)
            for row in range(0, group * each, _BLOCK):
                position = start + first + row % each
                own = min(_BLOCK, count - row % each)
                if position + own <= key or position - window + 1 >= key + _BLOCK:
                    continue
                scores[:] = 0
                _add_products(x + row * x_bytes, x_bytes, own, turned_keys, scores_at, pairs, _GROUPS)
                for i in range(own):
                    last = position + i - key
                    _weigh(
                        scores_at + 4 * _BLOCK * i, scale, last - window + 1, last + 1, states_at + 12 * (row + i),
                        weights_at + weights_bytes * i,
                    )  # fmt: skip
                for tile in range(tiles):
                    vectors = min(wide - tile * _BLOCK, _BLOCK) // LANES
                    own_sums = sums_at + 4 * _BLOCK * (tile * rows + row)
                    for i in range(own):
                        if states[row + i, 2] != 1:
                            _scale_row(own_sums + 4 * _BLOCK * i, states_at + 12 * (row + i) + 8, vectors)
                    chunk = values_at + tile * _BLOCK // 2 * row_bytes
                    _add_products(weights_at, weights_bytes, own, chunk, own_sums, _BLOCK // 2, vectors)
        _finish(sums, states, attended, batch, members, first, count, each)
