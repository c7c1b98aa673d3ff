"""bf16 values as bit patterns (int16), whose arithmetic is done in fp32."""

import numpy
from numba import carray
from numpy.lib.stride_tricks import as_strided

from ..compiled import compiled
from .vectors import pointer

# numba widens the result of int32 arithmetic to int64, unless each result is converted back.
_int, _float = numpy.int32, numpy.float32


@compiled()
def halves(address, shape):
    """The array of 16-bit patterns of this shape at an address. It does not keep its memory alive."""
    return carray(pointer(address), shape, numpy.int16)


@compiled()
def words(address, shape):
    """As `halves`, of 32 bits."""
    return carray(pointer(address), shape, numpy.int32)


@compiled()
def bytes_at(address, shape):
    """As `halves`, of 8 bits."""
    return carray(pointer(address), shape, numpy.int8)


@compiled()
def strided(address, shape, strides):
    """As `halves`, with strides in bytes."""
    return as_strided(carray(pointer(address), 1, numpy.int16), shape, strides)


@compiled()
def row_address(array, b, row):
    """Of array[b, row]: a view would take as long as rotating a row."""
    return array.ctypes.data + b * array.strides[0] + row * array.strides[1]


@compiled()
def fp32_of(pattern):
    """The fp32 value of its bit pattern, an integer."""
    return _int(pattern).view(numpy.float32)


@compiled()
def widen(pattern):
    """The fp32 value of a bf16 bit pattern."""
    return _int(_int(pattern) << 16).view(numpy.float32)


@compiled()
def narrow(value):
    """The bit pattern of the bf16 nearest to an fp32 value, ties to even."""
    pattern = _float(value).view(numpy.int32)
    if _int(pattern & _int(0x7FFFFFFF)) > _int(0x7F800000):
        return numpy.int16(0x7FC0)  # NaN: rounding its bits could change the sign
    odd = _int(_int(pattern >> 16) & _int(1))
    return numpy.int16(_int(_int(_int(pattern + odd) + _int(0x7FFF)) >> 16))


@compiled()
def widen_row(row, values):
    for i in range(row.size):
        values[i] = widen(row[i])


@compiled()
def narrow_row(values, row):
    for i in range(row.size):
        row[i] = narrow(values[i])
