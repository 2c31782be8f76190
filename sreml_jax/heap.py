"""The C library's heap of this process, on a machine without a GPU."""

import ctypes
import resource
from pathlib import Path

# Of mallopt in glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def _glibc(function: str):
    """Returns glibc's function; None where there is another C library or an NVIDIA GPU."""
    if any(Path('/dev').glob('nvidia[0-9]*')):
        return None
    return getattr(ctypes.CDLL(None), function, None)


def keep_freed_memory() -> None:
    """Has glibc keep what is freed for what comes next; to be called before threads are started.

    A training step on a CPU takes and frees gigabytes. glibc would map each large buffer anew and the kernel
    zero its pages, for a tenth to a half of the step's time. One heap for all threads is what never unmaps.
    Does nothing where there is an NVIDIA GPU, or another C library.
    """
    if mallopt := _glibc('mallopt'):
        mallopt(_ARENA_MAX, 1)
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)


class _Mallinfo2(ctypes.Structure):
    _names = 'arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost'
    _fields_ = [(name, ctypes.c_size_t) for name in _names.split()]


class Holes:
    """Gives the kernel back what was kept and is of no more use.

    A freed buffer leaves a hole. One small block in it that stays, and the next buffer of that size does not
    fit: it lies elsewhere, and the hole keeps its pages for nothing. A step's buffer is most of its memory:
    a few such holes double it.
    """

    def __init__(self, least: int = 2**30):
        """least: bytes of holes below which nothing is given back."""
        self._least = least
        self._needed = self._held = 0
        self._mallinfo2, self._malloc_trim = _glibc('mallinfo2'), _glibc('malloc_trim')
        if self._mallinfo2:
            self._mallinfo2.restype = _Mallinfo2

    def give_back(self) -> None:
        """To be called when a step has been handed over: it or the one before has then taken what it needs.

        Holes are given back where they are more than a quarter of the most that was in use at such a moment.
        """
        if not (self._mallinfo2 and self._malloc_trim):
            return
        held = _anonymous_bytes()
        if held < self._held + self._least // 4:  # glibc counts for milliseconds, and nobody may allocate
            return
        info = self._mallinfo2()
        self._needed = max(self._needed, info.uordblks)
        if min(info.fordblks, held - self._needed) > max(self._least, self._needed // 4):
            self._malloc_trim(0)
            held = _anonymous_bytes()
        self._held = held


def _anonymous_bytes() -> int:
    """This process's memory that no file backs."""
    pages = Path('/proc/self/statm').read_text().split()
    return (int(pages[1]) - int(pages[2])) * resource.getpagesize()
