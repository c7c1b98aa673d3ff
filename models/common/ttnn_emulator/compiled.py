"""Helpers for loops compiled by numba: compiling and caching, passing torch tensors, running in threads."""

import ctypes
import inspect
import warnings
from functools import lru_cache
from pathlib import Path

import numba
import numpy
import torch
from numba import types
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc

from . import openmp
from .kept import KeptTensor

_PATTERNS = {torch.bfloat16: torch.int16, torch.float32: torch.int32}
_PER_THREAD = 1 << (20 if openmp.SLEEPS else 19)  # elements of work that are worth a thread: at 8 per ns, 130 or 65 us


def bits(tensor: torch.Tensor) -> numpy.ndarray:
    """The bit patterns of a bf16 (as int16) or fp32 (as int32) tensor. They share its memory if it is contiguous."""
    return patterns(tensor.contiguous())


def patterns(tensor: torch.Tensor) -> numpy.ndarray:
    """As `bits`, with the tensor's strides: the array always shares its memory."""
    if tensor.requires_grad:
        tensor = tensor.detach()
    return tensor.view(_PATTERNS[tensor.dtype]).numpy()


def in_memory(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, or a contiguous copy, so that its `data_ptr()` is the address of its values in their order."""
    return (tensor.plain() if isinstance(tensor, KeptTensor) else tensor).contiguous()


def in_threads(loop, count: int, *others, work: int) -> None:
    """Runs loop(0, count, *others). For much work, each of torch's threads runs it for a part, loop(start, stop, *others).

    work: number of elements that the loop reads.
    """
    parts = min(torch.get_num_threads(), count, work // _PER_THREAD)
    if parts < 2:
        loop(0, count, *others)
        return
    bounds = [count * part // parts for part in range(parts + 1)]
    ranges, errors = iter(list(zip(bounds, bounds[1:]))), []

    @_FOR_C
    def take_parts(_):
        try:
            for start, stop in ranges:
                loop(start, stop, *others)
        except BaseException as error:
            errors.append(error)

    openmp.call(take_parts, ctypes.c_int64(), parts)
    if errors:
        raise errors[0]


_FOR_C = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


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
    options = {"nopython": True, "error_model": "numpy"}
    callback = CFunc(function, ((types.voidptr,), types.void), locals={}, options=options)
    callback._cache = _kept_on_disk(function) or callback._cache
    callback.compile()
    return callback.ctypes


class _Cache(FunctionCache):
    """numba's cache, which knows the file of the function only: here a change in any file of its folder counts.

    A disk that cannot be written to, such as a full one, is a warning: this process goes on, the next one has to compile
    again.
    """

    def __init__(self, function):
        super().__init__(function)
        files = sorted(Path(inspect.getfile(function)).parent.glob("*.py"))
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
