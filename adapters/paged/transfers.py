"""The workers' side of the connector: copies between the engine's KV memory and the store's.

Copies run in threads of their own, beside the engine's steps. A step waits only for what it cannot
do without: loads that were asked for synchronously, and saves of blocks that it is about to
overwrite. A load that fails is reported block by block, so that the engine computes these; a save
that fails is dropped.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from greencache.adapters.paged.jobs import Load, Report, Save, Step
from greencache.adapters.paged.pages import Pages
from greencache.adapters.paged.processors import run_anywhere
from greencache.adapters.paged.statistics import Counts
from greencache.client import Client
from greencache.errors import StorageError

__all__ = ["Transfers"]


_PATIENCE_S = 0.1
"""How long a step waits for saves to begin whose blocks it takes: for those before them to end, and
for the daemon."""


class _Saving:
    """A save, whose blocks may be taken away before they are copied."""

    def __init__(self, save: Save) -> None:
        self.save = save
        self._lock = threading.Lock()
        self._begun = self._taken = False
        self._over = threading.Event()

    def begin(self) -> None:
        """Begin to copy.

        Raises
        ------
        StorageError
            If the blocks are another's by now.
        """
        with self._lock:
            if self._taken:
                raise StorageError("its blocks were taken away before they were saved")
            self._begun = True

    def end(self) -> None:
        """Nothing is copied any more."""
        self._over.set()

    def take_away(self, by_s: float) -> None:
        """Return when nothing of it is read any more: what begins later than that, never begins."""
        if self._over.wait(max(0.0, by_s - time.monotonic())):
            return
        with self._lock:
            self._taken = not self._begun
        if self._begun:
            self._over.wait()


class Transfers:
    """Moves one rank's KV.

    Parameters
    ----------
    client:
        Of the daemon, as the rank's shard.
    pages:
        The engine's memory.
    per_block:
        Engine blocks in one of the store's.
    asynchronous:
        Whether loads run beside the engine's steps.
    counts:
        What is counted.
    ready:
        Called before a step's saves begin, and gives what is called in the thread before it reads
        the engine's memory: on a GPU, what waits until the step has written it.
    load_deadline_s:
        How long a load may wait for the daemon to have the blocks in memory.
    threads:
        How many loads run at once, and how many saves: neither waits for the other.
    """

    def __init__(
        self,
        client: Client,
        pages: Pages,
        per_block: int,
        *,
        asynchronous: bool,
        counts: Counts,
        ready: Callable[[], Callable[[], None]] = lambda: lambda: None,
        load_deadline_s: float = 5.0,
        threads: int = 2,
    ) -> None:
        self._client, self._pages, self._per_block = client, pages, per_block
        self._asynchronous, self._counts = asynchronous, counts
        self._ready = ready
        self._load_deadline_s = load_deadline_s
        self._loaders = ThreadPoolExecutor(threads, "greencache-load", run_anywhere)
        self._savers = ThreadPoolExecutor(threads, "greencache-save", run_anywhere)
        self._loading: dict[Future[bool], Load] = {}
        self._saving: dict[Future[bool], _Saving] = {}
        self._finished: set[str] = set()
        """Requests of which the engine keeps the blocks until they are saved."""
        self._bad: set[int] = set()
        self._spoilt = False
        """Whether the step computes on blocks that were not loaded."""
        self._report = Report()

    # A step, in the order in which the engine calls.

    def before(self, step: Step) -> None:
        """Finish saves of blocks that the step may overwrite."""
        by_s = time.monotonic() + _PATIENCE_S
        for saving in self._saving.values():
            if saving.save.reservation in step.wait:
                saving.take_away(by_s)

    def load(self, loads: Sequence[Load]) -> None:
        """Begin loads; if the step needs them, end them."""
        began = {self._loaders.submit(self._load, load): load for load in loads}
        self._loading |= began
        if not self._asynchronous:
            wait(began)
            # Until the next step: saves of this one may begin after `ended`.
            self._spoilt = not all(future.result() for future in began)

    def save(self, saves: Sequence[Save], finished: Sequence[str]) -> None:
        """Begin saves of what the step has computed."""
        self._finished.update(finished)
        if not saves:
            return
        # What was computed behind blocks that are no good is no good either, and its name is: it
        # would poison the store.
        work = self._drop if self._spoilt else self._save
        ready = self._ready()
        for saving in map(_Saving, saves):
            self._saving[self._savers.submit(work, saving, ready)] = saving

    def ended(self) -> tuple[set[str], set[str]]:
        """Requests that are saved, of those that wait for it, and requests that are loaded."""
        loaded: set[str] = set()
        for future in [each for each in self._loading if each.done()]:
            load = self._loading.pop(future)
            self._report.loaded[load.lease] += 1
            if not future.result():
                self._report.failed.add(load.request)
                self._bad.update(load.block_ids)
            loaded.add(load.request)
        for future in [each for each in self._saving if each.done()]:
            save = self._saving.pop(future).save
            self._report.saved[save.reservation] += 1
            if not future.result():
                self._report.dropped.add(save.reservation)
        saving = {each.save.request for each in self._saving.values()}
        saved = self._finished - saving
        self._finished -= saved
        return saved, loaded if self._asynchronous else set()

    def failed_block_ids(self) -> set[int]:
        """Engine blocks that were not loaded, since this was asked last."""
        bad, self._bad = self._bad, set()
        return bad

    def report(self) -> Report:
        """What was done since this was asked last."""
        report, self._report = self._report, Report()
        return report

    def close(self) -> None:
        """End all copies; those that have not begun are dropped."""
        for threads in (self._loaders, self._savers):
            threads.shutdown(wait=False, cancel_futures=True)
        self._savers.shutdown(wait=True)

    # In threads.

    def _load(self, load: Load) -> bool:
        began_s = time.perf_counter()
        first = load.first // self._per_block
        count = -(-(load.first + len(load.block_ids)) // self._per_block) - first
        try:
            with self._client.join_lease(load.lease) as lease:
                if self._client.fetch(lease, timeout_s=self._load_deadline_s) < first + count:
                    raise StorageError(f"{first + count} blocks were found, {lease.ready} are here")
                blocks = lease.views()[first : first + count]
                with lease.in_use():
                    self._pages.load(blocks, load.first - first * self._per_block, load.block_ids)
        except Exception as fault:  # whatever it is, the engine computes instead
            self._counts.failed("failed_loads", fault)
            return False
        self._counts.add("loaded_bytes", count * self._pages.shard_bytes)
        self._counts.add("load_seconds", time.perf_counter() - began_s)
        return True

    def _save(self, saving: _Saving, ready: Callable[[], None]) -> bool:
        began_s, save = time.perf_counter(), saving.save
        try:
            with self._client.join_reservation(save.reservation) as room:
                ready()
                with room.in_use():  # which may wait, and nothing is to wait for that
                    saving.begin()
                    self._pages.save(save.block_ids, room.views())
                saving.end()
                self._client.commit(room)
        except Exception as fault:  # whatever it is, the engine goes on without
            self._counts.failed("failed_saves", fault)
            return False
        finally:
            saving.end()
        size = len(save.block_ids) // self._per_block * self._pages.shard_bytes
        self._counts.add("saved_bytes", size)
        self._counts.add("save_seconds", time.perf_counter() - began_s)
        return True

    def _drop(self, saving: _Saving, ready: Callable[[], None]) -> bool:
        """Write nothing: the scheduler's side gives the room back when it hears of it."""
        saving.end()
        self._counts.add("failed_saves")
        return False
