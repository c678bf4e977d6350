"""How the C library keeps the memory that a training frees and takes again, or gives it back."""

import ctypes
import platform


def keep_memory() -> None:
    """Let glibc keep freed memory, because every step frees all activations and page faults cost.

    Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(top_pad, 10**9)


def give_memory_back() -> None:
    """Let glibc give freed memory back, because other processes or work of other sizes need it."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
