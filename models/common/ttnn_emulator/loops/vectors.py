"""Functions for loops that are written as LLVM's vector instructions, of 16 lanes.

numba's own vectoriser keeps no sums in registers, and does what is left of a row one element at a time. LLVM splits these
instructions on CPUs with shorter registers.
"""

import functools

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16

INT8, INT16, INT32, INT64, FLOAT = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
BYTES, SHORTS, INTS, FLOATS = (ir.VectorType(kind, LANES) for kind in (INT8, INT16, INT32, FLOAT))
POINTER = INT8.as_pointer()


def emitted(emit):
    """An intrinsic whose arguments are integers, addresses and counts; `emit(builder, *arguments)` writes its code."""

    @functools.wraps(emit)  # so that numba sees its parameters
    def typed(context, *arguments):
        def codegen(context, builder, signature, values):
            emit(builder, *values)
            return context.get_dummy_value()

        return types.void(*[types.intp] * len(arguments)), codegen

    return intrinsic(typed)


def constant(value):
    return ir.Constant(INTS, [value] * LANES)


def pointers(builder, *addresses):
    return [builder.inttoptr(address, POINTER) for address in addresses]


def load(builder, base, offset, kind, align=1):
    loaded = builder.load(builder.bitcast(builder.gep(base, [offset]), kind.as_pointer()))
    loaded.align = align
    return loaded


def store(builder, value, base, offset, align=4):
    builder.store(value, builder.bitcast(builder.gep(base, [offset]), value.type.as_pointer())).align = align


def times(builder, count, size):
    return builder.mul(count, INT64(size))


def in_all_lanes(builder, scalar):
    undefined = ir.Constant(ir.VectorType(scalar.type, LANES), ir.Undefined)
    return builder.shuffle_vector(builder.insert_element(undefined, scalar, INT32(0)), undefined, constant(0))


def call(builder, name, result, *arguments):
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def multiply_add(builder, a, b, total):
    return call(builder, "llvm.fma.v16f32", FLOATS, a, b, total)


def halved(builder, vector, combine):
    """The lanes of a vector combined to one value: those of its halves, then of the halves of that, and so on."""
    undefined, count = ir.Constant(vector.type, ir.Undefined), vector.type.count
    if count == 1:
        return builder.extract_element(vector, INT32(0))
    parts = (ir.Constant(ir.VectorType(INT32, count // 2), [*range(start, start + count // 2)]) for start in (0, count // 2))
    return halved(builder, combine(*(builder.shuffle_vector(vector, undefined, part) for part in parts)), combine)


def widened(builder, base, offset):
    """16 bf16 as fp32."""
    patterns = builder.zext(load(builder, base, offset, SHORTS, align=2), INTS)
    return builder.bitcast(builder.shl(patterns, constant(16)), FLOATS)


def rounded(builder, values):
    """The patterns of 16 fp32 whose upper halves are the nearest bf16, ties to even."""
    patterns = builder.bitcast(values, INTS)
    odd = builder.and_(builder.lshr(patterns, constant(16)), constant(1))
    nearest = builder.add(patterns, builder.add(odd, constant(0x7FFF)))
    # Rounding a NaN's bits could change its sign.
    return builder.select(builder.fcmp_unordered("uno", values, values), constant(0x7FC00000), nearest)


def store_narrowed(builder, values, base, offset):
    """16 fp32 as the nearest bf16."""
    store(builder, builder.trunc(builder.lshr(rounded(builder, values), constant(16)), SHORTS), base, offset, align=2)


def prefetch(builder, base, offset, keep):
    """Asks for the cache line at an address, which need not exist. keep: whether it is used again soon, not only once."""
    to_read, data = INT32(0), INT32(1)
    call(builder, "llvm.prefetch.p0", ir.VoidType(), builder.gep(base, [offset]), to_read, INT32(3 if keep else 0), data)


def repeat(builder, count, carried, body):
    """Emits `for k in range(count): carried = body(k, carried)`; returns the last values. count is at least 1."""
    entry, head, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
    builder.branch(head)
    builder.position_at_end(head)
    k, values = builder.phi(INT64), [builder.phi(value.type) for value in carried]
    results = body(k, values)
    following, end = builder.add(k, INT64(1)), builder.block
    for phi, first, later in zip([k, *values], [INT64(0), *carried], [following, *results]):
        phi.add_incoming(first, entry)
        phi.add_incoming(later, end)
    builder.cbranch(builder.icmp_signed("<", following, count), head, after)
    builder.position_at_end(after)
    return results


@intrinsic
def pointer(context, address):
    """An address as a pointer."""

    def codegen(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], POINTER)

    return types.voidptr(types.intp), codegen


@intrinsic
def next_of(context, counter):
    """The number at an address, which is then one more. Threads get different numbers."""

    def codegen(context, builder, signature, arguments):
        return builder.atomic_rmw("add", builder.bitcast(arguments[0], INT64.as_pointer()), INT64(1), "monotonic")

    return types.intp(types.voidptr), codegen


@emitted
def copy_rows(builder, source, stride, target, target_stride, size, count):
    """Copies `size` bytes of each of `count` rows, at least one; the strides are bytes too."""
    source, target = pointers(builder, source, target)

    def body(row, _):
        rows = (builder.gep(base, [builder.mul(row, step)]) for base, step in ((target, target_stride), (source, stride)))
        call(builder, "llvm.memcpy.p0.p0.i64", ir.VoidType(), *rows, size, ir.IntType(1)(0))
        return []

    repeat(builder, count, [], body)
