"""A table whose rows stay in a file until they are looked up, such as a token embedding."""

import os
from math import prod
from pathlib import Path

import torch

from .kept import KeptTensor


class TableInFile(KeptTensor):
    """A table `[..., rows, width]` in a file, where all leading dimensions are 1. The file is open as long as this exists.

    Rows are read, not mapped: for each row that is touched, Linux maps as much of the file as lies together in its
    cache, a megabyte or two, and that counts as memory of this process.
    """

    __slots__ = ("_file", "_offset")
    form = "table in a file"

    @staticmethod
    def __new__(cls, path: Path, offset: int, shape, dtype: torch.dtype):
        return torch.Tensor._make_wrapper_subclass(cls, tuple(shape), dtype=dtype)

    def __init__(self, path, offset, shape, dtype):
        """`offset`: bytes of the file before the table. OSError if the file cannot be opened."""
        self._file, self._offset = open(path, "rb", buffering=0), offset

    def plain(self) -> torch.Tensor:
        return self._read(0, prod(self.shape)).view(self.shape)

    def rows(self, indices: torch.Tensor) -> torch.Tensor:
        """`[..., width]`, a row for each of the integers `[...]`. IndexError for one that the table does not have."""
        (count, width), asked = self.shape[-2:], indices.flatten().tolist()
        bad = [index for index in asked if not 0 <= index < count]
        if bad:
            raise IndexError(f"rows {bad[:8]} are not in a table of {count}")
        found = torch.empty(len(asked), width, dtype=self.dtype)
        for row, index in zip(found, asked):
            self._read_into(row, index * width)
        return found.view(*indices.shape, width)

    def _read(self, start: int, count: int) -> torch.Tensor:
        found = torch.empty(count, dtype=self.dtype)
        self._read_into(found, start)
        return found

    def _read_into(self, values: torch.Tensor, start: int) -> None:
        """Fills contiguous values with those of the file from the element `start` on."""
        buffer, size = memoryview(values.view(torch.uint8).numpy()), self.dtype.itemsize
        position = self._offset + size * start
        while buffer:
            done = os.preadv(self._file.fileno(), [buffer], position)
            if not done:
                raise RuntimeError(f"{self._file.name} is shorter than when it was opened")
            buffer, position = buffer[done:], position + done
