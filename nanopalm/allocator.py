"""
Memory of a CPU that is given back to the system after every use is mapped and cleared again for
the next: on two cores a third to a half of a CNN's time. glibc is told to keep it.
"""

import ctypes
import os

# names and values in glibc's malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
GIGABYTE = 2**30


def keep_freed_memory():
    """Makes glibc keep freed memory for the next tensors of this process, unless one of its own
    variables says what it shall do. Elsewhere (macOS, musl) nothing is changed."""
    if any(name.startswith('MALLOC_') for name in os.environ) or 'GLIBC_TUNABLES' in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is None:
        return
    # tensors below a gigabyte come from the heap, of which as much may stay free
    mallopt(M_MMAP_THRESHOLD, GIGABYTE)
    mallopt(M_TRIM_THRESHOLD, GIGABYTE)


def give_back_freed_memory():
    """Gives what is kept back to the system, so that a measurement of memory does not see it."""
    malloc_trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
    if malloc_trim is not None:
        # 0 bytes stay free on top of the heap
        malloc_trim(0)
