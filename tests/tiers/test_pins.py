"""What clients may have pinned is never given back; and memory falls once they have unpinned it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from greencache.tiers.dram import DramTier
from greencache.tiers.memory_file import MemoryFile
from greencache.tiers.pins import Pins
from tests.conformance.prompts import check, load, prompt, settled, store
from tests.pinning import PagePinning

MIB = 2**20
BLOCKS = 32
EXTENT_BLOCKS = 8


class Client:
    """Pins all that it is offered, in this process, as whoever has the tier's memory mapped."""

    def __init__(self, tier: DramTier) -> None:
        self.tier, self.device = tier, PagePinning()
        self.asked: list[int] = []
        self.parts: dict[int, list[int]] = {}
        self.refused: set[int] = set()

    def ask_back(self, extents: list[int]) -> None:
        self.asked += extents

    def pin_all(self) -> int:
        """How many bytes are new."""
        size = 0
        for number, begin, size_bytes in self.tier.offer_pins(self, self.refused):
            address = self.file(number).bytes.ctypes.data + begin
            self.device.pin(address, size_bytes)
            self.parts.setdefault(number, []).append(address)
            size += size_bytes
        return size

    def file(self, number: int) -> MemoryFile:
        return next(file for file in self.tier._extents.values() if file.number == number)

    def unpin(self, extents: list[int] | None = None) -> None:
        """Unpin some, by default what is asked back, and say so."""
        extents = list(self.asked) if extents is None else extents
        for number in extents:
            for address in self.parts.pop(number, []):
                self.device.unpin(address)
        self.asked = [each for each in self.asked if each not in extents]
        self.tier.unpinned(self, extents)


def tier_of(blocks: int, *, prefault: bool = True) -> DramTier:
    return DramTier(MIB, blocks * MIB, extent_bytes=EXTENT_BLOCKS * MIB, prefault=prefault)


async def whole(tier: DramTier) -> None:
    assert await settled(lambda: tier.stats().backed_bytes == tier.stats().capacity_bytes)


async def shrunk(tier: DramTier) -> None:
    def is_small() -> bool:
        stats = tier.stats()
        return tier.allocated_bytes == stats.backed_bytes <= stats.capacity_bytes

    assert await settled(is_small), tier.stats()


def test_the_hazard_a_pinned_page_outlives_a_hole_in_its_file() -> None:
    """What all of this is for: the device goes on with a page that the file no longer has."""
    file, device = MemoryFile(1, "greencache-hazard", MIB, MIB), PagePinning()
    file.back(0, MIB)
    file.bytes[:] = 1
    device.pin(file.bytes.ctypes.data, MIB)
    file.give_back(0, MIB)
    assert file.allocated_bytes == 0, "the kernel counts it as given back, which it is not"
    file.back(0, MIB)
    file.bytes[:] = 2
    assert device.look()[0][0] == 1, "and the device would have read or written there"
    device.unpin(file.bytes.ctypes.data)
    device.pin(file.bytes.ctypes.data, MIB)
    assert device.sees_the_file()
    device.unpin(file.bytes.ctypes.data)
    file.close()


async def test_nothing_pinned_is_given_back_and_all_of_it_once_unpinned() -> None:
    keys = prompt(*range(BLOCKS))
    async with tier_of(BLOCKS) as tier:
        await whole(tier)
        await store(tier, keys)
        client = Client(tier)
        assert client.pin_all() == BLOCKS * MIB == tier.stats().pinned_bytes
        assert await tier.resize(8 * MIB) == 24 * MIB, "it is still to be given back"
        assert tier.allocated_bytes == BLOCKS * MIB
        assert tier.stats().unpinning_bytes == 24 * MIB
        assert len(client.asked) == 3
        assert client.device.sees_the_file()
        client.unpin()
        await shrunk(tier)
        assert (tier.stats().unpinning_bytes, tier.stats().pinned_bytes) == (0, 8 * MIB)
        await tier.resize(0)
        client.unpin()
        await shrunk(tier)
        assert tier.stats().pinned_bytes == tier.allocated_bytes == 0


async def test_what_nobody_has_pinned_goes_first_and_the_highest_of_it() -> None:
    async with tier_of(2 * EXTENT_BLOCKS, prefault=False) as tier:
        await store(tier, prompt(*range(EXTENT_BLOCKS)))
        first = Client(tier)
        assert first.pin_all() == EXTENT_BLOCKS * MIB, "the extent that is whole, and no other"
        keys = prompt("others", *range(6))
        await store(tier, keys)
        await tier.delete(prompt(0))
        await tier.delete(keys[:1])
        assert await tier.resize(EXTENT_BLOCKS * MIB) == 0
        assert tier.allocated_bytes == EXTENT_BLOCKS * MIB
        assert first.asked == []
        assert await tier.resize(3 * MIB) == 5 * MIB
        assert len(first.asked) == 1
        first.unpin()
        await shrunk(tier)


async def test_blocks_are_stored_and_loaded_while_a_shrink_waits() -> None:
    """In memory that is there anyway: no more is taken, and nobody waits for the client."""
    async with tier_of(BLOCKS) as tier:
        await whole(tier)
        client = Client(tier)
        await store(tier, prompt("a", *range(BLOCKS)))
        client.pin_all()
        await tier.resize(12 * MIB)
        for turn in range(6):
            keys = prompt(turn, *range(5))
            async with asyncio.timeout(5.0):
                assert await store(tier, keys) == len(keys)
                assert await load(tier, keys) == len(keys)
            assert tier.allocated_bytes == BLOCKS * MIB
        client.unpin()
        await shrunk(tier)
        assert await load(tier, prompt(5, *range(5))) == 6


async def test_new_blocks_go_where_memory_is_and_nothing_is_asked_back_for_them() -> None:
    """The low half was given back, as nobody had it pinned; so the high one is what there is."""
    async with tier_of(2 * EXTENT_BLOCKS) as tier:
        await whole(tier)
        client = Client(tier)
        client.refused = {min(tier.extents())}
        assert client.pin_all() == EXTENT_BLOCKS * MIB
        assert await tier.resize(EXTENT_BLOCKS * MIB) == 0
        assert tier.extents() == set(client.parts)
        for turn in range(4):
            keys = prompt(turn, *range(4))
            assert await store(tier, keys) == len(keys)
            assert await load(tier, keys) == len(keys)
        assert client.asked == []
        assert tier.allocated_bytes == EXTENT_BLOCKS * MIB


async def test_a_tier_that_grows_back_uses_what_it_could_not_give_back() -> None:
    async with tier_of(BLOCKS) as tier:
        await whole(tier)
        client = Client(tier)
        client.pin_all()
        await tier.resize(8 * MIB)
        assert client.pin_all() == 0, "nothing is offered that is to go"
        assert await tier.resize(BLOCKS * MIB) == 0
        assert tier.stats().unpinning_bytes == 0
        keys = prompt(*range(BLOCKS))
        assert await store(tier, keys) == BLOCKS
        client.unpin()
        assert tier.allocated_bytes == BLOCKS * MIB
        assert client.pin_all() == 24 * MIB, "what it has unpinned it may pin again"
        assert tier.stats().pinned_bytes == BLOCKS * MIB
        assert await load(tier, keys) == BLOCKS


async def test_a_leased_block_in_a_pinned_extent_goes_when_both_have_ended() -> None:
    keys = prompt(*range(BLOCKS))
    async with tier_of(BLOCKS) as tier:
        await whole(tier)
        await store(tier, keys)
        client, lease = Client(tier), await tier.acquire(keys[:4])
        client.pin_all()
        await tier.resize(0)
        client.unpin()
        assert await settled(lambda: tier.allocated_bytes == 4 * MIB)
        assert await check(tier, lease) == 4
        assert client.pin_all() == 0
        tier.release(lease)
        assert await settled(lambda: tier.allocated_bytes == 0)


async def test_two_have_the_same_pinned_and_the_last_one_counts() -> None:
    async with tier_of(BLOCKS) as tier:
        await whole(tier)
        one, other = Client(tier), Client(tier)
        assert one.pin_all() == other.pin_all() == tier.stats().pinned_bytes == BLOCKS * MIB
        await tier.resize(0)
        assert sorted(one.asked) == sorted(other.asked) == sorted(one.parts)
        one.unpin()
        await asyncio.sleep(0.02)
        assert tier.allocated_bytes == BLOCKS * MIB
        assert other.device.sees_the_file()
        other.unpin()
        await shrunk(tier)


async def test_only_as_much_is_asked_back_as_is_needed() -> None:
    async with tier_of(BLOCKS) as tier:
        await whole(tier)
        client = Client(tier)
        client.pin_all()
        for blocks in (30, 28, 27):
            await tier.resize(blocks * MIB)
        assert client.asked == [max(client.parts)], "the last one covers all of these"
        await tier.resize(20 * MIB)
        assert len(client.asked) == 2
        client.unpin()
        await shrunk(tier)
        assert len(tier.extents()) == 3
        assert tier.stats().pinned_bytes == 16 * MIB


async def test_what_has_no_memory_is_not_offered() -> None:
    """Pinning it would take some."""
    async with tier_of(20, prefault=False) as tier:
        client = Client(tier)
        assert client.pin_all() == 0
        await store(tier, prompt(*range(10)))
        assert client.pin_all() == EXTENT_BLOCKS * MIB
        assert tier.allocated_bytes == 10 * MIB
        await store(tier, prompt(*range(20)))
        assert client.pin_all() == 12 * MIB, "the third extent as far as the capacity goes"
        assert tier.allocated_bytes == 20 * MIB
        await tier.resize(24 * MIB)
        await store(tier, prompt(*range(24)))
        assert client.pin_all() == 0
        assert client.asked == [max(client.parts)], "so that more of it can be offered"
        client.unpin()
        assert client.pin_all() == EXTENT_BLOCKS * MIB
        assert tier.allocated_bytes == 24 * MIB


async def test_after_a_shrink_left_holes_the_rest_is_offered() -> None:
    keys = [prompt(number) for number in range(BLOCKS)]
    async with tier_of(BLOCKS) as tier:
        await whole(tier)
        for each in keys:
            await store(tier, each)
        for each in keys[1::4]:  # used last: they stay
            await load(tier, each)
        await tier.resize(BLOCKS // 2 * MIB)
        client = Client(tier)
        size = client.pin_all()
        assert tier.allocated_bytes == BLOCKS // 2 * MIB, "no hole was filled by that"
        assert size == BLOCKS // 2 * MIB
        # New blocks come into what is backed, not into holes in place of something pinned.
        for number in range(BLOCKS):
            await store(tier, prompt("new", number))
        assert client.asked == []
        assert client.device.sees_the_file()


async def test_what_could_not_be_pinned_is_told_apart_from_what_was_asked_back() -> None:
    async with tier_of(2 * EXTENT_BLOCKS) as tier:
        await whole(tier)
        client = Client(tier)
        client.pin_all()
        low, high = sorted(client.parts)
        await tier.resize(EXTENT_BLOCKS * MIB)
        assert tier.unpinned(client, [low, high, 12345]) == {low}
        assert tier.unpinned(client, [low, high]) == set()
        await shrunk(tier)
        assert tier.offer_pins(client, {low}) == []
        assert {number for number, _, _ in tier.offer_pins(client)} == {low}
        assert tier.pinned_extents(client) == (1, 0)
        tier.unpinned(client)
        assert tier.pinned_extents(client) == (0, 0)


async def test_large_extents_are_offered_in_parts_that_no_block_crosses() -> None:
    block_bytes = 3 * MIB
    async with DramTier(block_bytes, 90 * MIB, extent_bytes=90 * MIB) as tier:
        await whole(tier)
        parts = tier.offer_pins(Client(tier))
        assert [size for _, _, size in parts] == [63 * MIB, 27 * MIB]
        assert all(begin % block_bytes == 0 for _, begin, _ in parts)


# The bookkeeping alone.


class Holder:
    def __init__(self) -> None:
        self.asked: set[int] = set()

    def ask_back(self, extents: list[int]) -> None:
        assert self.asked.isdisjoint(extents), "each once"
        assert len(set(extents)) == len(extents)
        self.asked.update(extents)


PLACES, LENGTH = 4, 6
SLOTS = PLACES * LENGTH


class PinsMachine(RuleBasedStateMachine):
    """Offers, asks and answers in any order, against a plain set of who has which slots."""

    def __init__(self) -> None:
        super().__init__()
        self.pins, self.holders = Pins(), [Holder() for _ in range(3)]
        self.held: dict[tuple[int, int], set[int]] = {}
        """Slots by extent and holder."""

    def _may(self, extent: int, who: int) -> bool:
        nobody_asked = all(extent not in holder.asked for holder in self.holders)
        return nobody_asked and (extent, who) not in self.held

    @rule(extent=st.integers(0, PLACES - 1), who=st.integers(0, 2), bits=st.integers(1, 63))
    def offer(self, extent: int, who: int, bits: int) -> None:
        assert self.pins.may_offer(self.holders[who], extent) == self._may(extent, who)
        if self._may(extent, who):
            slots = {extent * LENGTH + bit for bit in range(LENGTH) if bits >> bit & 1}
            self.pins.offer(self.holders[who], extent, [(slot, 1) for slot in sorted(slots)])
            self.held[extent, who] = slots

    @rule(who=st.integers(0, 2), extents=st.sets(st.integers(0, PLACES)))
    def release(self, who: int, extents: set[int]) -> None:
        self.pins.release(self.holders[who], extents)
        self.holders[who].asked -= extents
        for extent in extents:
            self.held.pop((extent, who), None)

    @rule(who=st.integers(0, 2))
    def die(self, who: int) -> None:
        self.release(who, self.pins.extents_of(self.holders[who]))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def want_one(self, data: st.DataObject) -> None:
        extent, who = data.draw(st.sampled_from(sorted(self.held)))
        self.pins.ask_back(self.holders[who], [extent])
        assert extent in self.holders[who].asked

    @rule(bits=st.integers(0, 2**SLOTS - 1), count=st.integers(1, SLOTS))
    def want(self, bits: int, count: int) -> None:
        free = np.array([bits >> slot & 1 for slot in range(SLOTS)], np.bool_)
        before = self._wholly_asked()
        self.pins.ask_for(count, free)
        after = self._wholly_asked()
        coming = self._free_in(after, free)
        everything = self._free_in({extent for extent, _ in self.held}, free)
        assert coming >= min(count, everything), "enough is asked for"
        new = after - before
        if new:
            assert self._free_in(after - {min(new)}, free) < count, "and no more than that"
        others = {extent for extent, _ in self.held} - after
        with_some = {extent for extent in others if self._free_in({extent}, free)}
        assert not new or max(with_some, default=-1) < min(new), "the highest"

    def _wholly_asked(self) -> set[int]:
        extents = {extent for extent, _ in self.held}
        return {
            extent
            for extent in extents
            if all(extent in self.holders[who].asked for of, who in self.held if of == extent)
        }

    def _pinned(self, extents: set[int]) -> set[int]:
        found = [slots for (extent, _), slots in self.held.items() if extent in extents]
        return set().union(*found)

    def _free_in(self, extents: set[int], free: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> int:
        return sum(bool(free[slot]) for slot in self._pinned(extents))

    @invariant()
    def nothing_pinned_may_go(self) -> None:
        pinned = self._pinned({extent for extent, _ in self.held})
        for slots in (SLOTS, SLOTS // 2, SLOTS + 5):
            expected = {slot for slot in pinned if slot < slots}
            assert set(np.flatnonzero(self.pins.mask(slots)).tolist()) == expected
        assert len(self.pins) == len(pinned)

    @invariant()
    def everybody_has_what_was_offered(self) -> None:
        for who, holder in enumerate(self.holders):
            own = {extent for extent, of in self.held if of == who}
            assert self.pins.extents_of(holder) == own
            assert self.pins.asked_of(holder) == holder.asked <= own
            for extent in own:
                assert self.pins.slots_of(holder, extent) == len(self.held[extent, who])


def test_who_has_what_whatever_happens() -> None:
    run_state_machine_as_test(
        PinsMachine, settings=settings(max_examples=60, stateful_step_count=30)
    )


# Whatever is done to a tier.


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


STEPS = st.one_of(
    st.tuples(st.just("resize"), st.integers(0, 24)),
    st.tuples(st.just("store"), st.integers(0, 40)),
    st.tuples(st.just("load"), st.integers(0, 40)),
    st.tuples(st.just("pin"), st.integers(0, 1)),
    st.tuples(st.just("unpin"), st.integers(0, 1)),
    st.tuples(st.just("end"), st.integers(0, 1)),
)


@settings(max_examples=25)
@given(steps=st.lists(STEPS, max_size=25))
def test_devices_see_the_files_whatever_is_resized_stored_and_pinned(
    loop: asyncio.Runner, steps: list[tuple[str, int]]
) -> None:
    loop.run(_whatever(steps))


async def _whatever(steps: list[tuple[str, int]]) -> None:
    block_bytes = 4096
    most = 24
    async with DramTier(block_bytes, 16 * block_bytes, extent_bytes=8 * block_bytes) as tier:
        clients = [Client(tier), Client(tier)]
        for client in clients:
            client.device = PagePinning(block_bytes)
        for what, number in steps:
            if what == "resize":
                await tier.resize(number * block_bytes)
            elif what == "store":
                await store(tier, prompt(*range(number % 7, number % 7 + number // 7 + 1)))
            elif what == "load":
                await load(tier, prompt(*range(number % 7, number % 7 + number // 7 + 1)))
            elif what == "pin":
                before = tier.allocated_bytes
                clients[number].pin_all()
                assert tier.allocated_bytes <= max(before, tier.stats().capacity_bytes)
            elif what == "unpin":
                clients[number].unpin()
            else:
                clients[number].unpin(list(clients[number].parts))
            stats = tier.stats()
            assert tier.allocated_bytes <= most * block_bytes
            assert stats.pinned_bytes <= stats.backed_bytes
            assert stats.failures == {}
        for client in clients:
            assert client.device.sees_the_file()
            client.unpin(list(client.parts))
        await shrunk(tier)
