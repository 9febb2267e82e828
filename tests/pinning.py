"""A device for tests: it holds the very pages of memory, as a GPU does that has them registered.

A pipe into which pages were put by vmsplice(2) keeps a reference to each of them, until it is read
or closed: the kernel counts them as it does those that a driver has pinned.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time

__all__ = ["PagePinning"]

_PAGE_BYTES = 4096


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


_libc = ctypes.CDLL(None, use_errno=True)


class PagePinning:
    """Holds the first page of each MiB that is pinned, and knows what was in it.

    Attributes
    ----------
    fails, stuck:
        Whether nothing can be pinned, and unpinned.
    slow_s:
        How long pinning and unpinning take.
    done:
        What was done: ``pin`` or ``unpin``, and where.
    """

    def __init__(self, every_bytes: int = 1 << 20) -> None:
        self.fails = self.stuck = False
        self.slow_s = 0.0
        self.done: list[tuple[str, int]] = []
        self._every_bytes = every_bytes
        self._lock = threading.Lock()
        self._pipes: dict[int, list[tuple[int, int]]] = {}

    def pin(self, address: int, size_bytes: int) -> None:
        time.sleep(self.slow_s)
        if self.fails:
            raise OSError("this device pins nothing")
        assert address % _PAGE_BYTES == 0
        with self._lock:
            assert address not in self._pipes, "it is pinned already"
            self.done.append(("pin", address))
            self._pipes[address] = [
                _held(address + begin) for begin in range(0, size_bytes, self._every_bytes)
            ]

    def unpin(self, address: int) -> None:
        time.sleep(self.slow_s)
        if self.stuck:
            raise OSError("this device keeps what it has")
        with self._lock:
            self.done.append(("unpin", address))
            for pipe in self._pipes.pop(address):
                for end in pipe:
                    os.close(end)

    @property
    def addresses(self) -> list[int]:
        """Where anything is pinned."""
        with self._lock:
            return sorted(self._pipes)

    def look(self) -> list[bytes]:
        """What is in the pages that it holds, each of which is let go by that."""
        found = []
        with self._lock:
            for _, held in sorted(self._pipes.items()):
                for reading, writing in held:
                    found.append(os.read(reading, _PAGE_BYTES))
                    os.close(reading)
                    os.close(writing)
                held.clear()
        return found

    def sees_the_file(self) -> bool:
        """Whether the pages that it holds show what is written to memory now; lets go of them."""
        with self._lock:
            places = [
                address + number * self._every_bytes
                for address, held in sorted(self._pipes.items())
                for number in range(len(held))
            ]
        before = [ctypes.string_at(place, 8) for place in places]
        marks = [number.to_bytes(8, "little") for number in range(len(places))]
        _write(places, marks)
        seen = [page[:8] for page in self.look()]
        _write(places, before)
        return seen == marks


def _write(places: list[int], words: list[bytes]) -> None:
    for place, word in zip(places, words, strict=True):
        ctypes.memmove(place, word, len(word))


def _held(address: int) -> tuple[int, int]:
    reading, writing = os.pipe()
    vector = _Vector(address, _PAGE_BYTES)
    if _libc.vmsplice(writing, ctypes.byref(vector), 1, 0) != _PAGE_BYTES:
        raise OSError(ctypes.get_errno(), "vmsplice")
    return reading, writing
