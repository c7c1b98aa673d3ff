"""Rounding to block floating point, bit for bit as the vendor packs `bfloat8_b` and `bfloat4_b`.

A block is 16 neighbours of a row. It stores one 8-bit exponent, the largest of its elements' exponents. For each
element it stores a sign and a magnitude of 7 bits (`bfloat8_b`) or 3 bits (`bfloat4_b`). Every value fits bf16.

This is how a value becomes a magnitude, found by comparing with the vendor's `from_torch`/`to_torch`. The
24-bit significand is shifted right to the block's exponent, and the bits shifted out are dropped. The rest is
rounded to nearest, ties to even. A magnitude that overflows is clamped to the largest.
Zero has no sign, and subnormal inputs count as zero.
"""

import torch

from .compiled import in_memory, in_threads
from .loops.block_float import BLOCK, round_blocks, round_blocks_down
from .tensor import is_transposed


def round_bfp8(tensor: torch.Tensor) -> torch.Tensor:
    """Rounds bf16 or fp32 values `[..., width]` to `bfloat8_b`; returns bf16 of the same shape.

    Blocks run along the last dimension. Its end is padded with zeros to a whole block. The result lies in memory as the
    values do if these are a transposed matrix of whole blocks, such as a weight.
    Raises TypeError for any other torch dtype.
    """
    return _round(tensor, magnitude_bits=7)


def round_bfp4(tensor: torch.Tensor) -> torch.Tensor:
    """Rounds bf16 or fp32 values `[..., width]` to `bfloat4_b`; otherwise as `round_bfp8`."""
    return _round(tensor, magnitude_bits=3)


def _round(tensor: torch.Tensor, magnitude_bits: int) -> torch.Tensor:
    if tensor.dtype not in (torch.bfloat16, torch.float32):
        raise TypeError(f"block floating point rounds torch.bfloat16 or torch.float32, not {tensor.dtype}")
    if tensor.is_meta or tensor.numel() == 0:
        return torch.empty_like(tensor, dtype=torch.bfloat16)
    width = tensor.shape[-1] if tensor.dim() else 1
    if width % BLOCK:
        padded = torch.nn.functional.pad(tensor.reshape(-1, width), (0, -width % BLOCK))
        return _round(padded, magnitude_bits)[:, :width].reshape(tensor.shape)
    turned = is_transposed(tensor)
    tensor = in_memory(tensor.mT if turned else tensor)
    rounded = torch.empty(tensor.shape, dtype=torch.bfloat16)
    addresses, count = (tensor.data_ptr(), rounded.data_ptr(), tensor.element_size()), tensor.numel()
    if turned:
        below = tensor.shape[-1]
        in_threads(round_blocks_down, count // BLOCK // below, *addresses, below, magnitude_bits, work=count)
        return rounded.mT
    in_threads(round_blocks, count // BLOCK, *addresses, magnitude_bits, work=count)
    return rounded
