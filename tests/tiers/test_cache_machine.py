"""Anything that can be done to a whole cache, in any order, against a plain record.

Both tiers are much smaller than what is stored, writes to SSD go on in the background between the
steps, and two tenants ask for the same tokens.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from hypothesis import settings, strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from greencache.blocks import KVGroup, KVLayout, block_keys
from greencache.tiers import CacheLease, CacheReservation, DramTier, SsdTier
from tests.conformance.prompts import the_bytes, wrong_blocks
from tests.tiers.caches import BLOCK_BYTES, cache_in, load, pinned, store

T = TypeVar("T")

LAYOUT = KVLayout("made", "1", "fp16", (KVGroup(1, 1, 1),), block_tokens=1)
DEPTH = 4
PROMPTS = [
    block_keys(
        LAYOUT, [(leaf >> (length - 1 - depth)) & 1 for depth in range(length)], tenant_salt=salt
    )
    for salt in (b"", b"other")
    for length in range(1, DEPTH + 1)
    for leaf in range(2**length)
]
"""For each tenant all paths from the root of a binary tree, which has 30 blocks."""

prompts = st.sampled_from(PROMPTS)
MOST = {"dram": 8, "ssd": 16}


class CacheMachine(RuleBasedStateMachine):
    leases: Bundle[CacheLease] = Bundle("leases")
    rooms: Bundle[CacheReservation] = Bundle("rooms")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp(prefix="greencache-test-"))
        self.blocks = dict(MOST)
        self.stored: set[bytes] = set()
        self.open: list[CacheLease] = []
        self.taken: list[CacheReservation] = []

    def run(self, steps: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(steps)

    @initialize(dram=st.integers(0, MOST["dram"]), ssd=st.integers(0, MOST["ssd"]))
    def begin(self, dram: int, ssd: int) -> None:
        self.blocks = {"dram": dram, "ssd": ssd}
        self.start()

    def start(self) -> None:
        self.cache = cache_in(
            self.folder / "ssd", *self.blocks.values(), remembered_blocks=40, flush_s=0.001
        )
        self.run(self.cache.__aenter__())
        self.asked = 0

    def known(self, keys: list[bytes]) -> int:
        """Leading blocks that were ever stored."""
        return next((i for i, key in enumerate(keys) if key not in self.stored), len(keys))

    # Requests.

    @rule(keys=prompts)
    def store(self, keys: list[bytes]) -> None:
        self.run(store(self.cache, keys))
        self.stored.update(keys)

    @rule(keys=prompts, promote=st.booleans())
    def load(self, keys: list[bytes], promote: bool) -> None:
        found = max(self.run(self.cache.lookup(keys)).values())
        assert found <= self.run(load(self.cache, keys, promote=promote)) <= self.known(keys)
        self.asked += len(keys)

    @rule(several=st.lists(prompts, min_size=2, max_size=6), data=st.data())
    def all_at_once(self, several: list[list[bytes]], data: st.DataObject) -> None:
        """Requests that store and load at the same time, some of them cancelled."""
        given_up = data.draw(st.sets(st.integers(0, len(several) - 1), max_size=2))
        yields = data.draw(st.integers(0, 5))

        async def everybody() -> None:
            work = [
                asyncio.ensure_future((store if place % 2 else load)(self.cache, keys))
                for place, keys in enumerate(several)
            ]
            for _ in range(yields):
                await asyncio.sleep(0)
            for place in given_up:
                work[place].cancel()
            for end in await asyncio.gather(*work, return_exceptions=True):
                if isinstance(end, Exception):
                    raise end

        self.stored.update(key for keys in several[1::2] for key in keys)
        self.run(everybody())
        hits = self.cache.stats().tiers["dram"]
        self.asked = hits.hit_blocks + hits.missed_blocks  # some were cancelled before they asked

    @rule(keys=prompts)
    def prefetch(self, keys: list[bytes]) -> None:
        at_first = self.run(self.cache.lookup(keys))
        assert at_first["dram"] <= self.run(self.cache.prefetch(keys)) <= self.known(keys)

    @rule(target=leases, keys=prompts, pin=st.booleans())
    def lease(self, keys: list[bytes], pin: bool) -> CacheLease:
        found = self.run(self.cache.lookup(keys))
        lease = self.run(self.cache.pin(keys) if pin else self.cache.acquire(keys))
        self.asked += 0 if pin else len(keys)
        assert {name: len(part) for name, part in lease.parts.items()} == found
        assert len(lease) == max(found.values()) <= self.known(keys)
        self.open.append(lease)
        return lease

    @rule(lease=leases, first=st.integers(0, DEPTH), count=st.integers(0, DEPTH))
    def read(self, lease: CacheLease, first: int, count: int) -> None:
        if lease.released:
            return  # it ended when the cache was closed
        first = min(first, len(lease))
        self.run(self.reads(lease, first, min(count, len(lease) - first)))

    async def reads(self, lease: CacheLease, first: int, count: int) -> None:
        into = np.full((count, BLOCK_BYTES), 0xA5, np.uint8)
        assert await self.cache.read(lease, into, first) == count
        assert wrong_blocks(lease.keys[first : first + count], into) == 0

    @rule(lease=consumes(leases))
    def release(self, lease: CacheLease) -> None:
        if lease in self.open:  # else it ended when the cache was closed
            self.open.remove(lease)
            self.run(self.released(lease))

    async def released(self, lease: CacheLease) -> None:
        self.cache.release(lease)

    @rule(lease=leases)
    def fetch(self, lease: CacheLease) -> None:
        if lease in self.open:
            before = len(lease.parts["dram"])
            self.run(self.cache.fetch(lease))
            assert before <= len(lease.parts["dram"]) <= len(lease)

    @rule(target=rooms, keys=prompts)
    def reserve(self, keys: list[bytes]) -> CacheReservation:
        room = self.run(self.cache.reserve(keys))
        if not len(room):
            self.run(self.ends(room, commit=False))
            return room
        self.taken.append(room)
        dram = self.cache.dram
        assert isinstance(dram, DramTier)
        blocks = the_bytes(room.part.keys, BLOCK_BYTES)
        for view, block in zip(dram.reserved(room.part), blocks, strict=True):
            view[:] = block
        return room

    @rule(room=consumes(rooms), commit=st.booleans())
    def end_reservation(self, room: CacheReservation, commit: bool) -> None:
        if room in self.taken:
            self.taken.remove(room)
            if commit:
                self.stored.update(room.part.keys)
            self.run(self.ends(room, commit=commit))

    async def ends(self, room: CacheReservation, *, commit: bool) -> None:
        if commit:
            await self.cache.commit(room)
        else:
            self.cache.abort(room)

    # Everything else.

    @rule(name=st.sampled_from(["dram", "ssd"]), data=st.data())
    def resize(self, name: str, data: st.DataObject) -> None:
        blocks = data.draw(st.one_of(st.just(0), st.integers(0, MOST[name])))
        tier = self.cache.tiers[name]
        assert isinstance(tier, DramTier | SsdTier)
        self.run(self.cache.resize(**{name: tier.bytes_for(blocks)}))
        self.blocks[name] = blocks

    @rule(name=st.sampled_from(["dram", "ssd"]), keys=prompts)
    def delete(self, name: str, keys: list[bytes]) -> None:
        self.run(self.cache.tiers[name].delete(keys))
        assert self.run(self.cache.lookup(keys))[name] < len(keys)

    @rule(yields=st.integers(1, 20))
    def time_passes(self, yields: int) -> None:
        async def passes() -> None:
            for _ in range(yields):
                await asyncio.sleep(0.0002)

        self.run(passes())

    @rule(flush=st.booleans())
    def drain(self, flush: bool) -> None:
        self.run(self.cache.flush() if flush else self.cache.drain())
        assert self.cache.stats().waiting_bytes == 0
        if not self.open and not self.taken:
            assert pinned(self.cache) == {"dram": 0, "ssd": 0}

    @rule()
    def close_and_open_again(self) -> None:
        """What was on SSD is still there, as far as there was room for it without leases."""
        for lease in self.open:
            self.run(self.released(lease))
        self.open = []
        for room in self.taken:
            self.run(self.ends(room, commit=False))
        self.taken = []
        self.run(self.cache.drain())
        before = [self.run(self.cache.lookup(keys))["ssd"] for keys in PROMPTS]
        self.run(self.cache.close())
        self.start()
        for keys, found in zip(PROMPTS, before, strict=True):
            assert self.run(self.cache.lookup(keys)) == {"dram": 0, "ssd": found}

    # What always holds.

    @invariant()
    def what_is_leased_can_be_read(self) -> None:
        for lease in self.open:
            self.run(self.reads(lease, 0, len(lease)))

    @invariant()
    def capacities_hold_but_for_what_is_in_use(self) -> None:
        stats = self.cache.stats()
        in_use = pinned(self.cache)
        for name, tier in stats.tiers.items():
            assert tier.failures == {}
            each = self.cache.tiers[name]
            assert isinstance(each, DramTier | SsdTier)
            assert tier.blocks <= max(each.index.capacity_blocks, in_use[name])
            if in_use[name] == 0:
                assert tier.used_bytes <= tier.capacity_bytes

    @invariant()
    def what_was_asked_for_is_counted(self) -> None:
        for tier in self.cache.stats().tiers.values():
            assert tier.hit_blocks + tier.missed_blocks == self.asked

    @invariant()
    def few_blocks_are_remembered(self) -> None:
        assert len(self.cache.directory) <= 40 + DEPTH

    def teardown(self) -> None:
        try:
            for lease in self.open:
                self.run(self.reads(lease, 0, len(lease)))
                self.run(self.released(lease))
            for room in self.taken:
                self.run(self.ends(room, commit=True))
            self.run(self.cache.drain())
            assert pinned(self.cache) == {"dram": 0, "ssd": 0}
            self.run(self.cache.close())
            self.run(self.nothing_is_left())
        finally:
            self.runner.close()
            shutil.rmtree(self.folder)

    async def nothing_is_left(self) -> None:
        assert asyncio.all_tasks() == {asyncio.current_task()}


def test_whatever_is_done_no_byte_is_wrong_and_no_lease_ends_by_itself() -> None:
    run_state_machine_as_test(
        CacheMachine, settings=settings(max_examples=25, stateful_step_count=25, deadline=None)
    )
