"""Helpers for loops compiled by numba: compiling and caching, passing torch tensors, running in threads."""

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numba
import numpy
import torch
from numba import types
from numba.core.ccallback import CFunc

_PATTERNS = {torch.bfloat16: torch.int16, torch.float32: torch.int32}
_PER_THREAD = 1 << 19  # elements of work that are worth a thread


def bits(tensor: torch.Tensor) -> numpy.ndarray:
    """The bit patterns of a bf16 (as int16) or fp32 (as int32) tensor. They share its memory if it is contiguous."""
    return patterns(tensor.contiguous())


def patterns(tensor: torch.Tensor) -> numpy.ndarray:
    """As `bits`, with the tensor's strides: the array always shares its memory."""
    if tensor.requires_grad:
        tensor = tensor.detach()
    return tensor.view(_PATTERNS[tensor.dtype]).numpy()


@lru_cache(maxsize=None)
def _pool():
    return ThreadPoolExecutor(os.cpu_count())


os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork


def in_threads(loop, arrays, *others, work: int = None) -> None:
    """Runs loop(*arrays, *others). For much work, each of torch's threads takes a part of the arrays' first dimension.

    work: number of elements that the loop reads; None takes the size of the first array.
    """
    rows = len(arrays[0])
    parts = min(torch.get_num_threads(), rows, (arrays[0].size if work is None else work) // _PER_THREAD)
    if parts < 2:
        loop(*arrays, *others)
        return
    bounds = [rows * part // parts for part in range(parts + 1)]
    tasks = [
        _pool().submit(loop, *[array[start:end] for array in arrays], *others)
        for start, end in zip(bounds, bounds[1:])
    ]
    for task in tasks:
        task.result()


def compiled(**options):
    """Compiles a function at its first call. The result is kept on disk for later processes if a folder is writable."""

    def decorate(function):
        try:
            loop = numba.njit(cache=True, nogil=True, error_model="numpy", **options)(function)
        except RuntimeError:  # neither the source's folder nor the user's cache folder is writable
            return numba.njit(nogil=True, error_model="numpy", **options)(function)
        loop._cache.save_overload = _saved_if_possible(loop._cache.save_overload)
        return loop

    return decorate


@lru_cache(maxsize=None)
def entry(function):
    """A function of one address, compiled so that C can call it, as a ctypes function. It is kept on disk as above."""
    options = {"nopython": True, "error_model": "numpy"}
    callback = CFunc(function, ((types.voidptr,), types.void), locals={}, options=options)
    try:
        callback.enable_caching()
        callback._cache.save_overload = _saved_if_possible(callback._cache.save_overload)
    except RuntimeError:
        pass  # as in `compiled`
    callback.compile()
    return callback.ctypes


def _saved_if_possible(save):
    def save_overload(*arguments):
        try:
            save(*arguments)
        except OSError as error:  # such as a full disk: this process goes on, the next one has to compile again
            warnings.warn(f"a compiled loop could not be kept on disk: {error}", RuntimeWarning, stacklevel=2)

    return save_overload
