"""The OpenMP runtime that torch computes with, and its threads."""

import ctypes
import os
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import torch

# Waiting threads that sleep take about 40 us to wake. Those that spin, as they do for a while by default, take about 3.
SLEEPS = os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive"


@lru_cache(maxsize=None)
def runtime() -> ctypes.CDLL | None:
    """A library in which torch's own runtime is found, GNU's or one with its entries; None if torch has another.

    Other packages load runtimes too, whose threads are not torch's. So names are looked up as the dynamic linker does
    for torch: in what the whole process shares, then in what torch's library depends on.
    """
    own = next((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"), None)
    for path in (None, own and str(own)):
        with suppress(OSError, AttributeError):
            library = ctypes.CDLL(path)
            library.GOMP_parallel, library.omp_set_num_threads  # AttributeError
            return library
    return None


def call(function: Callable, arguments, threads: int) -> None:
    """Calls a C function with the address of `arguments`, a ctypes object, in this thread and in `threads - 1` of torch's.

    So torch's operators and ours wait for work in the same threads, and never compete for the CPU. Without such a
    runtime this thread is the only one.
    """
    address = ctypes.addressof(arguments)
    if threads < 2 or runtime() is None:
        function(address)
    else:  # the entry of GNU's compiler for a parallel region
        runtime().GOMP_parallel(function, ctypes.c_void_p(address), threads, 0)


def rest() -> None:
    """Ends torch's other threads, which may spin while they wait. The next operator that needs them makes new ones."""
    pause = getattr(runtime(), "omp_pause_resource_all", None)
    if pause is not None:
        pause(_SOFTLY)


_SOFTLY = 1  # of OpenMP's omp_pause_resource_t: what threads keep of their own survives
