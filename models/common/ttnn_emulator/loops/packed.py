"""Compiled loops over packed weights: packing, and the product of bf16 rows by a packed matrix.

A packed matrix `[K, N]` of block floats lies in tiles of 64 columns:

    mantissas  int8  [N / 64, K, 64]  `bfloat8_b`: a signed integer per value
               int8  [N / 64, K, 32]  `bfloat4_b`: two, column c of each 32 in the low nibble, column c + 16 in the high
    exponents  uint8 [N / 64, K, 4]   of a block of 16 columns: a value is its integer times
                                      2 ^ (exponent - 127 + shift); 0 for a block of zeros

so a product reads each tile from its first byte to its last. The loops get the integers with this shift, 24 bits to the
left for `bfloat8_b` and 28 for `bfloat4_b`, because fewer instructions put them there.

Each element of a product is one chain of fused multiply-adds in fp32 over k = 1, 0, 3, 2, 5, 4, ... It depends neither
on the number of rows nor on the CPU, but for subnormal numbers. This order is the one of AVX-512's instruction for pairs
of bf16, VDPBF16PS: it adds the odd product first, each with a rounding of its own (Intel's Software Developer's Manual;
the tests compare both on a CPU that has it). A bf16 times a block float is exact in fp32, so a scale may be applied to
either.

One row is multiplied straight from the integers, its values times the scales. For more rows, some of a tile's rows are
unpacked into a buffer that stays in the CPU's first cache.

The inner loops are written as LLVM's vector instructions.
"""

import numpy
from llvmlite import ir
from numba import carray
from numba.core.registry import cpu_target

from ..compiled import compiled
from .vectors import (
    BYTES, FLOAT, FLOATS, INT8, INT16, INT32, INT64, INTS, LANES, call, constant, emitted, in_all_lanes, load, multiply_add,
    next_of, pointers, repeat, store, store_narrowed, times,
)  # fmt: skip

COLUMNS = 64  # of a tile
BLOCK = 16  # columns that share an exponent, and lanes of a vector
GROUPS = COLUMNS // BLOCK
ROWS_AT_ONCE = 4  # k rows that `_scale_row` takes; K must be a multiple

SHIFT_8, SHIFT_4 = 24, 28

# What the CPU that numba compiles for has (NUMBA_CPU_FEATURES can take some away).
_features = set(cpu_target.target_context.codegen()._tm_features.split(","))
BF16_PAIRS = "+avx512bf16" in _features  # else rows are multiplied as fp32
ROWS = 4  # rows whose sums are in registers at once
VECTORS = 4 if "+avx512f" in _features else 1  # vectors of columns whose sums are
CHUNK = 64  # k rows that are unpacked at once
_PANEL = 512  # rows that use an unpacked chunk
_SHUFFLE_BYTES = "+avx2" in _features and "+avx512f" not in _features
_AHEAD = 1024  # bytes; one row is so fast that the weights have to be asked for before they are needed


class _BFloat(ir.Type):
    """LLVM's bf16, which llvmlite does not name."""

    def _to_string(self):
        return "bfloat"

    def __eq__(self, other):
        return isinstance(other, _BFloat)

    def __hash__(self):
        return hash(_BFloat)


_bfloat_pairs = ir.VectorType(_BFloat(), 2 * LANES)


def _add_products_of_pairs(builder, a, b, total):
    a, b = builder.bitcast(a, _bfloat_pairs), builder.bitcast(b, _bfloat_pairs)
    return call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", FLOATS, total, a, b)


def _prefetch(builder, base, offset):
    to_read, keep, data = INT32(0), INT32(0), INT32(1)
    call(builder, "llvm.prefetch.p0", ir.VoidType(), builder.gep(base, [offset]), to_read, keep, data)


def _scales(builder, exponents):
    """The fp32 powers of two with these exponents (int32)."""
    shift = constant(23) if isinstance(exponents.type, ir.VectorType) else INT32(23)
    kind = FLOATS if isinstance(exponents.type, ir.VectorType) else FLOAT
    return builder.bitcast(builder.shl(exponents, shift), kind)


def _integers(builder, bits, tile, k):
    """A tile's row k as four fp32 vectors of its integers, shifted."""
    offset = times(builder, k, COLUMNS * bits // 8)
    at = [builder.add(offset, INT64(2 * bits * group)) for group in range(GROUPS)]
    found = []
    if bits == 8:
        for start in at:
            found.append(_bytes_on_top(builder, tile, start))
    else:
        for start in at[::2]:
            both = _bytes_on_top(builder, tile, start)
            found += [builder.shl(both, constant(SHIFT_4 - SHIFT_8)), builder.and_(both, constant(-1 << SHIFT_4))]
    return [builder.sitofp(integers, FLOATS) for integers in found]


def _bytes_on_top(builder, base, offset):
    """16 bytes, each as the highest byte of an int32."""
    loaded = load(builder, base, offset, BYTES)
    if not _SHUFFLE_BYTES:
        return builder.shl(builder.zext(loaded, INTS), constant(SHIFT_8))
    # Two shuffles within halves of a register are faster than two extensions, which cross them.
    twice, undefined = ir.VectorType(INT8, 2 * BLOCK), ir.Constant(BYTES, ir.Undefined)
    lanes = ir.Constant(ir.VectorType(INT32, 2 * BLOCK), [*range(BLOCK)] * 2)
    loaded = builder.shuffle_vector(loaded, undefined, lanes)
    halves = []
    for first in (0, BLOCK // 2):
        order = [index for byte in range(first, first + BLOCK // 2) for index in (-1, -1, -1, byte)]  # -1: a zero
        half = call(builder, "llvm.x86.avx2.pshuf.b", twice, loaded, ir.Constant(twice, order))
        halves.append(builder.bitcast(half, ir.VectorType(INT32, BLOCK // 2)))
    return builder.shuffle_vector(*halves, ir.Constant(INTS, [*range(BLOCK)]))


@emitted
def _scale_row(builder, x, exponents, scaled, quads):
    """scaled[k, group] = x[k] * scale of tile row k and group, for 4 * quads rows. x is bf16, scaled fp32."""
    x, exponents, scaled = pointers(builder, x, exponents, scaled)
    four = ir.VectorType(INT16, ROWS_AT_ONCE)

    def body(k, _):
        patterns = load(builder, x, times(builder, k, 8), four, align=2)
        each_four_times = ir.Constant(INTS, [lane // GROUPS for lane in range(BLOCK)])
        patterns = builder.shuffle_vector(patterns, ir.Constant(four, ir.Undefined), each_four_times)
        values = builder.bitcast(builder.shl(builder.zext(patterns, INTS), constant(16)), FLOATS)
        scales = _scales(builder, builder.zext(load(builder, exponents, times(builder, k, 16), BYTES), INTS))
        store(builder, builder.fmul(values, scales), scaled, times(builder, k, 64))
        return []

    repeat(builder, quads, [], body)


def _one_row_by(bits):
    @emitted
    def multiply(builder, tile, scaled, sums, pairs):
        """sums[64] += one row times 2 * pairs rows of a tile. `scaled` is from `_scale_row`."""
        tile, scaled, sums = pointers(builder, tile, scaled, sums)

        def body(pair, totals):
            for odd in (1, 0):
                k = builder.add(times(builder, pair, 2), INT64(odd))
                if odd:
                    _prefetch(builder, tile, builder.add(times(builder, k, COLUMNS * bits // 8), INT64(_AHEAD)))
                factors = [
                    load(builder, scaled, builder.add(times(builder, k, 16), INT64(4 * group)), FLOAT, align=4)
                    for group in range(GROUPS)
                ]
                totals = [
                    multiply_add(builder, integers, in_all_lanes(builder, factor), total)
                    for integers, factor, total in zip(_integers(builder, bits, tile, k), factors, totals)
                ]
            return totals

        at = [INT64(64 * group) for group in range(GROUPS)]
        totals = repeat(builder, pairs, [load(builder, sums, start, FLOATS, align=4) for start in at], body)
        for start, total in zip(at, totals):
            store(builder, total, sums, start)

    return multiply


def _unpack_of(bits):
    row_bytes = COLUMNS * bits // 8

    @emitted
    def unpack(builder, tile, exponents, chunk, pairs):
        """Writes 2 * pairs rows of a tile as [pairs, 4] vectors of bf16 pairs, or [pairs, 2, 4] of fp32, odd ones first."""
        tile, exponents, chunk = pointers(builder, tile, exponents, chunk)

        def weights(k):
            _prefetch(builder, tile, times(builder, builder.add(k, INT64(CHUNK)), row_bytes))
            found = []
            for group, integers in enumerate(_integers(builder, bits, tile, k)):
                exponent = load(builder, exponents, builder.add(times(builder, k, GROUPS), INT64(group)), INT8)
                scale = in_all_lanes(builder, _scales(builder, builder.zext(exponent, INT32)))
                found.append(builder.fmul(integers, scale))
            return found

        def body(pair, _):
            even = weights(times(builder, pair, 2))
            odd = weights(builder.add(times(builder, pair, 2), INT64(1)))
            if BF16_PAIRS:
                patterns = [[builder.bitcast(value, INTS) for value in values] for values in (even, odd)]
                vectors = [
                    builder.or_(builder.lshr(low, constant(16)), builder.and_(high, constant(-65536)))
                    for low, high in zip(*patterns)
                ]
            else:
                vectors = odd + even
            for index, vector in enumerate(vectors):
                start = builder.add(times(builder, pair, 64 * len(vectors)), INT64(64 * index))
                store(builder, vector, chunk, start)
            return []

        repeat(builder, pairs, [], body)

    return unpack


def _rows_by(width):
    @emitted
    def multiply_rows(builder, x, stride, first, last, chunk, sums, pairs):
        """sums[ROWS, 64] += the rows of x from `first` on times `width` vectors of an unpacked chunk.

        Past the `last` row this one is read again, for sums that are not used. `stride`: bytes from a row to the next.
        """
        x, chunk, sums = pointers(builder, x, chunk, sums)
        rows = []
        for row in range(ROWS):
            own = builder.add(first, INT64(row))
            own = builder.select(builder.icmp_signed("<", own, last), own, last)
            rows.append(builder.gep(x, [builder.mul(own, stride)]))
        cells = [(row, vector) for row in range(ROWS) for vector in range(width)]
        # A step is a pair of k rows, or one of both. `kind` is what x has for it.
        add_products, kind, steps = (_add_products_of_pairs, INT32, 1) if BF16_PAIRS else (multiply_add, FLOAT, 2)

        def body(pair, totals):
            for step in range(steps):
                first = builder.add(times(builder, pair, steps), INT64(step))
                vectors = [
                    load(
                        builder, chunk, builder.add(times(builder, first, 64 * GROUPS), INT64(64 * vector)),
                        INTS if BF16_PAIRS else FLOATS, align=4,
                    )
                    for vector in range(width)
                ]  # fmt: skip
                k = builder.add(times(builder, pair, steps), INT64(steps - 1 - step))  # odd rows come first
                values = [in_all_lanes(builder, load(builder, row, times(builder, k, 4), kind, align=2)) for row in rows]
                totals = [
                    add_products(builder, values[row], vectors[vector], total)
                    for (row, vector), total in zip(cells, totals)
                ]
            return totals

        at = [INT64(64 * (GROUPS * row + vector)) for row, vector in cells]
        totals = repeat(builder, pairs, [load(builder, sums, start, FLOATS, align=4) for start in at], body)
        for start, total in zip(at, totals):
            store(builder, total, sums, start)

    return multiply_rows


@emitted
def _narrow_row(builder, sums, target):
    """64 fp32 sums as the nearest bf16, ties to even."""
    sums, target = pointers(builder, sums, target)
    for group in range(GROUPS):
        values = load(builder, sums, INT64(64 * group), FLOATS, align=4)
        store_narrowed(builder, values, target, INT64(32 * group))


_one_row_by_8, _one_row_by_4 = _one_row_by(8), _one_row_by(4)
_unpack_8, _unpack_4 = _unpack_of(8), _unpack_of(4)
multiply_rows, multiply_rows_by_2 = _rows_by(VECTORS), _rows_by(2)


@compiled()
def pack(columns, mantissas, exponents, fits, bits):
    """Packs `columns` [n, 64, K], bit patterns of bf16 that are block floats. `fits[n]`: whether a tile can be packed.

    A tile cannot if it has an infinity, a NaN, or a block, not of zeros, whose largest value is below 2^-96.
    """
    depth, point = columns.shape[2], bits - 2
    shift = SHIFT_8 if bits == 8 else SHIFT_4
    shared, inverse = numpy.empty(CHUNK, numpy.int16), numpy.empty(CHUNK, numpy.float32)
    for tile in range(columns.shape[0]):
        fits[tile] = True
        mantissas[tile] = 0
        for start in range(0, depth, CHUNK):
            count = min(CHUNK, depth - start)
            for group in range(GROUPS):
                some = columns[tile, BLOCK * group : BLOCK * (group + 1), start : start + count]
                shared[:] = 0
                for column in range(BLOCK):
                    for k in range(count):
                        shared[k] = max(shared[k], some[column, k] & 0x7F80)
                for k in range(count):
                    exponent = (shared[k] >> 7) - point - shift
                    zero = shared[k] == 0
                    fits[tile] = fits[tile] and (zero or 0 < exponent < 255 - point - shift)
                    exponents[tile, start + k, group] = 0 if zero else exponent
                    inverted = numpy.int32(0 if zero else 254 - exponent - shift)
                    inverse[k] = numpy.int32(inverted << 23).view(numpy.float32)
                for column in range(BLOCK):
                    for k in range(count):
                        value = numpy.int32(numpy.int32(some[column, k]) << 16).view(numpy.float32) * inverse[k]
                        if bits == 8:
                            mantissas[tile, start + k, BLOCK * group + column] = numpy.int8(value)
                        else:
                            nibble = (numpy.int8(value) & 15) << (4 * (group % 2))
                            mantissas[tile, start + k, BLOCK * (group // 2) + column] |= numpy.int8(nibble)


@compiled()
def _multiply_one(bits, x, mantissas, exponents, product, depth, tiles, counter):
    scaled = numpy.empty(CHUNK * GROUPS, numpy.float32)
    sums = numpy.empty(COLUMNS, numpy.float32)
    row_bytes = COLUMNS * bits // 8
    while True:
        tile = next_of(counter)
        if tile >= tiles:
            return
        sums[:] = 0
        for start in range(0, depth, CHUNK):
            count, at = min(CHUNK, depth - start), tile * depth + start
            _scale_row(x + 2 * start, exponents + GROUPS * at, scaled.ctypes.data, count // ROWS_AT_ONCE)
            if bits == 8:
                _one_row_by_8(mantissas + row_bytes * at, scaled.ctypes.data, sums.ctypes.data, count // 2)
            else:
                _one_row_by_4(mantissas + row_bytes * at, scaled.ctypes.data, sums.ctypes.data, count // 2)
        _narrow_row(sums.ctypes.data, product + 2 * COLUMNS * tile)


@compiled()
def _multiply_many(bits, x, mantissas, exponents, product, rows, depth, tiles, stride, chunk_stride, counter):
    chunk = numpy.empty(CHUNK * COLUMNS, numpy.float32)
    sums = numpy.empty((min(rows, _PANEL) + ROWS, COLUMNS), numpy.float32)
    panels = (rows + _PANEL - 1) // _PANEL
    row_bytes, last = COLUMNS * bits // 8, rows - 1
    while True:
        task = next_of(counter)
        if task >= tiles * panels:
            return
        tile, first = task % tiles, task // tiles * _PANEL
        count = min(rows - first, _PANEL)
        sums[:] = 0
        for start in range(0, depth, CHUNK):
            deep, at = min(CHUNK, depth - start), tile * depth + start
            if bits == 8:
                _unpack_8(mantissas + row_bytes * at, exponents + GROUPS * at, chunk.ctypes.data, deep // 2)
            else:
                _unpack_4(mantissas + row_bytes * at, exponents + GROUPS * at, chunk.ctypes.data, deep // 2)
            for row in range(0, count, ROWS):
                for group in range(0, GROUPS, VECTORS):
                    multiply_rows(
                        x + start // CHUNK * chunk_stride, stride, first + row, last, chunk.ctypes.data + 64 * group,
                        sums.ctypes.data + 4 * (COLUMNS * row + BLOCK * group), deep // 2,
                    )  # fmt: skip
        for row in range(count):
            target = (first + row) * tiles + tile
            _narrow_row(sums.ctypes.data + 4 * COLUMNS * row, product + 2 * COLUMNS * target)


def multiply(arguments):
    """The entry for C: multiplies as `arguments`, int64, says. Every thread that calls it takes tiles until none is left.

    They are: the next tile (0); 8 or 4 bits; the addresses of x, mantissas, exponents and the product, bf16 [rows, N];
    rows; K, a multiple of 4; N / 64; and the bytes in x from a row to the next, and from 64 columns to the next 64. x is
    bf16, or fp32 for more than one row unless `BF16_PAIRS`.
    """
    given = carray(arguments, 11, numpy.int64)
    bits, x, mantissas, exponents, product, rows, depth, tiles, stride, chunk_stride = given[1:]
    if rows == 1:
        _multiply_one(bits, x, mantissas, exponents, product, depth, tiles, arguments)
    else:
        _multiply_many(bits, x, mantissas, exponents, product, rows, depth, tiles, stride, chunk_stride, arguments)
