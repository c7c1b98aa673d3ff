"""Functions of 16 fp32 values, as LLVM's vector instructions; and what is computed of bf16 with them."""

import numpy
from llvmlite import ir

from ..compiled import compiled
from .block_float import BLOCK, round_row
from .vectors import (
    FLOATS, INTS, LANES, constant, emitted, multiply_add, pointers, repeat, rounded, store_narrowed, times, widened,
)  # fmt: skip


def fp32(value):
    return ir.Constant(FLOATS, [float(value)] * LANES)


def exp(builder, x):
    """exp(x) for x up to 88.7, to about one unit in the last place; 0 below -87, and NaN of NaN.

    x = n ln 2 + r with an integer n and |r| <= ln 2 / 2; then exp(r) by its series, times 2^n.
    """
    too_small = builder.fcmp_ordered("<", x, fp32(-87))
    bounded = builder.select(too_small, fp32(-87), x)
    to_integer = fp32(1.5 * 2**23)  # a sum with it has no bits below 1, and the integer as its lowest bits
    shifted = multiply_add(builder, bounded, fp32(1.4426950408889634), to_integer)
    n = builder.fneg(builder.fsub(shifted, to_integer))
    r = multiply_add(builder, n, fp32(0.693145751953125), bounded)  # ln 2 in two parts: n times the first is exact
    r = multiply_add(builder, n, fp32(1.42860682030941723e-6), r)
    series = fp32(1 / 720)
    for factorial in (120, 24, 6, 2, 1, 1):
        series = multiply_add(builder, series, r, fp32(1 / factorial))
    exponent = builder.shl(builder.bitcast(shifted, INTS), constant(23))
    result = builder.bitcast(builder.add(builder.bitcast(series, INTS), exponent), FLOATS)
    result = builder.select(too_small, fp32(0), result)
    return builder.select(builder.fcmp_unordered("uno", x, x), x, result)


def larger(builder, a, b):
    """The larger of two vectors of fp32, lane by lane. A NaN is the larger one."""
    return builder.select(builder.fcmp_unordered("ult", a, b), b, a)


def silu(builder, x):
    """x / (1 + exp(-x)); -0 where exp(-x) is larger than any fp32."""
    turned = builder.fneg(x)
    too_large = builder.fcmp_ordered(">", turned, fp32(88.7))
    power = exp(builder, builder.select(too_large, fp32(0), turned))
    result = builder.fdiv(x, builder.fadd(power, fp32(1)))
    return builder.select(too_large, builder.fmul(x, fp32(0)), result)


@emitted
def _gate(builder, gate, up, product, vectors):
    """silu(gate), as bf16, times up, for 16 * `vectors` bf16 values."""
    gate, up, product = pointers(builder, gate, up, product)

    def body(vector, _):
        at = times(builder, vector, 2 * LANES)
        opened = builder.and_(rounded(builder, silu(builder, widened(builder, gate, at))), constant(-65536))
        store_narrowed(builder, builder.fmul(builder.bitcast(opened, FLOATS), widened(builder, up, at)), product, at)
        return []

    repeat(builder, vectors, [], body)


_AT_ONCE = 64  # blocks, few enough that an intermediate result stays in the CPU's cache


@compiled()
def gate(start, stop, gates, ups, product, magnitude_bits):
    """silu(gates) * ups for some blocks `[n, 16]` of bf16 at addresses, each factor and the product rounded to bf16.

    The product is then rounded to block floats if `magnitude_bits` is not 0.
    """
    some, extremes = numpy.empty(_AT_ONCE * BLOCK, numpy.int16), numpy.empty(2, numpy.uint16)
    for first in range(start, stop, _AT_ONCE):
        count, at = min(_AT_ONCE, stop - first), 2 * BLOCK * first
        if magnitude_bits:
            _gate(gates + at, ups + at, some.ctypes.data, count)
            round_row(some.ctypes.data, product + at, count, magnitude_bits, extremes)
        else:
            _gate(gates + at, ups + at, product + at, count)
