"""The OpenMP runtime that torch computes with, and its threads."""

import ctypes
import re
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import torch


@lru_cache(maxsize=None)
def runtime() -> ctypes.CDLL | None:
    """GNU's or Intel's runtime that torch has loaded; None if it has another or none, as on macOS."""
    with suppress(OSError):
        for path in {line.split()[-1] for line in open("/proc/self/maps") if re.search(r"/lib(gomp|iomp5)\b", line)}:
            if Path(path).resolve().is_relative_to(Path(torch.__file__).resolve().parents[1]):
                return ctypes.CDLL(path)
    return None


def call(function: Callable, arguments: ctypes.Array, threads: int) -> None:
    """Calls a C function of one address with the same arguments in this thread and in `threads - 1` of torch's own.

    So torch's operators and ours wait for work in the same threads, and never compete for the CPU. Without such a
    runtime this thread is the only one.
    """
    address = ctypes.addressof(arguments)
    if threads < 2 or runtime() is None:
        function(address)
    else:  # both runtimes have the entry of GNU's compiler for a parallel region
        runtime().GOMP_parallel(ctypes.cast(function, ctypes.c_void_p), ctypes.c_void_p(address), threads, 0)
