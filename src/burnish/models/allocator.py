"""Memory that training on a CPU frees goes back to the system."""

from __future__ import annotations

import ctypes
import os
import platform

LARGE = 1 << 20
"""Bytes. A tensor of an activation is larger, one of an adapter smaller."""
_M_MMAP_THRESHOLD = -3  # malloc.h


def return_freed_tensors() -> bool:
    """Let glibc give every block of at least 1 MiB a mapping of its own, which ends when the block is freed.

    Left to itself, glibc takes the size of the largest block freed so far, up to 32 MiB, for what belongs on the heap
    (mallopt(3), M_MMAP_THRESHOLD). Tensors of many sizes that come and go then leave gaps there, and with gradient
    checkpointing most of what a process holds are gaps (docs/recipes/memory.md). The setting is the process's and
    stays.

    Returns:
        whether it was set: not where the C library is another, and not over the user's own setting in the environment.
    """
    own = "MALLOC_MMAP_THRESHOLD_" in os.environ or "mmap_threshold" in os.environ.get("GLIBC_TUNABLES", "")
    if own or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    return bool(mallopt(_M_MMAP_THRESHOLD, LARGE))
