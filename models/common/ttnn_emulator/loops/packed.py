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

from ..compiled import compiled
from .bf16 import bytes_at, halves, widen_row
from .block_float import round_row
from .products import BF16_PAIRS, COLUMNS, FEATURES, GROUPS, ROWS, VECTORS, multiply_rows, narrow_sums
from .vectors import (
    BYTES, FLOAT, FLOATS, INT8, INT32, INT64, INTS, LANES, call, constant, emitted, in_all_lanes, load, multiply_add,
    next_of, pointers, prefetch, repeat, store, times,
)  # fmt: skip

BLOCK = LANES  # columns that share an exponent
ROWS_AT_ONCE = 4  # k rows that `_scale_row` takes; K must be a multiple

SHIFT_8, SHIFT_4 = 24, 28

CHUNK = 128  # k rows that are unpacked, or asked for, at once
_PANEL = 512  # rows that use an unpacked chunk
_SHUFFLE_BYTES = "+avx2" in FEATURES and "+avx512f" not in FEATURES


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
    """scaled[k, group] = x[k] * scale of tile row k and group, for 4 * quads rows. x and scaled are fp32."""
    x, exponents, scaled = pointers(builder, x, exponents, scaled)
    four = ir.VectorType(FLOAT, ROWS_AT_ONCE)

    def body(k, _):
        each_four_times = ir.Constant(INTS, [lane // GROUPS for lane in range(BLOCK)])
        prefetch(builder, exponents, builder.add(times(builder, k, 16), INT64(CHUNK * GROUPS)), keep=False)
        values = load(builder, x, times(builder, k, 16), four, align=4)
        values = builder.shuffle_vector(values, ir.Constant(four, ir.Undefined), each_four_times)
        scales = _scales(builder, builder.zext(load(builder, exponents, times(builder, k, 16), BYTES), INTS))
        store(builder, builder.fmul(values, scales), scaled, times(builder, k, 64))
        return []

    repeat(builder, quads, [], body)


def _one_row_by(bits):
    @emitted
    def multiply(builder, tile, ahead, scaled, sums, pairs):
        """sums[64] += one row times 2 * pairs rows of a tile. `scaled` is from `_scale_row`.

        One row is so fast that weights have to be asked for long before they are needed: as many rows from `ahead` on.
        """
        tile, ahead, scaled, sums = pointers(builder, tile, ahead, scaled, sums)

        def body(pair, totals):
            for odd in (1, 0):
                k = builder.add(times(builder, pair, 2), INT64(odd))
                if odd or bits == 8:  # a cache line has one row or two
                    prefetch(builder, ahead, times(builder, k, COLUMNS * bits // 8), keep=False)
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
            prefetch(builder, tile, times(builder, builder.add(k, INT64(CHUNK)), row_bytes), keep=False)
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


_one_row_by_8, _one_row_by_4 = _one_row_by(8), _one_row_by(4)
_unpack_8, _unpack_4 = _unpack_of(8), _unpack_of(4)


@compiled()
def pack(start_tile, stop_tile, columns, depth, mantissas, exponents, fits, bits):
    """Packs tiles of `columns` [n, 64, depth], bf16 that are block floats. `fits[n]`, bytes: whether each can be.

    A tile cannot if it has an infinity, a NaN, or a block, not of zeros, whose largest value is below 2^-96.
    """
    columns = halves(columns, (stop_tile, COLUMNS, depth))
    mantissas = bytes_at(mantissas, (stop_tile, depth, COLUMNS * bits // 8))
    exponents, fits = bytes_at(exponents, (stop_tile, depth, GROUPS)), bytes_at(fits, stop_tile)
    point = bits - 2
    shift = SHIFT_8 if bits == 8 else SHIFT_4
    shared, inverse = numpy.empty(CHUNK, numpy.int16), numpy.empty(CHUNK, numpy.float32)
    for tile in range(start_tile, stop_tile):
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
def _finish_row(sums, row, target, magnitude_bits, extremes):
    """Writes 64 sums as bf16; if `magnitude_bits` is not 0, rounded to block floats. row: int16 [64], which is changed."""
    if magnitude_bits:
        narrow_sums(sums, row.ctypes.data)
        round_row(row.ctypes.data, target, GROUPS, magnitude_bits, extremes)
    else:
        narrow_sums(sums, target)


@compiled()
def _multiply_one(bits, x, mantissas, exponents, product, magnitude_bits, depth, tiles, threads, counter):
    values = numpy.empty(depth, numpy.float32)
    widen_row(halves(x, depth), values)
    scaled = numpy.empty(CHUNK * GROUPS, numpy.float32)
    sums = numpy.empty(COLUMNS, numpy.float32)
    row, extremes = numpy.empty(COLUMNS, numpy.int16), numpy.empty(2, numpy.uint16)
    row_bytes = COLUMNS * bits // 8
    while True:
        tile = next_of(counter)
        if tile >= tiles:
            return
        following = tile + threads  # a guess: while this tile is multiplied, each other thread takes one
        sums[:] = 0
        for start in range(0, depth, CHUNK):
            count, at = min(CHUNK, depth - start), tile * depth + start
            ahead = mantissas + row_bytes * (at + CHUNK if start + CHUNK < depth else following * depth)
            _scale_row(values.ctypes.data + 4 * start, exponents + GROUPS * at, scaled.ctypes.data, count // ROWS_AT_ONCE)
            if bits == 8:
                _one_row_by_8(mantissas + row_bytes * at, ahead, scaled.ctypes.data, sums.ctypes.data, count // 2)
            else:
                _one_row_by_4(mantissas + row_bytes * at, ahead, scaled.ctypes.data, sums.ctypes.data, count // 2)
        _finish_row(sums.ctypes.data, row, product + 2 * COLUMNS * tile, magnitude_bits, extremes)


@compiled()
def _multiply_many(
    bits, x, mantissas, exponents, product, magnitude_bits, rows, depth, tiles, stride, chunk_stride, counter
):  # fmt: skip
    chunk = numpy.empty(CHUNK * COLUMNS, numpy.float32)
    finished, extremes = numpy.empty(COLUMNS, numpy.int16), numpy.empty(2, numpy.uint16)
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
            sums_at = sums.ctypes.data + 4 * COLUMNS * row
            _finish_row(sums_at, finished, product + 2 * COLUMNS * target, magnitude_bits, extremes)


def multiply(arguments):
    """The entry for C: multiplies as `arguments`, int64, says. Every thread that calls it takes tiles until none is left.

    They are: the next tile (0); 8 or 4 bits; the addresses of x, mantissas, exponents and the product, bf16 [rows, N];
    the bits of a magnitude if the product is rounded to block floats, else 0; rows; K, a multiple of 4; N / 64; the
    bytes in x from a row to the next, and from 128 columns to the next 128; and the number of threads. x is bf16, or fp32
    for more than one row unless `BF16_PAIRS`.
    """
    given = carray(arguments, 13, numpy.int64)
    bits, x, mantissas, exponents, product, magnitude_bits, rows, depth, tiles, stride, chunk_stride, threads = given[1:]
    if rows == 1:
        _multiply_one(bits, x, mantissas, exponents, product, magnitude_bits, depth, tiles, threads, arguments)
    else:
        _multiply_many(
            bits, x, mantissas, exponents, product, magnitude_bits, rows, depth, tiles, stride, chunk_stride, arguments
        )
