"""Transactions, leases, resizing: nothing relied on is ever lost, nothing half-written is seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from numpy.typing import NDArray

from greencache.errors import BlockStateError, InputError
from greencache.tiers import KeyDirectory, Lease, Policy, Reservation, TierIndex
from greencache.tiers.state import FREED, NONE, PINNED, RESERVED
from tests.tiers.restoring import restored


def ids(*blocks: int) -> NDArray[np.int32]:
    return np.array(blocks, np.int32)


def test_blocks_are_found_only_after_commit() -> None:
    index = TierIndex(4)
    reservation = index.reserve(ids(0, 1, 2), now_s=0.0)
    assert len(reservation) == 3
    assert index.match(ids(0, 1, 2)) == 0
    index.commit(reservation, now_s=1.0)
    assert index.match(ids(0, 1, 2)) == 3
    assert len(index) == 3


def test_aborted_blocks_leave_no_trace() -> None:
    index = TierIndex(4)
    index.access(ids(0), now_s=0.0)
    index.abort(index.reserve(ids(0, 1, 2), now_s=1.0), now_s=2.0)
    assert index.match(ids(0, 1, 2)) == 1
    assert len(index) == 1
    assert len(index.reserve(ids(7, 8, 9), now_s=3.0)) == 3


def test_a_second_writer_of_the_same_blocks_gets_none() -> None:
    index = TierIndex(8)
    first = index.reserve(ids(0, 1), now_s=0.0)
    assert len(index.reserve(ids(0, 1), now_s=0.0)) == 0
    index.commit(first, now_s=1.0)
    assert index.match(ids(0, 1)) == 2


def test_a_reservation_gets_what_fits_from_the_front() -> None:
    index = TierIndex(2)
    reservation = index.reserve(ids(0, 1, 2, 3), now_s=0.0)
    assert reservation.ids.tolist() == [0, 1]
    assert len(set(reservation.slots.tolist())) == 2


def test_leased_blocks_are_not_evicted_and_others_are() -> None:
    index = TierIndex(3)
    index.access(ids(0, 1), now_s=0.0)
    lease = index.acquire(ids(0, 1), now_s=1.0)
    index.access(ids(5), now_s=2.0)
    index.access(ids(6, 7), now_s=3.0)
    assert index.match(ids(0, 1)) == 2
    assert index.match(ids(6, 7)) == 1, "only one place was not leased"
    index.release(lease, now_s=4.0)
    index.access(ids(8, 9, 10), now_s=5.0)
    assert index.match(ids(8, 9, 10)) == 3


def test_a_shrink_takes_leased_blocks_when_their_lease_ends() -> None:
    index = TierIndex(4)
    index.access(ids(0, 1, 2, 3), now_s=0.0)
    lease = index.acquire(ids(0, 1, 2), now_s=1.0)
    assert index.resize(1, now_s=2.0) == 2
    assert len(index) == 3
    index.release(lease, now_s=3.0)
    assert len(index) == 1
    assert index.match(ids(0, 1, 2)) == 1, "the root goes last"


def test_a_grown_tier_keeps_what_it_has() -> None:
    index = TierIndex(2)
    index.access(ids(0, 1), now_s=0.0)
    assert index.resize(5, now_s=1.0) == 0
    index.access(ids(0, 1, 2, 3, 4), now_s=2.0)
    assert index.match(ids(0, 1, 2, 3, 4)) == 5


def test_held_capacity_evicts_but_never_what_is_leased() -> None:
    index = TierIndex(4)
    index.access(ids(0, 1, 2, 3), now_s=0.0)
    lease = index.acquire(ids(0, 1), now_s=1.0)
    assert not index.hold(3, now_s=2.0)
    assert len(index) == 4, "a hold that cannot be evicts nothing"
    assert index.hold(2, now_s=2.0)
    assert index.match(ids(0, 1, 2, 3)) == 2
    index.unhold(2)
    index.release(lease, now_s=3.0)
    with pytest.raises(BlockStateError, match="cannot give back"):
        index.unhold(1)
    with pytest.raises(BlockStateError, match="cannot hold"):
        index.hold(-1, now_s=4.0)


def test_transactions_end_once() -> None:
    index = TierIndex(4)
    reservation = index.reserve(ids(0), now_s=0.0)
    index.commit(reservation, now_s=0.0)
    for end in (index.commit, index.abort):
        with pytest.raises(BlockStateError):
            end(reservation, now_s=1.0)
    lease = index.acquire(ids(0), now_s=1.0)
    index.release(lease, now_s=2.0)
    with pytest.raises(BlockStateError):
        index.release(lease, now_s=2.0)


def test_a_negative_capacity_is_refused() -> None:
    with pytest.raises(InputError):
        TierIndex(-1)
    with pytest.raises(InputError):
        TierIndex(1).resize(-1, now_s=0.0)


def test_keys_nobody_stored_are_misses() -> None:
    """`KeyDirectory.find` gives -1 for them, which must not be taken for the last block."""
    directory, index = KeyDirectory(), TierIndex(4)
    for key in (b"a" * 16, b"b" * 16):
        index.access(directory.intern([key]), now_s=0.0)
    asked = directory.find([b"a" * 16, b"X" * 16, b"Y" * 16])
    assert index.match(asked) == 1
    assert index.acquire(asked, now_s=1.0).ids.tolist() == [0]
    assert -1 not in index
    for store in (index.access, index.reserve):
        with pytest.raises(BlockStateError, match="have an id"):
            store(asked, now_s=2.0)


def test_unknown_ids_are_misses() -> None:
    index = TierIndex(4)
    assert index.match(ids(99)) == 0
    assert 99 not in index
    assert len(index.acquire(ids(99, 100), now_s=0.0)) == 0


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ([0, 1, 2], 3),
        ([0, 0], 1),
        ([0, 1, 0, 2], 2),
        ([0, 2], 1),
        ([1, 2], 0),
        ([5, 2], 1),
        ([5, 9, 2, 7], 1),
        ([5, 7], 1),
    ],
    ids=str,
)
def test_what_is_no_chain_is_found_as_far_as_it_is_one(asked: list[int], found: int) -> None:
    """Where blocks are present that do not follow one another, or one of them is absent."""
    index = TierIndex(8)
    index.access(ids(0, 1, 2), now_s=0.0)
    index.access(ids(5, 6), now_s=0.0)
    writing = index.reserve(ids(5, 6, 7), now_s=0.0)
    assert index.match(ids(*asked)) == found
    whole = index.acquire(ids(0, 1, 2), now_s=1.0)
    leases = [index.acquire(ids(*asked), now_s=1.0), index.lease(ids(*asked))]
    assert [len(lease) for lease in leases] == [found, found]
    for lease in (whole, *leases):
        index.release(lease, now_s=2.0)
    index.abort(writing, now_s=3.0)
    assert index.state.meta[PINNED] == 0
    assert index.resize(0, now_s=4.0) == 0


def test_what_is_no_chain_is_reserved_as_far_as_it_is_one() -> None:
    index = TierIndex(8)
    index.access(ids(0, 1), now_s=0.0)
    for asked, first, reserved in (
        ([5, 1], 0, [5]),
        ([5, 6, 5, 7], 0, [5, 6]),
        ([1, 5], 0, []),
        ([0, 5, 1], 1, [5]),
    ):
        reservation = index.reserve(ids(*asked), now_s=1.0)
        assert (reservation.first, reservation.ids.tolist()) == (first, reserved)
        index.abort(reservation, now_s=2.0)
    assert len(index) == index.match(ids(0, 1)) == 2
    assert index.state.meta[PINNED] == 0


def test_a_block_is_in_an_index_once_it_is_committed() -> None:
    index = TierIndex(4)
    index.access(ids(0, 1), now_s=0.0)
    reservation = index.reserve(ids(0, 1, 2), now_s=1.0)
    assert [block in index for block in range(4)] == [True, True, False, False]
    index.commit(reservation, now_s=2.0)
    assert 2 in index


def chain_of(leaf: int) -> NDArray[np.int32]:
    """The path to a node of the binary tree in which node n has children 2n + 1 and 2n + 2."""
    path = [leaf]
    while path[-1] > 0:
        path.append((path[-1] - 1) // 2)
    return np.array(path[::-1], np.int32)


chains = st.integers(0, 62).map(chain_of)


class IndexMachine(RuleBasedStateMachine):
    """Any mix of readers, writers and resizes, against a plain record of what must hold."""

    leases = Bundle("leases")
    reservations = Bundle("reservations")

    def __init__(self) -> None:
        super().__init__()
        self.index = TierIndex(8, Policy.LRU)
        self.now_s = 0.0
        self.leased: list[Lease] = []
        self.reserved: list[Reservation] = []

    def tick(self) -> float:
        self.now_s += 1.0
        return self.now_s

    @rule(policy=st.sampled_from(list(Policy)), capacity=st.integers(0, 20))
    def start_over(self, policy: Policy, capacity: int) -> None:
        if not self.leased and not self.reserved and self.index.held_blocks == 0:
            self.index = TierIndex(capacity, policy)

    @rule(chain=chains, spare=st.integers(0, 1))
    def serve(self, chain: NDArray[np.int32], spare: int) -> None:
        before = self.index.match(chain)
        limit = len(chain) - spare
        assert self.index.access(chain, self.tick(), reusable=limit) == min(before, limit)

    @rule(target=leases, chain=chains)
    def acquire(self, chain: NDArray[np.int32]) -> Lease:
        lease = self.index.acquire(chain, self.tick())
        self.leased.append(lease)
        return lease

    @rule(target=leases, chain=chains)
    def lease_without_access(self, chain: NDArray[np.int32]) -> Lease:
        lease = self.index.lease(chain)
        assert len(lease) == self.index.match(chain)
        self.leased.append(lease)
        return lease

    @rule(block=st.integers(0, 62))
    def drop(self, block: int) -> None:
        """A block goes with all that builds on it, or nothing does."""
        before = {other for other in range(63) if self.index.slot_of(other) != NONE}
        beyond = {other for other in before if block in chain_of(other)}
        used = {int(other) for lease in self.leased for other in lease.ids}
        for reservation in self.reserved:
            used |= set(reservation.ids.tolist()) | set(reservation._prefix.ids.tolist())
        going = set() if beyond & used else beyond
        assert self.index.drop(block) == len(going)
        after = {other for other in range(63) if self.index.slot_of(other) != NONE}
        assert after == before - going

    @rule(first=st.lists(st.booleans(), max_size=20))
    def order_free(self, first: list[bool]) -> None:
        """Also with slots first that were never used."""
        self.index.order_free(np.array(first, np.bool_))

    @rule()
    def restart(self) -> None:
        """What another index held is put back into a new one, as after a restart."""
        if self.leased or self.reserved or self.index.held_blocks:
            return
        old = self.index
        self.index = restored(old, self.tick())
        for chain in map(chain_of, range(63)):
            assert self.index.match(chain) == old.match(chain)
            assert self.index.slot_of(int(chain[-1])) == old.slot_of(int(chain[-1]))

    @rule(lease=consumes(leases))
    def release(self, lease: Lease) -> None:
        self.leased = [other for other in self.leased if other is not lease]
        self.index.release(lease, self.tick())

    @rule(target=reservations, chain=chains)
    def reserve(self, chain: NDArray[np.int32]) -> Reservation:
        reservation = self.index.reserve(chain, self.tick())
        self.reserved.append(reservation)
        return reservation

    @rule(reservation=consumes(reservations), keep=st.booleans())
    def end(self, reservation: Reservation, keep: bool) -> None:
        self.reserved = [other for other in self.reserved if other is not reservation]
        if keep:
            self.index.commit(reservation, self.tick())
        else:
            self.index.abort(reservation, self.tick())

    @rule(capacity=st.integers(0, 20))
    def resize(self, capacity: int) -> None:
        over = self.index.resize(capacity, self.tick())
        assert over == max(0, len(self.index) + self.index.held_blocks - capacity)

    @rule(blocks=st.integers(0, 6))
    def hold(self, blocks: int) -> None:
        self.index.hold(blocks, self.tick())

    @rule()
    def unhold(self) -> None:
        self.index.unhold(self.index.held_blocks)

    @invariant()
    def what_is_leased_is_there(self) -> None:
        for lease in self.leased:
            assert self.index.match(lease.ids) == len(lease.ids)

    @invariant()
    def what_is_reserved_is_kept_and_unseen(self) -> None:
        state = self.index.state
        taken: set[int] = set()
        for reservation in self.reserved:
            for block, slot in zip(reservation.ids, reservation.slots, strict=True):
                assert state.slot_of[block] == slot
                assert state.slots[slot]["leases"] == RESERVED
                taken.add(int(slot))
        assert len(taken) == sum(len(reservation) for reservation in self.reserved)

    @invariant()
    def every_slot_is_occupied_or_free_once(self) -> None:
        state = self.index.state
        occupied = self.index.occupied_slots()
        held = [self.index.slot_of(block) for block in range(63)]
        assert set(np.flatnonzero(occupied)) == {slot for slot in held if slot != NONE}
        free: list[int] = []
        slot = int(state.meta[FREED])
        while slot != NONE:
            free.append(slot)
            slot = int(state.slots[slot]["parent"])
        assert sorted(free) == np.flatnonzero(~occupied).tolist()

    @invariant()
    def what_is_leased_or_reserved_is_counted_once(self) -> None:
        pinned = {int(block) for lease in self.leased for block in lease.ids}
        for reservation in self.reserved:
            pinned |= set(reservation.ids.tolist()) | set(reservation._prefix.ids.tolist())
        assert self.index.state.meta[PINNED] == len(pinned)

    @invariant()
    def content_is_closed_under_prefixes_and_counted(self) -> None:
        state = self.index.state
        present = state.slot_of[state.slot_of != NONE]
        assert len(present) == len(self.index)
        children = np.zeros(len(state.slots), int)
        for slot in present:
            block = state.slots[slot]
            assert state.slot_of[block["id"]] == slot
            if block["parent"] != NONE:
                assert block["parent"] in present
                parent = state.slots[block["parent"]]
                assert parent["id"] == (block["id"] - 1) // 2
                if block["leases"] != RESERVED:
                    assert parent["leases"] != RESERVED
                children[block["parent"]] += 1
            else:
                assert block["id"] == 0
        assert (children[present] == state.slots["children"][present]).all()

    @invariant()
    def capacity_is_kept_unless_it_is_pinned(self) -> None:
        occupied = len(self.index) + self.index.held_blocks
        if not self.leased and not self.reserved:
            assert occupied <= max(self.index.capacity_blocks, self.index.held_blocks)


TestIndexMachine = IndexMachine.TestCase
TestIndexMachine.settings = settings(max_examples=150, stateful_step_count=40)
