"""Rounding to block floating point, bit for bit as the vendor packs `bfloat8_b` and `bfloat4_b`.

A block is 16 neighbours of a row. It stores one 8-bit exponent, the largest of its elements', and per
element a sign and a magnitude of 7 bits (`bfloat8_b`) or 3 bits (`bfloat4_b`). Every value fits bf16.

How a value becomes a magnitude, as found by comparing with the vendor's `from_torch`/`to_torch`:
its 24-bit significand is shifted right to the block's exponent, bits that fall off are dropped, what
is left is rounded to nearest, ties to even, and a magnitude that overflows is clamped to the largest.
Zero has no sign, and subnormal inputs count as zero.
"""

import torch

BLOCK = 16

# Elements per pass: small enough for the temporaries to stay in cache, large enough to be worth a call.
_CHUNK = 1 << 18

# Constants are tensors because torch takes those in half the time that it takes Python numbers.
_MAGNITUDE = torch.tensor(0x7FFF, dtype=torch.int16)
_EXPONENT = torch.tensor(0x7F80, dtype=torch.int16)
# Per number of magnitude bits: the largest magnitude, its negative, and 1.5 * 2^23 quanta, all for the exponent 0.
_SCALES = {
    bits: tuple(torch.tensor(value) for value in (2 - 2.0 ** (1 - bits), 2.0 ** (1 - bits) - 2, 1.5 * 2.0 ** (24 - bits)))
    for bits in (7, 3)
}

# Block maxima, as bf16 bit patterns, between which the fast path's float arithmetic is exact: the largest
# exponents overflow its rounding constant; below the smallest, subnormal elements would not round to zero.
_FAST_MIN = 16 << 7
_FAST_MAX = 230 << 7


def round_bfp8(tensor: torch.Tensor) -> torch.Tensor:
    """Rounds bf16 or fp32 values `[..., width]` to `bfloat8_b`; returns bf16 of the same shape.

    Blocks run along the last dimension, whose end is padded with zeros to a whole block.
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
    blocks = tensor.reshape(-1, BLOCK)
    rounder = _round_bf16 if tensor.dtype == torch.bfloat16 else _round_exactly
    rows = _CHUNK // BLOCK
    if len(blocks) <= rows:
        return rounder(blocks, magnitude_bits).view(tensor.shape)
    result = torch.empty(blocks.shape, dtype=torch.bfloat16)
    for start in range(0, len(blocks), rows):
        result[start : start + rows] = rounder(blocks[start : start + rows], magnitude_bits)
    return result.view(tensor.shape)


def _round_bf16(blocks: torch.Tensor, magnitude_bits: int) -> torch.Tensor:
    """Rounds bf16 `[n, 16]` with fp32 arithmetic: adding and subtracting 1.5 * 2^23 quanta rounds to even."""
    largest = torch.bitwise_and(blocks.view(torch.int16), _MAGNITUDE).amax(-1, keepdim=True)
    low, high = largest.aminmax()
    low = low.item()
    if high.item() > _FAST_MAX or (low < _FAST_MIN and ((largest > 0) & (largest < _FAST_MIN)).any()):
        return _round_exactly(blocks.float(), magnitude_bits)
    power = torch.bitwise_and(largest, _EXPONENT).view(torch.bfloat16).float()
    highest, lowest, rounding = [power * scale for scale in _SCALES[magnitude_bits]]
    values = blocks.float()
    torch.minimum(values, highest, out=values)
    torch.maximum(values, lowest, out=values)
    return values.add_(rounding).sub_(rounding).bfloat16()


def _round_exactly(blocks: torch.Tensor, magnitude_bits: int) -> torch.Tensor:
    """Rounds fp32 `[n, 16]` with integer arithmetic: exact for every input, several times slower."""
    bits = blocks.contiguous().view(torch.int32)
    exponent = bits.bitwise_and(0x7FFFFFFF).bitwise_right_shift_(23)
    shared = exponent.amax(-1, keepdim=True)
    significand = bits.bitwise_and(0x7FFFFF).bitwise_or_(0x800000).masked_fill_(exponent == 0, 0)
    significand.bitwise_right_shift_((shared - exponent).clamp_(max=31))
    dropped = 24 - magnitude_bits
    odd = significand.bitwise_right_shift(dropped).bitwise_and_(1)
    magnitude = significand.add_(odd).add_((1 << (dropped - 1)) - 1).bitwise_right_shift_(dropped)
    magnitude.clamp_(max=(1 << magnitude_bits) - 1)
    values = magnitude.float().mul_(2.0 ** (1 - magnitude_bits))
    values.mul_(shared.clamp(max=254).bitwise_left_shift_(23).view(torch.float32))
    values.mul_(torch.where(shared == 255, 2.0, 1.0))
    # Not negation by multiplication: a zero keeps no sign.
    values = torch.where((bits < 0) & (magnitude > 0), -values, values)
    return values.masked_fill_(blocks.isnan(), torch.nan).bfloat16()
