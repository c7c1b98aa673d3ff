"""Products of some bf16 rows by a chunk of 64 columns that is ready for it, with sums in registers.

A chunk has k rows in pairs: a vector of bf16 pairs for 16 columns where the CPU multiplies these, else a row of fp32 for
each, the odd one first. So the order of a sum is the same on every CPU: over k = 1, 0, 3, 2, 5, 4, ...
"""

from llvmlite import ir
from numba.core.registry import cpu_target

from .vectors import (
    FLOAT, FLOATS, INT32, INT64, INTS, LANES, call, emitted, in_all_lanes, load, multiply_add, pointers, repeat, store,
    store_narrowed, times,
)  # fmt: skip

COLUMNS = 64  # of a chunk
GROUPS = COLUMNS // LANES  # vectors of a row of them

# What the CPU that numba compiles for has (NUMBA_CPU_FEATURES can take some away).
FEATURES = set(cpu_target.target_context.codegen()._tm_features.split(","))
BF16_PAIRS = "+avx512bf16" in FEATURES  # else rows are multiplied as fp32
ROWS = 4  # rows whose sums are in registers at once
VECTORS = 4 if "+avx512f" in FEATURES else 1  # vectors of columns whose sums are


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
def narrow_sums(builder, sums, target):
    """64 fp32 sums as the nearest bf16, ties to even."""
    sums, target = pointers(builder, sums, target)
    for group in range(GROUPS):
        values = load(builder, sums, INT64(64 * group), FLOATS, align=4)
        store_narrowed(builder, values, target, INT64(32 * group))

multiply_rows, multiply_rows_by_2 = _rows_by(VECTORS), _rows_by(2)
