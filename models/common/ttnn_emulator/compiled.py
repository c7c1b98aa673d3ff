"""Loops compiled by numba: how they are compiled and cached, how torch tensors get into them, and on how many threads."""

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numba
import numpy
import torch

_PATTERNS = {torch.bfloat16: torch.int16, torch.float32: torch.int32}
_PER_THREAD = 1 << 18  # elements that are worth waking a thread for


def bits(tensor: torch.Tensor) -> numpy.ndarray:
    """The bit patterns of a bf16 (as int16) or fp32 (int32) tensor; its own memory, if that is in order."""
    if tensor.requires_grad:
        tensor = tensor.detach()
    return tensor.contiguous().view(_PATTERNS[tensor.dtype]).numpy()


@lru_cache(maxsize=None)
def _pool():
    return ThreadPoolExecutor(os.cpu_count())


os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork


def in_threads(loop, arrays, *others, work: int = None) -> None:
    """loop(*arrays, *others); each of torch's threads takes a part of the arrays' first dimension if there is much to do.

    work: elements that the loop reads; those of the first array if None.
    """
    parts = (arrays[0].size if work is None else work) // _PER_THREAD
    if parts < 2:
        loop(*arrays, *others)
        return
    rows = len(arrays[0])
    parts = min(torch.get_num_threads(), rows, parts)
    bounds = [rows * part // parts for part in range(parts + 1)]
    tasks = [
        _pool().submit(loop, *[array[start:end] for array in arrays], *others)
        for start, end in zip(bounds, bounds[1:])
    ]
    for task in tasks:
        task.result()


def compiled(**options):
    """Compiles a function at its first call, and keeps it on disk for later processes where that can be written."""

    def decorate(function):
        try:
            loop = numba.njit(cache=True, nogil=True, error_model="numpy", **options)(function)
        except RuntimeError:  # neither the source's folder nor the user's cache folder can be written
            return numba.njit(nogil=True, error_model="numpy", **options)(function)
        loop._cache.save_overload = _saved_if_possible(loop._cache.save_overload)
        return loop

    return decorate


def _saved_if_possible(save):
    def save_overload(*arguments):
        try:
            save(*arguments)
        except OSError as error:  # a full disk costs the next process a compilation, and this one nothing
            warnings.warn(f"a compiled loop could not be kept on disk: {error}", RuntimeWarning, stacklevel=2)

    return save_overload
