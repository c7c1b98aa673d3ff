"""The memory of this process: its size, and returning what was freed to the operating system."""

import ctypes
import os
from pathlib import Path


def return_freed_memory() -> None:
    """Returns freed heap memory to the operating system.

    glibc keeps freed blocks of up to 32 MB, and the gaps between blocks in use. Without glibc this does nothing.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def resident_bytes() -> int:
    """Bytes of this process that are in memory (Linux), after freed memory was returned."""
    return_freed_memory()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
