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

All of this is in one file, because numba's cache on disk only notices changes in the file of the compiled function.
numba's own vectoriser does not keep sums in vector registers here. So the inner loops are written as LLVM's vector
instructions, of 16 lanes. LLVM splits these on CPUs with shorter registers.
"""

import functools

import numpy
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from .compiled import compiled

COLUMNS = 64  # of a tile
BLOCK = 16  # columns that share an exponent, and lanes of a vector
GROUPS = COLUMNS // BLOCK
ROWS_AT_ONCE = 4  # k rows that `_scale_row` takes; K must be a multiple

SHIFT_8, SHIFT_4 = 24, 28

# What the CPU that numba compiles for has (NUMBA_CPU_FEATURES can take some away).
_features = set(cpu_target.target_context.codegen()._tm_features.split(","))
BF16_PAIRS = "+avx512bf16" in _features  # else rows are multiplied as fp32
_ROWS = 4  # rows whose sums are in registers at once
_VECTORS = 4 if "+avx512f" in _features else 1  # vectors of columns whose sums are
CHUNK = 64  # k rows that are unpacked at once
_PANEL = 512  # rows that use an unpacked chunk
_SHUFFLE_BYTES = "+avx2" in _features and "+avx512f" not in _features
_AHEAD = 1024  # bytes; one row is so fast that the weights have to be asked for before they are needed

_int8, _int16, _int32, _int64, _float = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
_bytes, _ints, _floats = (ir.VectorType(kind, BLOCK) for kind in (_int8, _int32, _float))
_pointer = _int8.as_pointer()


class _BFloat(ir.Type):
    """LLVM's bf16, which llvmlite does not name."""

    def _to_string(self):
        return "bfloat"

    def __eq__(self, other):
        return isinstance(other, _BFloat)

    def __hash__(self):
        return hash(_BFloat)


_bfloat_pairs = ir.VectorType(_BFloat(), 2 * BLOCK)


def _emitted(emit):
    """An intrinsic whose arguments are integers, addresses and counts; `emit(builder, *arguments)` writes its code."""

    @functools.wraps(emit)  # so that numba sees its parameters
    def typed(context, *arguments):
        def codegen(context, builder, signature, values):
            emit(builder, *values)
            return context.get_dummy_value()

        return types.void(*[types.intp] * len(arguments)), codegen

    return intrinsic(typed)


def _constant(value):
    return ir.Constant(_ints, [value] * BLOCK)


def _load(builder, base, offset, kind, align=1):
    loaded = builder.load(builder.bitcast(builder.gep(base, [offset]), kind.as_pointer()))
    loaded.align = align
    return loaded


def _store(builder, value, base, offset, align=4):
    builder.store(value, builder.bitcast(builder.gep(base, [offset]), value.type.as_pointer())).align = align


def _times(builder, count, size):
    return builder.mul(count, _int64(size))


def _in_all_lanes(builder, scalar):
    undefined = ir.Constant(ir.VectorType(scalar.type, BLOCK), ir.Undefined)
    return builder.shuffle_vector(builder.insert_element(undefined, scalar, _int32(0)), undefined, _constant(0))


def _call(builder, name, result, *arguments):
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _multiply_add(builder, a, b, total):
    return _call(builder, "llvm.fma.v16f32", _floats, a, b, total)


def _add_products_of_pairs(builder, a, b, total):
    a, b = builder.bitcast(a, _bfloat_pairs), builder.bitcast(b, _bfloat_pairs)
    return _call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", _floats, total, a, b)


def _prefetch(builder, base, offset):
    to_read, keep, data = _int32(0), _int32(0), _int32(1)
    _call(builder, "llvm.prefetch.p0", ir.VoidType(), builder.gep(base, [offset]), to_read, keep, data)


def _scales(builder, exponents):
    """The fp32 powers of two with these exponents (int32)."""
    shift = _constant(23) if isinstance(exponents.type, ir.VectorType) else _int32(23)
    kind = _floats if isinstance(exponents.type, ir.VectorType) else _float
    return builder.bitcast(builder.shl(exponents, shift), kind)


def _integers(builder, bits, tile, k):
    """A tile's row k as four fp32 vectors of its integers, shifted."""
    offset = _times(builder, k, COLUMNS * bits // 8)
    at = [builder.add(offset, _int64(2 * bits * group)) for group in range(GROUPS)]
    found = []
    if bits == 8:
        for start in at:
            found.append(_bytes_on_top(builder, tile, start))
    else:
        for start in at[::2]:
            both = _bytes_on_top(builder, tile, start)
            found += [builder.shl(both, _constant(SHIFT_4 - SHIFT_8)), builder.and_(both, _constant(-1 << SHIFT_4))]
    return [builder.sitofp(integers, _floats) for integers in found]


def _bytes_on_top(builder, base, offset):
    """16 bytes, each as the highest byte of an int32."""
    loaded = _load(builder, base, offset, _bytes)
    if not _SHUFFLE_BYTES:
        return builder.shl(builder.zext(loaded, _ints), _constant(SHIFT_8))
    # Two shuffles within halves of a register are faster than two extensions, which cross them.
    twice, undefined = ir.VectorType(_int8, 2 * BLOCK), ir.Constant(_bytes, ir.Undefined)
    lanes = ir.Constant(ir.VectorType(_int32, 2 * BLOCK), [*range(BLOCK)] * 2)
    loaded = builder.shuffle_vector(loaded, undefined, lanes)
    halves = []
    for first in (0, BLOCK // 2):
        order = [index for byte in range(first, first + BLOCK // 2) for index in (-1, -1, -1, byte)]  # -1: a zero
        half = _call(builder, "llvm.x86.avx2.pshuf.b", twice, loaded, ir.Constant(twice, order))
        halves.append(builder.bitcast(half, ir.VectorType(_int32, BLOCK // 2)))
    return builder.shuffle_vector(*halves, ir.Constant(_ints, [*range(BLOCK)]))


def _repeat(builder, count, carried, body):
    """Emits `for k in range(count): carried = body(k, carried)`; returns the last values. count is at least 1."""
    entry, head, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
    builder.branch(head)
    builder.position_at_end(head)
    k, values = builder.phi(_int64), [builder.phi(value.type) for value in carried]
    results = body(k, values)
    following, end = builder.add(k, _int64(1)), builder.block
    for phi, first, later in zip([k, *values], [_int64(0), *carried], [following, *results]):
        phi.add_incoming(first, entry)
        phi.add_incoming(later, end)
    builder.cbranch(builder.icmp_signed("<", following, count), head, after)
    builder.position_at_end(after)
    return results


@_emitted
def _scale_row(builder, x, exponents, scaled, quads):
    """scaled[k, group] = x[k] * scale of tile row k and group, for 4 * quads rows. x is bf16, scaled fp32."""
    x, exponents, scaled = (builder.inttoptr(address, _pointer) for address in (x, exponents, scaled))
    four = ir.VectorType(_int16, ROWS_AT_ONCE)

    def body(k, _):
        patterns = _load(builder, x, _times(builder, k, 8), four, align=2)
        each_four_times = ir.Constant(_ints, [lane // GROUPS for lane in range(BLOCK)])
        patterns = builder.shuffle_vector(patterns, ir.Constant(four, ir.Undefined), each_four_times)
        values = builder.bitcast(builder.shl(builder.zext(patterns, _ints), _constant(16)), _floats)
        scales = _scales(builder, builder.zext(_load(builder, exponents, _times(builder, k, 16), _bytes), _ints))
        _store(builder, builder.fmul(values, scales), scaled, _times(builder, k, 64))
        return []

    _repeat(builder, quads, [], body)


def _one_row_by(bits):
    @_emitted
    def multiply(builder, tile, scaled, sums, pairs):
        """sums[64] += one row times 2 * pairs rows of a tile. `scaled` is from `_scale_row`."""
        tile, scaled, sums = (builder.inttoptr(address, _pointer) for address in (tile, scaled, sums))

        def body(pair, totals):
            for odd in (1, 0):
                k = builder.add(_times(builder, pair, 2), _int64(odd))
                if odd:
                    _prefetch(builder, tile, builder.add(_times(builder, k, COLUMNS * bits // 8), _int64(_AHEAD)))
                factors = [
                    _load(builder, scaled, builder.add(_times(builder, k, 16), _int64(4 * group)), _float, align=4)
                    for group in range(GROUPS)
                ]
                totals = [
                    _multiply_add(builder, integers, _in_all_lanes(builder, factor), total)
                    for integers, factor, total in zip(_integers(builder, bits, tile, k), factors, totals)
                ]
            return totals

        at = [_int64(64 * group) for group in range(GROUPS)]
        totals = _repeat(builder, pairs, [_load(builder, sums, start, _floats, align=4) for start in at], body)
        for start, total in zip(at, totals):
            _store(builder, total, sums, start)

    return multiply


def _unpack_of(bits):
    row_bytes = COLUMNS * bits // 8

    @_emitted
    def unpack(builder, tile, exponents, chunk, pairs):
        """Writes 2 * pairs rows of a tile as [pairs, 4] vectors of bf16 pairs, or [pairs, 2, 4] of fp32, odd ones first."""
        tile, exponents, chunk = (builder.inttoptr(address, _pointer) for address in (tile, exponents, chunk))

        def weights(k):
            _prefetch(builder, tile, _times(builder, builder.add(k, _int64(CHUNK)), row_bytes))
            found = []
            for group, integers in enumerate(_integers(builder, bits, tile, k)):
                exponent = _load(builder, exponents, builder.add(_times(builder, k, GROUPS), _int64(group)), _int8)
                scale = _in_all_lanes(builder, _scales(builder, builder.zext(exponent, _int32)))
                found.append(builder.fmul(integers, scale))
            return found

        def body(pair, _):
            even = weights(_times(builder, pair, 2))
            odd = weights(builder.add(_times(builder, pair, 2), _int64(1)))
            if BF16_PAIRS:
                patterns = [[builder.bitcast(value, _ints) for value in values] for values in (even, odd)]
                vectors = [
                    builder.or_(builder.lshr(low, _constant(16)), builder.and_(high, _constant(-65536)))
                    for low, high in zip(*patterns)
                ]
            else:
                vectors = odd + even
            for index, vector in enumerate(vectors):
                start = builder.add(_times(builder, pair, 64 * len(vectors)), _int64(64 * index))
                _store(builder, vector, chunk, start)
            return []

        _repeat(builder, pairs, [], body)

    return unpack


@_emitted
def _multiply_rows(builder, x, stride, first, last, chunk, sums, pairs):
    """sums[_ROWS, 64] += the rows of x from `first` on times `_VECTORS` vectors of an unpacked chunk.

    Past the `last` row this one is read again, for sums that are not used. `stride`: bytes from a row to the next.
    """
    x, chunk, sums = (builder.inttoptr(address, _pointer) for address in (x, chunk, sums))
    rows = []
    for row in range(_ROWS):
        own = builder.add(first, _int64(row))
        own = builder.select(builder.icmp_signed("<", own, last), own, last)
        rows.append(builder.gep(x, [builder.mul(own, stride)]))
    cells = [(row, vector) for row in range(_ROWS) for vector in range(_VECTORS)]
    # A step is a pair of k rows, or one of both. `kind` is what x has for it.
    multiply_add, kind, steps = (_add_products_of_pairs, _int32, 1) if BF16_PAIRS else (_multiply_add, _float, 2)

    def body(pair, totals):
        for step in range(steps):
            first = builder.add(_times(builder, pair, steps), _int64(step))
            vectors = [
                _load(
                    builder, chunk, builder.add(_times(builder, first, 64 * GROUPS), _int64(64 * vector)),
                    _ints if BF16_PAIRS else _floats, align=4,
                )
                for vector in range(_VECTORS)
            ]  # fmt: skip
            k = builder.add(_times(builder, pair, steps), _int64(steps - 1 - step))  # odd rows come first
            values = [_in_all_lanes(builder, _load(builder, row, _times(builder, k, 4), kind, align=2)) for row in rows]
            totals = [
                multiply_add(builder, values[row], vectors[vector], total)
                for (row, vector), total in zip(cells, totals)
            ]
        return totals

    at = [_int64(64 * (GROUPS * row + vector)) for row, vector in cells]
    totals = _repeat(builder, pairs, [_load(builder, sums, start, _floats, align=4) for start in at], body)
    for start, total in zip(at, totals):
        _store(builder, total, sums, start)


@_emitted
def _narrow_row(builder, sums, target):
    """64 fp32 sums as the nearest bf16, ties to even."""
    sums, target = (builder.inttoptr(address, _pointer) for address in (sums, target))
    for group in range(GROUPS):
        values = _load(builder, sums, _int64(64 * group), _floats, align=4)
        patterns = builder.bitcast(values, _ints)
        odd = builder.and_(builder.lshr(patterns, _constant(16)), _constant(1))
        rounded = builder.lshr(builder.add(patterns, builder.add(odd, _constant(0x7FFF))), _constant(16))
        # Rounding a NaN's bits could change its sign.
        rounded = builder.select(builder.fcmp_unordered("uno", values, values), _constant(0x7FC0), rounded)
        _store(builder, builder.trunc(rounded, ir.VectorType(_int16, BLOCK)), target, _int64(32 * group), align=2)


@intrinsic
def _next(context, counter):
    """The number at an address, which is then one more. Threads get different numbers."""

    def codegen(context, builder, signature, arguments):
        return builder.atomic_rmw("add", builder.bitcast(arguments[0], _int64.as_pointer()), _int64(1), "monotonic")

    return types.intp(types.voidptr), codegen


_one_row_by_8, _one_row_by_4 = _one_row_by(8), _one_row_by(4)
_unpack_8, _unpack_4 = _unpack_of(8), _unpack_of(4)


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
        tile = _next(counter)
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
    sums = numpy.empty((min(rows, _PANEL) + _ROWS, COLUMNS), numpy.float32)
    panels = (rows + _PANEL - 1) // _PANEL
    row_bytes, last = COLUMNS * bits // 8, rows - 1
    while True:
        task = _next(counter)
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
            for row in range(0, count, _ROWS):
                for group in range(0, GROUPS, _VECTORS):
                    _multiply_rows(
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
