"""How the C library hands out memory while a model is trained."""

from __future__ import annotations

import ctypes

#: parameters of glibc's mallopt and the values they get: mallopt(3)
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = (-1, 2**31 - 1), (-2, 64 * 2**20), (-3, 32 * 2**20)


def keep_freed_memory() -> bool:
    """Let malloc keep what is freed for the next arrays of the same size, in the whole process and for good.

    By default glibc gives large arrays back to the system, which then clears every page of the next one; a step of the
    training makes hundreds of such arrays. The process keeps its largest size. Numbers do not change.

    Returns:
        Whether there is such a setting here; other C libraries than glibc have none.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all([mallopt(*setting) == 1 for setting in (TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD)])
