"""bf16 values as bit patterns (int16), whose arithmetic is done in fp32."""

import numpy

from ..compiled import compiled

# numba widens the result of int32 arithmetic to int64, unless each result is converted back.
_int, _float = numpy.int32, numpy.float32

# These flags allow sums to be reordered, so that they use vector registers.
SUMS = {"reassoc", "contract", "nsz"}


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
