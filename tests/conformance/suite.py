"""What every tier has to do: derive from `TierConformance`, say how a tier is made, run pytest.

The contract is in `greencache.tiers.base`. Tests see nothing but that.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from abc import abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Protocol

import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from greencache.errors import BlockStateError, InputError, TierClosedError
from greencache.tiers.base import Blocks, Tier
from tests.conformance.machine import TierMachine
from tests.conformance.prompts import check, load, prompt, settled, store, the_bytes, wrong_blocks

__all__ = ["MakeTier", "TierConformance"]

BLOCK_BYTES = 5000
ODD_SIZES = [1, 511, 4096, 4097, 300_001]


class MakeTier(Protocol):
    """Makes a tier that is not open yet.

    Tiers made with the same ``place`` follow one another in the same place, if a tier has any:
    the next one is made after the one before was closed.
    """

    def __call__(self, block_bytes: int, capacity_bytes: int, place: str = "here") -> Tier: ...


class TierConformance:
    """The suite.

    Attributes
    ----------
    keeps_blocks:
        Whether a tier finds again what the one before it in the same place held.
    keeps_beyond_capacity:
        Whether it finds all of that whatever its capacity: it is on a server that others share, so
        a tier's capacity is for what it stores itself.
    page_bytes:
        What a block's bytes are rounded up to.
    own_bytes:
        The most that a tier of a few blocks occupies beside them.
    """

    keeps_blocks: bool = False
    keeps_beyond_capacity: bool = False
    page_bytes: int = 4096
    own_bytes: int = 0

    @pytest.fixture
    @abstractmethod
    def make(self) -> MakeTier:
        """How a tier is made."""

    def room_for(self, blocks: int, block_bytes: int = BLOCK_BYTES) -> int:
        """Capacity for so many blocks and not one more."""
        return blocks * (-(-block_bytes // self.page_bytes) * self.page_bytes)

    @asynccontextmanager
    async def tier(
        self, make: MakeTier, blocks: int, block_bytes: int = BLOCK_BYTES
    ) -> AsyncIterator[Tier]:
        """An open tier with room for so many blocks."""
        async with make(block_bytes, self.room_for(blocks, block_bytes)) as tier:
            yield tier

    # Opened and closed.

    async def test_a_tier_that_is_not_open_refuses(self, make: MakeTier) -> None:
        tier = make(BLOCK_BYTES, self.room_for(4))
        for _ in range(2):
            for call in (tier.match, tier.acquire, tier.reserve):
                with pytest.raises(TierClosedError):
                    await call(prompt("a"))
            with pytest.raises(TierClosedError):
                await tier.resize(0)
            if not tier.stats().written_bytes:
                async with tier:
                    assert await store(tier, prompt("a")) == 1
        await tier.close()

    async def test_what_was_open_is_refused_once_closed(self, make: MakeTier) -> None:
        async with self.tier(make, 4) as tier:
            await store(tier, prompt("a"))
            lease = await tier.acquire(prompt("a"))
            reservation = await tier.reserve(prompt("a", "b"))
        with pytest.raises(TierClosedError):
            await tier.read(lease, the_bytes(lease.keys, BLOCK_BYTES))
        with pytest.raises(TierClosedError):
            await tier.write(reservation, the_bytes(reservation.keys, BLOCK_BYTES))
        tier.release(lease)
        tier.abort(reservation)

    async def test_a_closed_tier_is_found_again_or_empty(self, make: MakeTier) -> None:
        prompts = [prompt("a", n, "c") for n in range(4)]
        async with self.tier(make, 12) as tier:
            for keys in prompts:
                await store(tier, keys)
            await tier.flush()
        async with self.tier(make, 12) as tier:
            for keys in prompts:
                assert await load(tier, keys) == (3 if self.keeps_blocks else 0)

    async def test_a_smaller_tier_keeps_what_it_has_room_for(self, make: MakeTier) -> None:
        keys = prompt(*range(6))
        async with self.tier(make, 6) as tier:
            await store(tier, keys)
        async with self.tier(make, 4) as tier:
            kept = 6 if self.keeps_beyond_capacity else 4
            assert await load(tier, keys) == (kept if self.keeps_blocks else 0)
            assert tier.stats().used_bytes <= tier.stats().capacity_bytes

    # Bytes.

    @pytest.mark.parametrize("block_bytes", ODD_SIZES)
    async def test_blocks_of_any_size_come_back_as_they_were(
        self, make: MakeTier, block_bytes: int
    ) -> None:
        keys = prompt(*range(7))
        async with self.tier(make, 7, block_bytes) as tier:
            assert await store(tier, keys) == 7
            assert await load(tier, keys) == 7

    async def test_buffers_are_one_array_or_one_for_each(self, make: MakeTier) -> None:
        keys = prompt(*range(5))
        expected = the_bytes(keys, BLOCK_BYTES)
        async with self.tier(make, 5) as tier:
            reservation = await tier.reserve(keys)
            assert await tier.write(reservation, [block.copy() for block in expected])
            await tier.commit(reservation)
            lease = await tier.acquire(keys)
            apart = [np.zeros(BLOCK_BYTES, np.uint8) for _ in keys]
            assert await tier.read(lease, apart) == 5
            assert (np.stack(apart) == expected).all()
            together = np.zeros_like(expected)
            assert await tier.read(lease, together) == 5
            assert (together == expected).all()
            tier.release(lease)

    async def test_what_is_written_may_be_changed_afterwards(self, make: MakeTier) -> None:
        keys = prompt("a", "b")
        async with self.tier(make, 2) as tier:
            reservation = await tier.reserve(keys)
            blocks = the_bytes(keys, BLOCK_BYTES)
            assert await tier.write(reservation, blocks)
            blocks[:] = 0
            await tier.commit(reservation)
            assert await load(tier, keys) == 2

    async def test_part_of_a_lease_is_read(self, make: MakeTier) -> None:
        keys = prompt(*range(6))
        async with self.tier(make, 6) as tier:
            await store(tier, keys)
            lease = await tier.acquire(keys)
            for first in range(7):
                for count in range(7 - first):
                    blocks = np.zeros((count, BLOCK_BYTES), np.uint8)
                    assert await tier.read(lease, blocks, first) == count
                    assert wrong_blocks(keys[first : first + count], blocks) == 0
            for first, count in ((0, 7), (5, 2), (7, 1)):
                with pytest.raises(BlockStateError):
                    await tier.read(lease, np.zeros((count, BLOCK_BYTES), np.uint8), first)
            tier.release(lease)

    async def test_buffers_that_are_not_blocks_are_refused(self, make: MakeTier) -> None:
        keys = prompt("a", "b")
        good = the_bytes(keys, BLOCK_BYTES)
        misfits: list[Blocks] = [
            good[:, :-1],
            np.zeros((2, 1), np.uint8),
            np.zeros((2, BLOCK_BYTES), np.int8),
            np.zeros((2, 2 * BLOCK_BYTES), np.uint8)[:, ::2],
            [good[0], good[1][:1]],
        ]
        async with self.tier(make, 2) as tier:
            reservation = await tier.reserve(keys)
            for count in (0, 1, 3):
                with pytest.raises(BlockStateError):
                    await tier.write(reservation, np.zeros((count, BLOCK_BYTES), np.uint8))
            for misfit in misfits:
                with pytest.raises(InputError):
                    await tier.write(reservation, misfit)
            assert await tier.write(reservation, good), "it can still be written"
            await tier.commit(reservation)
            lease = await tier.acquire(keys)
            for misfit in misfits:
                with pytest.raises(InputError):
                    await tier.read(lease, misfit)
            assert await check(tier, lease) == 2
            tier.release(lease)

    # Prefixes.

    async def test_a_new_tier_has_nothing(self, make: MakeTier) -> None:
        async with self.tier(make, 4) as tier:
            assert await tier.match(prompt("a", "b")) == 0
            assert await load(tier, prompt("a", "b")) == 0
            assert await tier.delete(prompt("a", "b")) == 0

    async def test_hits_are_prefixes(self, make: MakeTier) -> None:
        keys = prompt("a", "b", "c")
        async with self.tier(make, 8) as tier:
            assert await store(tier, keys) == 3
            assert await tier.match(keys) == 3
            assert await load(tier, keys[:2]) == 2
            assert await load(tier, prompt("a", "b", "x", "c")) == 2
            assert await load(tier, prompt("x", "b", "c")) == 0
            assert await load(tier, keys[1:]) in (0, 2), "not from the start of a prompt"

    async def test_prompts_share_their_prefix(self, make: MakeTier) -> None:
        async with self.tier(make, 8) as tier:
            assert await store(tier, prompt("a", "b", "c")) == 3
            assert await store(tier, prompt("a", "b", "d", "e")) == 2
            assert tier.stats().blocks == 5
            assert await load(tier, prompt("a", "b", "c")) == 3
            assert await load(tier, prompt("a", "b", "d", "e")) == 4
            assert await store(tier, prompt("a", "b")) == 0

    async def test_no_blocks_are_none(self, make: MakeTier) -> None:
        async with self.tier(make, 2) as tier:
            assert await tier.match([]) == 0
            assert await load(tier, []) == 0
            assert await store(tier, []) == 0
            assert await tier.delete([]) == 0

    # Storing.

    async def test_nothing_is_found_before_it_is_committed(self, make: MakeTier) -> None:
        keys = prompt("a", "b")
        async with self.tier(make, 4) as tier:
            reservation = await tier.reserve(keys)
            assert await tier.match(keys) == 0
            assert await tier.write(reservation, the_bytes(keys, BLOCK_BYTES))
            assert await tier.match(keys) == 0
            assert await load(tier, keys) == 0
            await tier.commit(reservation)
            assert await load(tier, keys) == 2

    async def test_an_abort_leaves_nothing(self, make: MakeTier) -> None:
        async with self.tier(make, 3) as tier:
            await store(tier, prompt("a"))
            for written in (False, True):
                reservation = await tier.reserve(prompt("a", "b", "c"))
                assert reservation.first == 1
                if written:
                    blocks = np.zeros((2, BLOCK_BYTES), np.uint8)
                    assert await tier.write(reservation, blocks)
                tier.abort(reservation)
                assert await load(tier, prompt("a", "b", "c")) == 1
                assert tier.stats().blocks == 1
            assert await store(tier, prompt("a", "b", "c")) == 2
            assert await load(tier, prompt("a", "b", "c")) == 3

    async def test_transactions_end_once(self, make: MakeTier) -> None:
        async with self.tier(make, 4) as tier:
            reservation = await tier.reserve(prompt("a"))
            with pytest.raises(BlockStateError):
                await tier.commit(reservation)  # nothing was written yet
            assert await tier.write(reservation, the_bytes(prompt("a"), BLOCK_BYTES))
            await tier.commit(reservation)
            aborted = await tier.reserve(prompt("b"))
            tier.abort(aborted)
            for ended in (reservation, aborted):
                with pytest.raises(BlockStateError):
                    await tier.commit(ended)
                with pytest.raises(BlockStateError):
                    tier.abort(ended)
                with pytest.raises(BlockStateError):
                    await tier.write(ended, the_bytes(ended.keys, BLOCK_BYTES))
            lease = await tier.acquire(prompt("a"))
            tier.release(lease)
            with pytest.raises(BlockStateError):
                tier.release(lease)
            with pytest.raises(BlockStateError):
                await tier.read(lease, the_bytes(lease.keys, BLOCK_BYTES))
            assert await load(tier, prompt("a")) == 1

    async def test_a_second_writer_of_a_block_gets_none(self, make: MakeTier) -> None:
        keys = prompt("a", "b")
        async with self.tier(make, 8) as tier:
            first = await tier.reserve(keys)
            assert len(first) == 2
            for others in (keys, prompt("a"), prompt("a", "c")):
                other = await tier.reserve(others)
                assert len(other) == 0
                tier.abort(other)
            assert await tier.write(first, the_bytes(keys, BLOCK_BYTES))
            await tier.commit(first)
            assert await store(tier, prompt("a", "c")) == 1
            assert await load(tier, keys) == 2

    async def test_what_does_not_fit_is_left_out_at_the_end(self, make: MakeTier) -> None:
        keys = prompt(*range(9))
        async with self.tier(make, 4) as tier:
            assert await store(tier, keys) == 4
            assert await load(tier, keys) == 4
            assert await store(tier, keys) == 0

    async def test_a_tier_without_room_holds_nothing(self, make: MakeTier) -> None:
        async with make(BLOCK_BYTES, 0) as tier:
            assert await store(tier, prompt("a")) == 0
            assert await load(tier, prompt("a")) == 0
        async with make(BLOCK_BYTES, BLOCK_BYTES - 1) as tier:
            assert await store(tier, prompt("a")) == 0

    # Leases and eviction.

    async def test_others_are_evicted_but_never_what_is_leased(self, make: MakeTier) -> None:
        async with self.tier(make, 4) as tier:
            await store(tier, prompt("a", "b"))
            lease = await tier.acquire(prompt("a", "b"))
            for name in range(10):
                await store(tier, prompt(name, "x"))
                assert await check(tier, lease) == 2
                assert await tier.match(prompt("a", "b")) == 2
            assert await store(tier, prompt("wide", *range(8))) == 2
            assert tier.stats().evicted_blocks >= 18
            tier.release(lease)
            assert await store(tier, prompt("deep", *range(8))) == 4

    async def test_a_tier_full_of_leases_takes_nothing(self, make: MakeTier) -> None:
        async with self.tier(make, 2) as tier:
            await store(tier, prompt("a", "b"))
            leases = [await tier.acquire(prompt("a", "b")) for _ in range(3)]
            for lease in leases:
                assert await store(tier, prompt("c")) == 0
                assert await check(tier, lease) == 2
                tier.release(lease)
            assert await store(tier, prompt("c")) == 1

    async def test_what_is_being_written_stays(self, make: MakeTier) -> None:
        async with self.tier(make, 3) as tier:
            await store(tier, prompt("a"))
            reservation = await tier.reserve(prompt("a", "b"))
            for name in range(5):
                await store(tier, prompt(name))
            assert await tier.write(reservation, the_bytes(reservation.keys, BLOCK_BYTES))
            await tier.commit(reservation)
            assert await load(tier, prompt("a", "b")) == 2

    @pytest.mark.parametrize("backwards", [True, False])
    async def test_leases_end_whatever_was_asked_for(self, make: MakeTier, backwards: bool) -> None:
        """Also what is no prompt: blocks named twice, or of several prompts."""
        a, b, c = keys = prompt("a", "b", "c")
        x, y = other = prompt("x", "y")
        odd = ([a, a], [a, b, a, c], [x, c], [b, c], [a, y, c], [c, b, a], [x, a, y])
        async with self.tier(make, 6) as tier:
            await store(tier, keys)
            await store(tier, other)
            for asked in odd:
                leases = [await tier.acquire(each) for each in (keys, asked, other)]
                leases.append(await tier.hold(asked))
                for lease in leases[:: -1 if backwards else 1]:
                    assert await check(tier, lease) == len(lease)
                    tier.release(lease)
            assert await tier.match(keys) == 3
            assert await store(tier, prompt("wide", *range(5))) == 6, "nothing is leased any more"
            assert await tier.resize(0) == 0
            assert tier.stats().blocks == 0

    # Deleting.

    async def test_deleting_takes_a_block_and_what_builds_on_it(self, make: MakeTier) -> None:
        async with self.tier(make, 8) as tier:
            await store(tier, prompt("a", "b", "c"))
            await store(tier, prompt("a", "b", "d"))
            await store(tier, prompt("a", "e"))
            assert await tier.delete(prompt("a", "b")) == 3
            assert await load(tier, prompt("a", "b", "c")) == 1
            assert await load(tier, prompt("a", "e")) == 2
            assert tier.stats().blocks == 2
            assert await tier.delete(prompt("a", "b")) == 0
            assert await store(tier, prompt("a", "b", "c")) == 2

    async def test_what_is_leased_is_deleted_when_that_ends(self, make: MakeTier) -> None:
        async with self.tier(make, 8) as tier:
            keys = prompt("a", "b", "c")
            await store(tier, keys)
            leases = [await tier.acquire(keys[:2]), await tier.acquire(keys)]
            await tier.delete(keys[:2])
            for lease in leases:
                assert await tier.match(keys) == 1
                assert await check(tier, lease) == len(lease), "readers keep what they leased"
                refused = await tier.reserve(keys)
                assert len(refused) == 0, "it still stands where it stood"
                tier.abort(refused)
                tier.release(lease)
            assert tier.stats().blocks == 1
            assert await store(tier, keys) == 2
            assert await load(tier, keys) == 3

    async def test_what_is_being_written_is_deleted_when_that_ends(self, make: MakeTier) -> None:
        async with self.tier(make, 8) as tier:
            await store(tier, prompt("a"))
            reservation = await tier.reserve(prompt("a", "b", "c"))
            await tier.delete(prompt("a"))
            assert await tier.write(reservation, the_bytes(reservation.keys, BLOCK_BYTES))
            await tier.commit(reservation)
            assert await load(tier, prompt("a", "b", "c")) == 0
            assert tier.stats().blocks == 0
            assert await store(tier, prompt("a", "b", "c")) == 3

    # Sizes.

    def fits(self, tier: Tier) -> bool:
        """Whether no more is occupied than the tier may, or what is leased or written takes."""
        stats = tier.stats()
        return stats.backed_bytes <= max(stats.capacity_bytes, stats.used_bytes + self.own_bytes)

    async def test_a_tier_goes_to_zero_and_back(self, make: MakeTier) -> None:
        keys = prompt(*range(8))
        async with self.tier(make, 8) as tier:
            for _ in range(3):
                assert await store(tier, keys) == 8
                assert await load(tier, keys) == 8
                assert self.fits(tier)
                assert await tier.resize(0) == 0
                assert tier.stats().used_bytes == 0
                assert tier.stats().backed_bytes <= self.own_bytes
                assert await load(tier, keys) == 0
                assert await store(tier, keys) == 0
                assert await tier.resize(self.room_for(8)) == 0

    async def test_a_shrink_keeps_a_prefix_and_growth_keeps_all(self, make: MakeTier) -> None:
        keys = prompt(*range(8))
        async with self.tier(make, 8) as tier:
            await store(tier, keys)
            assert await tier.resize(self.room_for(3)) == 0
            assert self.fits(tier)
            assert await load(tier, keys) == 3
            assert await tier.resize(self.room_for(12)) == 0
            assert await load(tier, keys) == 3
            assert await store(tier, keys) == 5
            assert await load(tier, keys) == 8

    async def test_a_negative_size_is_refused(self, make: MakeTier) -> None:
        async with self.tier(make, 2) as tier:
            await store(tier, prompt("a"))
            with pytest.raises(InputError):
                await tier.resize(-1)
            assert tier.stats().capacity_bytes == self.room_for(2)
            assert await load(tier, prompt("a")) == 1

    async def test_leased_blocks_survive_a_shrink_to_nothing(self, make: MakeTier) -> None:
        keys = prompt(*range(6))
        async with self.tier(make, 6) as tier:
            await store(tier, keys)
            lease = await tier.acquire(keys[:4])
            reservation = await tier.reserve(prompt(*range(4), "x"))
            left = await tier.resize(0)
            assert left >= (4 + len(reservation)) * BLOCK_BYTES
            assert self.fits(tier)
            assert await check(tier, lease) == 4
            tier.abort(reservation)
            left_bytes = self.room_for(4) + self.own_bytes
            assert await settled(lambda: tier.stats().backed_bytes <= left_bytes)
            assert await check(tier, lease) == 4
            tier.release(lease)
            assert await settled(lambda: tier.stats().backed_bytes <= self.own_bytes)
            assert tier.stats().used_bytes == 0

    async def test_a_shrink_while_writing_takes_the_block_once_it_is_committed(
        self, make: MakeTier
    ) -> None:
        async with self.tier(make, 4) as tier:
            reservation = await tier.reserve(prompt("a", "b"))
            assert await tier.resize(self.room_for(1)) > 0
            assert await tier.write(reservation, the_bytes(reservation.keys, BLOCK_BYTES))
            await tier.commit(reservation)
            assert await load(tier, prompt("a", "b")) <= 2
            await store(tier, prompt("c"))
            assert await settled(lambda: tier.stats().backed_bytes <= self.room_for(1))

    async def test_it_is_resized_while_read_and_written(self, make: MakeTier) -> None:
        """Tasks read and write prompts that share prefixes while the size goes up and down."""
        block_bytes, most = 40_000, 48
        draw = random.Random(5)
        prompts = [prompt(n % 3, n % 7, *range(n, n + 8)) for n in range(24)]
        async with self.tier(make, most, block_bytes) as tier:
            done = False
            loaded = stored = 0

            async def use(seed: int) -> None:
                nonlocal loaded, stored
                mine = random.Random(seed)
                while not done:
                    keys = mine.choice(prompts)
                    found = await load(tier, keys)
                    loaded += found  # after the wait, in which others added theirs
                    kept = await store(tier, keys)
                    stored += kept
                    assert tier.stats().backed_bytes <= self.room_for(most, block_bytes)
                    await asyncio.sleep(0)

            users = [asyncio.create_task(use(seed)) for seed in range(6)]
            for _ in range(40):
                await asyncio.sleep(0.005)
                await tier.resize(self.room_for(draw.choice([0, 5, most // 4, most]), block_bytes))
                assert await settled(lambda: self.fits(tier), within_s=1.0)
            await tier.resize(self.room_for(most, block_bytes))
            assert await settled(lambda: loaded > 0)
            done = True
            await asyncio.gather(*users)
            assert loaded > 0
            assert stored > 0
            assert tier.stats().failures == {}
            await tier.resize(0)
            assert await settled(lambda: tier.stats().backed_bytes <= self.own_bytes)

    def test_any_mix_of_uses_agrees_with_a_plain_record(self, make: MakeTier) -> None:
        suite, places = self, itertools.count()

        class Machine(TierMachine):
            def make_tier(self) -> Tier:
                return make(self.block_bytes, 0, f"place-{next(places)}")

            def room_for(self, blocks: int) -> int:
                return suite.room_for(blocks, self.block_bytes)

        run_state_machine_as_test(
            Machine, settings=settings(max_examples=60, stateful_step_count=30)
        )

    # Cancelling.

    async def test_a_cancelled_writer_harms_nobody(self, make: MakeTier) -> None:
        """Its room goes to others when it aborts, so nothing may write there after that."""
        block_bytes, blocks = 200_000, 64
        async with self.tier(make, blocks, block_bytes) as tier:
            for steps in (1, 2, 3, 4) * 3:
                cancelled = await tier.reserve(prompt(*range(blocks)))
                wrong = np.zeros((blocks, block_bytes), np.uint8)
                writer = asyncio.create_task(tier.write(cancelled, wrong))
                for _ in range(steps):
                    await asyncio.sleep(0)
                writer.cancel()
                with suppress(asyncio.CancelledError):  # it may have ended before
                    await writer
                tier.abort(cancelled)
                # All but the room for one block, so that this is the one written to at last.
                waiting = await tier.reserve(prompt("x", *range(blocks - 2)))
                assert await store(tier, prompt("y")) == 1
                await asyncio.sleep(0.002)
                assert await load(tier, prompt("y")) == 1
                tier.abort(waiting)
                await tier.delete(prompt("y"))

    async def test_whoever_is_cancelled_while_reserving_has_nothing(self, make: MakeTier) -> None:
        async with self.tier(make, 4, 300_000) as tier:
            for delay in range(4):
                writer = asyncio.create_task(tier.reserve(prompt("a", "b", "c")))
                for _ in range(delay):
                    await asyncio.sleep(0)
                if writer.cancel():
                    with pytest.raises(asyncio.CancelledError):
                        await writer
                else:
                    tier.abort(await writer)
                assert tier.stats().blocks == 0
            assert await store(tier, prompt(*range(4))) == 4

    # What it tells.

    async def test_stats_say_what_happened(self, make: MakeTier) -> None:
        async with self.tier(make, 4) as tier:
            assert tier.stats().capacity_bytes == self.room_for(4)
            await store(tier, prompt("a", "b", "c"))
            await load(tier, prompt("a", "b", "x"))
            await load(tier, prompt("y"))
            await tier.match(prompt("a"))
            stats = tier.stats()
            assert (stats.hit_blocks, stats.missed_blocks) == (2, 2)
            assert stats.written_bytes == 3 * BLOCK_BYTES
            assert stats.read_bytes == 2 * BLOCK_BYTES
            assert stats.blocks == 3
            assert 3 * BLOCK_BYTES <= stats.used_bytes <= self.room_for(3)
            assert stats.used_bytes <= stats.backed_bytes <= stats.capacity_bytes
            assert stats.evicted_blocks == 0
            assert stats.failures == {}
            await store(tier, prompt("d", "e", "f"))
            assert tier.stats().evicted_blocks == 2
            assert stats.blocks == 3, "what was told before stays as it was"
