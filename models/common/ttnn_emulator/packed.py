"""Weights that stay packed in memory: a torch tensor of 1.0625 bytes (`bfloat8_b`) or 0.5625 (`bfloat4_b`) a value."""

import ctypes

import torch

from . import openmp
from .bfp import round_bfp4, round_bfp8
from .compiled import entry, in_memory, in_threads
from .dtypes import DataType
from .kept import KeptTensor
from .loops import packed as kernel
from .loops.packed import BLOCK, CHUNK, ROWS_AT_ONCE, SHIFT_4, SHIFT_8
from .loops.products import BF16_PAIRS, COLUMNS, GROUPS

_BITS = {DataType.BFLOAT8_B: 8, DataType.BFLOAT4_B: 4}
_ROUND = {DataType.BFLOAT8_B: round_bfp8, DataType.BFLOAT4_B: round_bfp4}

_AT_ONCE = 32  # tiles that are packed or unpacked at once
# The time of a product in units of about 5 ps: so much for each weight, and 1 for each weight and row.
_ONE_WEIGHT, _PER_THREAD = 10, 1 << (24 if openmp.SLEEPS else 21)
_MANY_VALUES = 1 << 18  # of the rows, so that putting them into chunks pays


class PackedMatrix(KeptTensor):
    """A matrix `[..., K, N]` of block floats, where all leading dimensions are 1. To torch it is a bf16 tensor.

    `multiply` reads the packed form. `loops/packed.py` describes `mantissas` and `exponents`, which must not change.
    """

    __slots__ = ("mantissas", "exponents", "_constants")
    form = "packed matrix"

    @staticmethod
    def __new__(cls, mantissas: torch.Tensor, exponents: torch.Tensor, shape):
        return torch.Tensor._make_wrapper_subclass(cls, tuple(shape), dtype=torch.bfloat16)

    def __init__(self, mantissas, exponents, shape):
        self.mantissas, self.exponents = mantissas, exponents
        self._constants = self.bits, mantissas.data_ptr(), exponents.data_ptr(), shape[-2], len(mantissas), shape[-1]

    @property
    def bits(self) -> int:
        """Of a value: 8 or 4."""
        return 8 * self.mantissas.shape[2] // COLUMNS

    @property
    def _shift(self) -> int:
        return SHIFT_8 if self.bits == 8 else SHIFT_4

    def __repr__(self):
        return f"PackedMatrix({list(self.shape)}, {self.bits} bits)"

    def plain(self) -> torch.Tensor:
        depth, tiles = self.shape[-2], len(self.mantissas)
        matrix = torch.empty(depth, tiles, GROUPS, BLOCK, dtype=torch.bfloat16)
        for start in range(0, tiles, _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            integers = self.mantissas[some].unflatten(2, (-1, BLOCK))
            if self.bits == 4:
                integers = torch.stack((integers << 4 >> 4, integers >> 4), dim=3).flatten(2, 3)
            exponents = self.exponents[some].int()
            scales = ((exponents + self._shift).where(exponents > 0, 0) << 23).view(torch.float32)
            matrix[:, some] = (integers * scales[..., None]).transpose(0, 1)
        return matrix.view(depth, -1)[:, : self.shape[-1]].reshape(self.shape)

    def multiply(self, rows: torch.Tensor, magnitude_bits: int = 0) -> torch.Tensor:
        """`rows @ self` for bf16 rows `[..., K]`: bf16 `[..., N]`, summed in fp32. A row's bits depend on that row only.

        magnitude_bits: 7 or 3 rounds the product to block floats of so many bits.
        """
        bits, mantissas, exponents, depth, tiles, width = self._constants
        rows = in_memory(rows)
        count = rows.numel() // depth
        product = torch.empty(*rows.shape[:-1], COLUMNS * tiles, dtype=torch.bfloat16)
        if count > 1 and not BF16_PAIRS:
            rows = rows.float()
        if rows.numel() >= _MANY_VALUES:
            rows, strides = _in_chunks(rows.view(count, depth))
        else:
            size = rows.element_size()
            strides = size * depth, size * CHUNK
        work = depth * COLUMNS * tiles * (_ONE_WEIGHT + count)
        threads = max(1, min(torch.get_num_threads(), tiles, work // _PER_THREAD))
        arguments = _Arguments(
            0, bits, rows.data_ptr(), mantissas, exponents, product.data_ptr(), magnitude_bits, count, depth, tiles,
            *strides, threads,
        )  # fmt: skip
        openmp.call(entry(kernel.multiply), arguments, threads)
        return product if width == COLUMNS * tiles else product[..., :width]


_Arguments = ctypes.c_int64 * 13  # of `kernel.multiply`


def _in_chunks(rows: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
    """Rows as `[K / 128, M, 128]`, and the bytes from a row to the next and from 128 columns to the next.

    Rows far apart would displace each other in the CPU's caches.
    """
    count, depth = rows.shape
    chunks = torch.empty(-(-depth // CHUNK), count, CHUNK, dtype=rows.dtype)
    whole = depth // CHUNK * CHUNK
    chunks[: depth // CHUNK] = rows[:, :whole].unflatten(1, (-1, CHUNK)).transpose(0, 1)
    if whole < depth:
        chunks[-1, :, : depth - whole] = rows[:, whole:]
    size = rows.element_size()
    return chunks, (size * CHUNK, size * CHUNK * count)


def packed(values: torch.Tensor, dtype: DataType) -> torch.Tensor | None:
    """Values `[..., K, N]`, fp32 or bf16, rounded to a block float and packed; None if they do not fit.

    They fit if all leading dimensions are 1, K is a multiple of 4 and N of 16, and all values are finite and zero or at
    least 2^-96. They are rounded some columns at a time, so there is no rounded copy of the whole.
    """
    depth, width = values.shape[-2:] if values.dim() > 1 else (0, 0)
    if values.numel() != depth * width or not values.numel() or depth % ROWS_AT_ONCE or width % BLOCK:
        return None
    tiles = -(-width // COLUMNS)
    mantissas = torch.empty(tiles, depth, COLUMNS * _BITS[dtype] // 8, dtype=torch.int8)
    exponents = torch.empty(tiles, depth, GROUPS, dtype=torch.uint8)
    matrix = values.reshape(depth, width)
    for start in range(0, tiles, _AT_ONCE):
        some = _ROUND[dtype](matrix[:, start * COLUMNS : (start + _AT_ONCE) * COLUMNS]).t()
        some = torch.nn.functional.pad(some, (0, 0, 0, -len(some) % COLUMNS)).unflatten(0, (-1, COLUMNS))
        fits = torch.empty(len(some), dtype=torch.bool)
        part = slice(start, start + _AT_ONCE)
        some = in_memory(some)
        addresses = some.data_ptr(), depth, mantissas[part].data_ptr(), exponents[part].data_ptr(), fits.data_ptr()
        in_threads(kernel.pack, len(some), *addresses, _BITS[dtype], work=some.numel())
        if not fits.all():
            return None
    return PackedMatrix(mantissas, exponents, values.shape)
