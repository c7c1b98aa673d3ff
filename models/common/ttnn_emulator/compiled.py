"""Helpers for loops compiled by numba: compiling and caching, passing torch tensors, running in threads."""

import ctypes
import inspect
import warnings
from functools import lru_cache
from pathlib import Path

import numba
import numpy
import torch
from numba import carray, types
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc
from numba.core.dispatcher import Dispatcher
from numba.np.unsafe.ndarray import to_fixed_tuple

from . import openmp
from .kept import KeptTensor
from .loops.vectors import next_of

_PATTERNS = {torch.bfloat16: torch.int16, torch.float32: torch.int32}
_PER_THREAD = 1 << (20 if openmp.SLEEPS else 15)  # elements of work that are worth a thread; loops read 2 to 8 in a ns


def bits(tensor: torch.Tensor) -> numpy.ndarray:
    """The bit patterns of a bf16 (as int16) or fp32 (as int32) tensor. They share its memory if it is contiguous."""
    tensor = tensor.detach() if tensor.requires_grad else tensor
    return tensor.contiguous().view(_PATTERNS[tensor.dtype]).numpy()


def in_memory(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, or a contiguous copy, so that its `data_ptr()` is the address of its values in their order."""
    return _plain(tensor).contiguous()


def rows_in_memory(tensor: torch.Tensor) -> torch.Tensor:
    """As `in_memory`, where only the elements of a row, the last dimension, have to be neighbours."""
    tensor = _plain(tensor)
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _plain(tensor):
    return tensor.plain() if isinstance(tensor, KeptTensor) else tensor


def fp32_bits(value: float) -> int:
    """The bit pattern of the nearest fp32, for loops that take integers only."""
    return int(numpy.float32(value).view(numpy.int32))


def in_threads(loop: Dispatcher, count: int, *others: int, work: int) -> None:
    """Runs loop(0, count, *others). For much work, each of torch's threads runs it for parts, loop(start, stop, *others).

    work: number of elements that the loop reads.
    """
    threads = min(torch.get_num_threads(), count, work // _PER_THREAD)
    if threads < 2:
        loop(0, count, *others)
        return
    arguments = (ctypes.c_int64 * (3 + len(others)))(0, threads, count, *others)
    openmp.call(_parts(loop, len(others)), arguments, threads)


@lru_cache(maxsize=None)
def _parts(loop: Dispatcher, n: int):
    """The entry for C that takes parts of a loop with n integers until none is left. Arguments, int64: the next part (0),
    the number of parts, the count, and the integers."""

    def take_parts(arguments):
        given = carray(arguments, 3 + n, numpy.int64)
        parts, count, others = given[1], given[2], to_fixed_tuple(given[3:], n)
        while True:
            part = next_of(arguments)
            if part >= parts:
                return
            loop(count * part // parts, count * (part + 1) // parts, *others)

    return _for_c(take_parts, loop.py_func)


def compiled(**options):
    """Compiles a function at its first call. The result is kept on disk for later processes if a folder is writable."""

    def decorate(function):
        loop = numba.njit(nogil=True, error_model="numpy", **options)(function)
        loop._cache = _kept_on_disk(function) or loop._cache
        return loop

    return decorate


@lru_cache(maxsize=None)
def entry(function):
    """A function of one address, compiled so that C can call it, as a ctypes function. It is kept on disk as above."""
    return _for_c(function, function)


def _for_c(function, kept_for):
    """`function` as above, kept on disk among what is compiled of `kept_for`."""
    options = {"nopython": True, "error_model": "numpy"}
    callback = CFunc(function, ((types.voidptr,), types.void), locals={}, options=options)
    callback._cache = _kept_on_disk(kept_for) or callback._cache
    callback.compile()
    return callback.ctypes


class _Cache(FunctionCache):
    """numba's cache, which knows the file of the function only. Here a change in any file of its folder, or in this one,
    counts.

    A disk that cannot be written to, such as a full one, is a warning: this process goes on, the next one has to compile
    again.
    """

    def __init__(self, function):
        super().__init__(function)
        files = [Path(__file__), *sorted(Path(inspect.getfile(function)).parent.glob("*.py"))]
        self._cache_file._source_stamp = [(file.name, *_time_and_size(file)) for file in files]

    def save_overload(self, *arguments):
        try:
            super().save_overload(*arguments)
        except OSError as error:
            warnings.warn(f"a compiled loop could not be kept on disk: {error}", RuntimeWarning, stacklevel=2)


def _time_and_size(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_mtime_ns, status.st_size


def _kept_on_disk(function) -> _Cache | None:
    try:
        return _Cache(function)
    except RuntimeError:  # neither the source's folder nor the user's cache folder is writable
        return None
