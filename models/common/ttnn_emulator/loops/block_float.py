"""Rounding to block floats; `bfp` describes the rule."""

import numpy
from llvmlite import ir

from ..compiled import compiled
from .bf16 import halves, widen, words
from .vectors import (
    FLOAT, FLOATS, INT16, INT32, INT64, INTS, SHORTS, call, constant, emitted, in_all_lanes, load, pointers, repeat, store,
    times,
)  # fmt: skip

_int, _float = numpy.int32, numpy.float32

BLOCK = 16  # elements of a block-float block

_AT_ONCE = 64  # blocks, few enough that intermediate results stay in the CPU's cache
# `_round_in_fp32` is exact if the largest magnitude of a bf16 block, as a bit pattern, is between these two. Larger
# exponents overflow its constant. With smaller ones, subnormal elements would not round to zero.
_FP32_FROM, _FP32_TO = 16 << 7, 230 << 7


@emitted
def _round_in_vectors(builder, values, rounded, largest, many_quanta, extremes, blocks):
    """Rounds `blocks` blocks of bf16 as `_round_in_fp32` does. extremes[2]: the least and greatest exponent pattern.

    largest, many_quanta: as fp32 bit patterns. A block of zeros has no part in the least.
    """
    values, rounded, extremes = pointers(builder, values, rounded, extremes)
    scalars = (builder.bitcast(builder.trunc(given, INT32), FLOAT) for given in (largest, many_quanta))
    largest, many_quanta = (in_all_lanes(builder, scalar) for scalar in scalars)

    def chosen(comparison, a, b):
        return builder.select(builder.icmp_unsigned(comparison, a, b), a, b)

    def body(block, found):
        at = times(builder, block, 2 * BLOCK)
        patterns = load(builder, values, at, SHORTS, align=2)
        exponents = builder.and_(patterns, ir.Constant(SHORTS, [0x7F80] * BLOCK))
        exponent = call(builder, "llvm.vector.reduce.umax.v16i16", INT16, exponents)
        power = builder.bitcast(builder.shl(builder.zext(exponent, INT32), INT32(16)), FLOAT)
        power = in_all_lanes(builder, power)
        limit, shift = builder.fmul(power, largest), builder.fmul(power, many_quanta)
        value = builder.bitcast(builder.shl(builder.zext(patterns, INTS), constant(16)), FLOATS)
        value = builder.select(builder.fcmp_ordered("<", value, limit), value, limit)
        below = builder.fneg(limit)
        value = builder.select(builder.fcmp_ordered(">", value, below), value, below)
        value = builder.fsub(builder.fadd(value, shift), shift)
        result = builder.trunc(builder.lshr(builder.bitcast(value, INTS), constant(16)), SHORTS)
        store(builder, result, rounded, at, align=2)
        # Less one, so that zero is the greatest: a block of zeros needs no care.
        return [chosen("<", builder.sub(exponent, INT16(1)), found[0]), chosen(">", exponent, found[1])]

    found = repeat(builder, blocks, [INT16(-1), INT16(0)], body)
    for index, value in enumerate(found):
        store(builder, value, extremes, INT64(2 * index), align=2)


@compiled()
def round_row(values, rounded, blocks, magnitude_bits, extremes):
    """Rounds `blocks` blocks of bf16 at an address to block floats at another. extremes: uint16 [2], which is changed."""
    largest = _float(2 - 2.0 ** (1 - magnitude_bits)).view(numpy.int32)
    many_quanta = _float(1.5 * 2.0 ** (24 - magnitude_bits)).view(numpy.int32)
    for start in range(0, blocks, _AT_ONCE):
        count, at = min(_AT_ONCE, blocks - start), 2 * BLOCK * start
        _round_in_vectors(values + at, rounded + at, largest, many_quanta, extremes.ctypes.data, count)
        if extremes[0] < _FP32_FROM - 1 or extremes[1] > _FP32_TO:
            _round_exactly(halves(values + at, (count, BLOCK)), halves(rounded + at, (count, BLOCK)), magnitude_bits)


@compiled()
def round_blocks(start, stop, values, rounded, itemsize, magnitude_bits):
    """Rounds some blocks `[n, 16]` of fp32 or bf16 (`itemsize` 4 or 2), at an address, to block floats in bf16."""
    rounded += 2 * BLOCK * start
    values += itemsize * BLOCK * start
    if itemsize == 4:
        _round_exactly(words(values, (stop - start, BLOCK)), halves(rounded, (stop - start, BLOCK)), magnitude_bits)
    else:
        round_row(values, rounded, stop - start, magnitude_bits, numpy.empty(2, numpy.uint16))


@compiled()
def round_blocks_down(start, stop, values, rounded, itemsize, width, magnitude_bits):
    """As `round_blocks`, of blocks that run down the columns: values and rounded are `[n, 16, width]`."""
    rounded = halves(rounded, (stop, BLOCK, width))
    if itemsize == 4:
        _round_columns(start, words(values, (stop, BLOCK, width)), rounded, magnitude_bits)
    else:
        _round_columns(start, halves(values, (stop, BLOCK, width)), rounded, magnitude_bits)


@compiled()
def _round_columns(first_row, values, rounded, magnitude_bits):
    width, at_once = values.shape[2], _AT_ONCE * BLOCK
    maxima, powers = numpy.empty(at_once, numpy.int16), numpy.empty(at_once, numpy.float32)
    for row in range(first_row, values.shape[0]):
        for start in range(0, width, at_once):
            some, target = values[row, :, start : start + at_once], rounded[row, :, start : start + at_once]
            if values.itemsize == 2 and _find_powers_down(some, maxima, powers):
                for element in range(BLOCK):
                    _round_in_fp32(some[element], target[element], powers, magnitude_bits)
            else:
                blocks = numpy.empty((some.shape[1], BLOCK), rounded.dtype)
                _round_exactly(numpy.ascontiguousarray(some.T), blocks, magnitude_bits)
                target[:] = blocks.T


@compiled()
def _find_powers_down(values, maxima, powers):
    """Writes 2 to the block's exponent into `powers` for each column of `values` `[16, blocks]`. Returns whether all
    blocks are zero or within the limits above."""
    maxima[:] = 0
    for element in range(BLOCK):
        for block in range(values.shape[1]):
            maxima[block] = max(maxima[block], values[element, block] & 0x7FFF)
    within = True
    for block in range(values.shape[1]):
        largest = maxima[block]
        within = within and (largest == 0 or _FP32_FROM <= largest <= _FP32_TO)
        powers[block] = widen(largest & 0x7F80)
    return within


@compiled()
def _round_in_fp32(values, rounded, powers, magnitude_bits):
    """Rounds bf16 values: adding and then subtracting 1.5 * 2^23 quanta rounds to a whole quantum, ties to even."""
    largest = _float(2 - 2.0 ** (1 - magnitude_bits))
    many_quanta = _float(1.5 * 2.0 ** (24 - magnitude_bits))
    for i in range(values.size):
        limit, shift = powers[i] * largest, powers[i] * many_quanta
        value = widen(values[i])
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
