"""silu(a) * b in one pass: the product that gates a feed-forward network (Shazeer, "GLU Variants Improve Transformer",
2020), which is a large part of the time of an elementwise op."""

import torch

from ..compiled import in_memory, in_threads
from ..dtypes import MAGNITUDE_BITS, DataType
from ..loops.block_float import BLOCK
from ..loops.functions import gate
from ..program import rounding

_WORK = 4  # elements in the time that `in_threads` takes one to need


def gated(kept_as: DataType, otherwise):
    """A kernel of silu(a) * b that rounds its result to the dtype `kept_as`.

    It has the bits of torch's functions on bf16. `otherwise` is a kernel that computes the same for any tensors.
    """
    round_to, magnitude_bits = rounding(kept_as), MAGNITUDE_BITS.get(kept_as, 0)
    of_bf16 = magnitude_bits or kept_as is DataType.BFLOAT16

    def kernel(a, b):
        alike = a.dtype is b.dtype is torch.bfloat16 and a.shape == b.shape
        if not (of_bf16 and alike and a.dim() and a.shape[-1] % BLOCK == 0) or a.is_meta:
            return round_to(otherwise(a, b))
        a, b = in_memory(a), in_memory(b)
        result = torch.empty(a.shape, dtype=torch.bfloat16)
        size = a.numel()
        addresses = a.data_ptr(), b.data_ptr(), result.data_ptr()
        in_threads(gate, size // BLOCK, *addresses, magnitude_bits, work=_WORK * size)
        return result

    return kernel
