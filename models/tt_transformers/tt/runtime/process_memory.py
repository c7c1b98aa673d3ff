"""Returns freed heap memory to the operating system."""

import ctypes


def return_freed_memory() -> None:
    """Returns freed heap memory to the operating system.

    glibc keeps freed blocks of up to 32 MB, and the gaps between blocks in use. Without glibc this does nothing.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
