"""Reads rows of a file."""

from numba import types
from numba.extending import intrinsic

from ..compiled import compiled
from .vectors import INT32, INT64, call, pointers


@intrinsic
def _pread(context, file, target, count, position):
    """The function of C: bytes read, or -1."""

    def codegen(context, builder, signature, arguments):
        file, target, count, position = arguments
        return call(builder, "pread", INT64, builder.trunc(file, INT32), *pointers(builder, target), count, position)

    return types.intp(*[types.intp] * 4), codegen


@compiled()
def read_rows(indices, rows, file, offset, height):
    """Fills `rows` [n, size], bytes, with those rows of a file descriptor that `indices` [n] counts from `offset` on.

    Returns -1, or the first of n whose row is not in a table of that `height`, or cannot be read.
    """
    count, size = rows.shape
    for i in range(count):
        if not 0 <= indices[i] < height:
            return i
        done = 0
        while done < size:
            found = _pread(file, rows.ctypes.data + i * size + done, size - done, offset + indices[i] * size + done)
            if found <= 0:
                return i
            done += found
    return -1
