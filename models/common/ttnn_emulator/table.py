"""A table whose rows stay in a file until they are looked up, such as a token embedding."""

from math import prod
from pathlib import Path

import numpy
import torch

from .kept import KeptTensor
from .loops.files import read_rows


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
        return self._read(numpy.zeros(1, numpy.int64), 1, prod(self.shape)).view(self.shape)

    def rows(self, indices: torch.Tensor) -> torch.Tensor:
        """`[..., width]`, a row for each of the integers `[...]`. IndexError for one that the table does not have."""
        found = self._read(indices.reshape(-1).numpy(), *self.shape[-2:])
        return found.view(*indices.shape, self.shape[-1])

    def _read(self, indices: numpy.ndarray, height: int, width: int) -> torch.Tensor:
        """Those rows, if the table were one of this height and width."""
        found = torch.empty(len(indices), width, dtype=self.dtype)
        unread = read_rows(indices, found.view(torch.uint8).numpy(), self._file.fileno(), self._offset, height)
        if unread == -1:
            return found
        if not 0 <= indices[unread] < height:
            raise IndexError(f"row {indices[unread]} is not in a table of {height}")
        raise RuntimeError(f"{self._file.name} cannot be read, or is shorter than when it was opened")
