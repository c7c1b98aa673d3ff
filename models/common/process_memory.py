"""Memory of this process that is free."""

import ctypes


def return_freed_memory() -> None:
    """Gives the system back what has been freed: glibc keeps blocks of up to 32 MB, and the gaps between those in use.

    Elsewhere than with glibc nothing happens.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
