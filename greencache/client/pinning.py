"""Pinning the daemon's memory, so that a device reads and writes it by itself.

The daemon says what may be pinned, and asks it back before it gives memory away (`Extents`).
Pinning and unpinning take some 100 ms for a GiB, so a thread of its own does both. No copy runs
while an extent is unpinned: those under way are waited for, those that come wait for the unpinning,
and run without.

Pinning begins with the first copy: engines that start have other work for their device, and some of
it (CUDA's capture of graphs) does not bear it.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from greencache.client.arena import Extent

__all__ = ["Pinning", "Pins"]

_log = logging.getLogger("greencache.client")


class Pinning(Protocol):
    """Pins memory of this process; called by one thread at a time."""

    def pin(self, address: int, size_bytes: int) -> None:
        """Pin memory; any exception says that it cannot be, and that nothing of it is pinned."""

    def unpin(self, address: int) -> None:
        """Unpin what was pinned from this address on; nothing uses it.

        After an exception it counts as pinned for as long as this process lives.
        """


@dataclass(slots=True, eq=False)
class _Pin:
    """An extent that was offered, until the daemon has it back."""

    extent: Extent
    owner: object
    parts: list[tuple[int, int]]
    pinned: list[tuple[int, weakref.finalize[Any, Any]]] = field(default_factory=list)
    """Address of each part that is, and what unpins it if the extent would be unmapped before."""
    leaving: bool = False
    stuck: bool = False
    """Whether it could not be unpinned."""


class Pins:
    """What this process has pinned of extents, of all sessions of a client.

    Parameters
    ----------
    pinning:
        What pins.
    given_back:
        Called in a thread with an extent's owner and number when nothing of it is pinned, be it
        that it was asked back or that it could not be pinned.

    Attributes
    ----------
    failed:
        How often something could not be pinned, or unpinned.
    """

    def __init__(self, pinning: Pinning, given_back: Callable[[Any, int], None]) -> None:
        self.failed = 0
        self._pinning, self._given_back = pinning, given_back
        self._process = os.getpid()
        # Reentrant, as what the garbage collector calls may be anything.
        self._changed = threading.Condition()
        self._uses: Counter[Extent] = Counter()
        """Copies that run, by extent."""
        self._pins: dict[Extent, _Pin] = {}
        self._thread: ThreadPoolExecutor | None = None
        self._work: deque[tuple[Callable[[_Pin], None], _Pin]] = deque()
        self._begun = self._closed = False

    # Copies.

    @contextmanager
    def in_use(self, extents: Iterable[Extent]) -> Iterator[None]:
        """None of the extents is unpinned meanwhile; waits if one is being unpinned."""
        used = list(extents)
        with self._changed:
            # All at once: who had some and waited for others could wait for ever.
            self._changed.wait_for(lambda: not any(self._is_leaving(each) for each in used))
            self._uses.update(used)
            self._begin()
        try:
            yield
        finally:
            with self._changed:
                self._uses.subtract(used)
                for each in used:
                    if not self._uses[each]:
                        del self._uses[each]
                        self._unpin_if_free(each)

    def _is_leaving(self, extent: Extent) -> bool:
        pin = self._pins.get(extent)
        return pin is not None and pin.leaving

    # What the daemon says.

    def offered(self, owner: object, extent: Extent, parts: list[tuple[int, int]]) -> None:
        """Pin parts of an extent, first byte and bytes each, in a while."""
        with self._changed:
            if not self._closed and extent not in self._pins:
                pin = self._pins[extent] = _Pin(extent, owner, parts)
                if self._begun:
                    self._do(self._pin, pin)

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            for pin in self._pins.values():
                self._do(self._pin, pin)

    def asked_back(self, extents: Iterable[Extent]) -> None:
        """Unpin extents, once no copy runs there that has begun by now."""
        with self._changed:
            for extent in extents:
                pin = self._pins.get(extent)
                if pin is not None and not (pin.leaving or pin.stuck):
                    pin.leaving = True
                    self._unpin_if_free(extent)

    def take_all_back(self, owner: object) -> None:
        """The same of all that an owner has."""
        self.asked_back([pin.extent for pin in list(self._pins.values()) if pin.owner is owner])

    def has(self, owner: object) -> bool:
        """Whether anything of an owner may be pinned."""
        return any(pin.owner is owner for pin in list(self._pins.values()))

    @property
    def pinned_bytes(self) -> int:
        """How much is pinned now."""
        with self._changed:
            pins = list(self._pins.values())
            return sum(size for pin in pins for _, size in pin.parts[: len(pin.pinned)])

    def close(self) -> None:
        """Unpin everything that no copy uses, and wait for that; the rest when its copies end."""
        with self._changed:
            self._closed = True
            self.asked_back(list(self._pins))
            thread = self._thread
            done = None if thread is None else self._submit(lambda: None)
        if done is not None:
            done.result()  # as they are done one after another
        self._end_if_done()
        if thread is not None and thread is not self._thread:
            thread.shutdown()

    # In the thread.

    def _unpin_if_free(self, extent: Extent) -> None:
        if self._is_leaving(extent) and extent not in self._uses:
            self._do(self._unpin, self._pins[extent])

    def _do(self, work: Callable[[_Pin], None], pin: _Pin) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "greencache-pin")
        # Somebody may wait for an unpinning. What is to be pinned before then is not, once it runs.
        (self._work.append if work == self._pin else self._work.appendleft)((work, pin))
        if self._submit(self._do_all) is None:
            self._thread = None  # what is queued is done with what comes next, if anything does
            if pin.leaving:
                with suppress(ValueError):
                    self._work.remove((work, pin))
                pin.leaving, pin.stuck = False, True  # nobody waits for that
                self._changed.notify_all()

    def _submit(self, job: Callable[[], None]) -> Future[None] | None:
        """Have the thread do something; None if there is none to be had, as when a process ends."""
        assert self._thread is not None
        try:
            return self._thread.submit(job)
        except RuntimeError:
            return None

    def _do_all(self) -> None:
        while True:
            try:
                work, pin = self._work.popleft()
            except IndexError:
                return
            work(pin)

    def _pin(self, pin: _Pin) -> None:
        address = pin.extent.address
        try:
            for begin, size_bytes in pin.parts:
                if pin.leaving or pin.stuck:
                    return
                self._pinning.pin(address + begin, size_bytes)
                # Whoever forgets a client must not leave memory pinned that is mapped no more.
                undo = weakref.finalize(
                    pin.extent.writable, _undo, self._pinning, address + begin, self._process
                )
                undo.atexit = False  # then the system does
                pin.pinned.append((address + begin, undo))
        except Exception as fault:  # whatever it is, copies go on without
            self._fail("pinned", fault)
            self.asked_back([pin.extent])

    def _unpin(self, pin: _Pin) -> None:
        try:
            while pin.pinned:
                address, undo = pin.pinned[-1]
                self._pinning.unpin(address)
                undo.detach()
                pin.pinned.pop()
        except Exception as fault:  # it may be pinned: it stays mapped, and the daemon keeps it
            self._fail("unpinned", fault)
            _stuck.append(pin.extent)
            with self._changed:
                pin.leaving, pin.stuck = False, True
                self._changed.notify_all()
            self._end_if_done()
            return
        with self._changed:
            del self._pins[pin.extent]
            self._changed.notify_all()
        self._given_back(pin.owner, pin.extent.number)
        self._end_if_done()

    def _end_if_done(self) -> None:
        """Let the thread end, which may be the caller's, if there is nothing more to do for it."""
        with self._changed:
            if self._closed and self._thread is not None and self._all_stuck():
                self._thread.shutdown(wait=False)
                self._thread = None

    def _all_stuck(self) -> bool:
        return all(pin.stuck for pin in self._pins.values())

    def _fail(self, what: str, fault: Exception) -> None:
        self.failed += 1
        if self.failed == 1:
            _log.warning("memory of the daemon cannot be %s; counted from now on: %s", what, fault)


_stuck: list[Extent] = []
"""What could not be unpinned: it is never unmapped."""


def _undo(pinning: Pinning, address: int, process: int) -> None:
    if os.getpid() == process:  # what a forked child inherits is pinned by its parent
        pinning.unpin(address)
