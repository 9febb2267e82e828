"""``TierIndex``: one tier's index for callers in Python."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from greencache.errors import BlockStateError, InputError
from greencache.tiers import kernels
from greencache.tiers.learning import Learner
from greencache.tiers.policies import Policy
from greencache.tiers.reuse import SEEN, grow_reuse, new_reuse
from greencache.tiers.state import (
    CAPACITY,
    EVICTED,
    FREED,
    FRESH,
    HELD,
    NONE,
    RESERVED,
    USED,
    TierState,
    allocate,
    follow,
    grow,
)

__all__ = ["Lease", "Reservation", "TierIndex"]

Ids = NDArray[np.int32]


@dataclass(slots=True)
class Lease:
    """A prefix that stays in the tier until the lease is released; made by `TierIndex.acquire`."""

    ids: Ids
    released: bool = False

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(slots=True)
class Reservation:
    """Blocks being written, invisible until committed; made by `TierIndex.reserve`.

    Attributes
    ----------
    ids:
        The blocks reserved, in order of their prefix: fewer than asked for if the tier was full.
    slots:
        Where each is to be written.
    first:
        Place of the first of them in the prompt.
    """

    ids: Ids
    slots: NDArray[np.int32]
    first: int
    _prefix: Lease = field(repr=False)
    ended: bool = False

    def __len__(self) -> int:
        return len(self.ids)


class TierIndex:
    """Which blocks one tier holds, in which slots, and which goes next.

    Blocks are named by ids from a `KeyDirectory`; every method takes one request's blocks as the
    array of their ids from the start of the prompt. Content is closed under prefixes: a block is
    here only if all blocks before it are. What is passed ends where a block is here that does not
    follow the one before it; but `access` takes it that all do.

    Parameters
    ----------
    capacity_blocks:
        How many blocks the tier may hold.
    policy:
        Eviction policy, or its name.
    cost_base, cost_per_depth:
        For ``gdsf`` and ``carbon``: what recomputing a block costs, ``cost_base + cost_per_depth *
        depth`` in any unit, ``depth`` being the number of blocks before it.
    load_cost:
        For ``carbon``: what loading a block costs, in that unit.
    seed:
        Seed of the sampling in ``lcs`` and ``carbon``.
    learner:
        What learns from requests for several tiers; without one, an index under ``carbon`` learns
        from its own.

    Examples
    --------
    >>> import numpy as np
    >>> index = TierIndex(2)
    >>> request = np.array([0, 1, 2], np.int32)
    >>> index.access(request, now_s=0.0), index.access(request, now_s=1.0)
    (0, 2)
    """

    def __init__(
        self,
        capacity_blocks: int,
        policy: Policy | str = Policy.LRU,
        *,
        cost_base: float = 1.0,
        cost_per_depth: float = 0.0,
        load_cost: float = 0.0,
        seed: int = 0,
        learner: Learner | None = None,
    ) -> None:
        if capacity_blocks < 0:
            raise InputError(f"a tier's capacity is 0 blocks or more, not {capacity_blocks}")
        self.policy = Policy.parse(policy)
        self._state = allocate(
            capacity_blocks,
            0,
            self.policy.code,
            cost_base=cost_base,
            cost_per_depth=cost_per_depth,
            load_cost=load_cost,
            seed=seed,
        )
        self._learner = learner
        alone = self.policy is Policy.CARBON and learner is None
        self._model = new_reuse(0) if alone else None

    def __repr__(self) -> str:
        return f"<TierIndex {self.policy}: {len(self)}/{self.capacity_blocks} blocks>"

    def __len__(self) -> int:
        """Blocks present, those still being written included."""
        return int(self._state.meta[USED])

    def __contains__(self, block_id: int) -> bool:
        """Whether a block can be read here, of whatever prompt it is."""
        slot = self.slot_of(block_id)
        return slot != NONE and bool(self._state.slots[slot]["leases"] != RESERVED)

    @property
    def state(self) -> TierState:
        """The arrays, for compiled callers; replaced when the index or its learner grows."""
        if self._learner is not None and self._state.seen is not self._learner.model.seen:
            self._follow(0)
        return self._state

    @property
    def capacity_blocks(self) -> int:
        """Blocks that the tier may hold."""
        return int(self._state.meta[CAPACITY])

    @property
    def evicted_blocks(self) -> int:
        """Blocks evicted since the start."""
        return int(self._state.meta[EVICTED])

    @property
    def held_blocks(self) -> int:
        """Capacity set aside by `hold`."""
        return int(self._state.meta[HELD])

    def _ensure(self, ids: Ids) -> None:
        """Make room in the arrays for storing ``ids``."""
        if len(ids) and ids.min() < 0:
            raise BlockStateError("only blocks that have an id can be stored: intern their keys")
        slots = min(self.capacity_blocks, len(self) + len(ids))
        highest = int(ids.max()) + 1 if len(ids) else 0
        if slots > len(self._state.slots) or highest > len(self._state.slot_of):
            self._state = grow(self._state, slots, highest)
        self._follow(highest)

    def _follow(self, ids: int) -> None:
        """Share what is known of blocks with ids below ``ids``, whose arrays may have moved."""
        if self._model is not None:
            self._model = grow_reuse(self._model, ids)
            self._state = follow(self._state, self._model)
        elif self._learner is not None:
            self._learner.make_room(max(ids, len(self._state.slot_of)))
            self._state = follow(self._state, self._learner.model)

    def _known(self, ids: Ids) -> int:
        """How many leading ids the arrays know of at all; `KeyDirectory.find` gives -1 for none."""
        unknown = np.flatnonzero((ids < 0) | (ids >= len(self._state.slot_of)))
        return int(unknown[0]) if len(unknown) else len(ids)

    def _observe(self, ids: Ids, now_s: float, *, only_new: bool = False) -> None:
        """Under ``carbon``, learn from a request for ``ids``, or for those never asked for."""
        if self._model is None:
            return
        begin = 0
        if only_new:
            begin = int(np.count_nonzero(self._model.seen["accesses"][ids]))
        if begin < len(ids):
            kernels.observe_blocks(self._model, ids, begin, now_s)

    def match(self, ids: Ids) -> int:
        """Length of the longest prefix of ``ids`` that can be read here now."""
        return int(kernels.match_blocks(self.state, ids, self._known(ids)))

    def acquire(self, ids: Ids, now_s: float) -> Lease:
        """Find the longest prefix here, count it as accessed, and keep it until `release`."""
        known = self._known(ids)
        self._observe(ids[:known], now_s)
        found = kernels.acquire_blocks(self.state, ids, known, now_s)
        return Lease(ids[:found].copy())

    def release(self, lease: Lease, now_s: float) -> None:
        """End a lease.

        Raises
        ------
        BlockStateError
            If it was released before.
        """
        if lease.released:
            raise BlockStateError("this lease was released before")
        lease.released = True
        kernels.release_blocks(self.state, lease.ids, now_s)

    def lease(self, ids: Ids) -> Lease:
        """Keep the longest prefix here until `release`; it does not count as accessed."""
        found = kernels.lease_blocks(self.state, ids, self._known(ids))
        return Lease(ids[:found].copy())

    def reserve(self, ids: Ids, now_s: float) -> Reservation:
        """Take slots for the blocks of ``ids`` that follow the prefix present here.

        As many as there is room for, from the front; none where another writer has reserved the
        next block already. Prefix and slots are kept until `commit` or `abort`. Where none is
        reserved, the prefix counts as used now, and neither changes anything.
        """
        self._ensure(ids)
        self._observe(ids, now_s, only_new=True)  # the others were when they were acquired
        slots = np.empty(len(ids), np.int32)
        found, reserved = kernels.reserve_blocks(self.state, ids, slots, now_s)
        taken = ids[found : found + reserved].copy()
        leased = found if reserved else 0
        return Reservation(taken, slots[:reserved].copy(), found, Lease(ids[:leased].copy()))

    def _end(self, reservation: Reservation) -> None:
        if reservation.ended:
            raise BlockStateError("this reservation was committed or aborted before")
        reservation.ended = True

    def commit(self, reservation: Reservation, now_s: float) -> None:
        """Make all blocks of a reservation visible.

        Raises
        ------
        BlockStateError
            If it was committed or aborted before.
        """
        self._end(reservation)
        if len(reservation) == 0:
            return
        prefix = reservation._prefix.ids
        whole = np.concatenate([prefix, reservation.ids])
        kernels.commit_blocks(self.state, prefix, reservation.slots, whole, now_s)

    def abort(self, reservation: Reservation, now_s: float) -> None:
        """Give all blocks of a reservation up; their slots are free again.

        Raises
        ------
        BlockStateError
            If it was committed or aborted before.
        """
        self._end(reservation)
        kernels.abort_blocks(self.state, reservation._prefix.ids, reservation.slots, now_s)

    def access(self, ids: Ids, now_s: float, *, reusable: int | None = None) -> int:
        """Serve one request with storing that takes no time: blocks hit; all of it is stored.

        Parameters
        ----------
        ids:
            The request's full blocks.
        now_s:
            Time, on any clock that does not go back.
        reusable:
            How many leading blocks may hit; by default all.
        """
        self._ensure(ids)
        self._observe(ids, now_s)
        limit = len(ids) if reusable is None else min(reusable, len(ids))
        return int(kernels.access_blocks(self.state, ids, limit, now_s))

    def drop(self, block_id: int) -> int:
        """Forget a block and all that builds on it; how many, 0 if any of them must stay.

        What is leased or being written must. Takes time in proportion to the tier.
        """
        slot = self.slot_of(block_id)
        if slot == NONE or self._state.slots[slot]["leases"] != 0:
            return 0  # a lease of what builds on it, or a writer of that, counts as one of it too
        before = len(self)
        marks = np.zeros(int(self._state.meta[FRESH]), np.int8)
        kernels.drop_block(self.state, slot, marks)
        return before - len(self)

    def order_free(self, first: NDArray[np.bool_]) -> None:
        """Let free slots be taken from the lowest on, so that slots in use stand together.

        Parameters
        ----------
        first:
            Slots to be taken before all others, those that were never used included.
        """
        meta = self._state.meta
        end = max(int(meta[FRESH]), int(np.flatnonzero(first).max(initial=-1)) + 1)
        self._state = grow(self._state, end, 0)
        slots = self._state.slots
        slots["id"][meta[FRESH] : end] = NONE
        meta[FRESH] = end
        free = np.flatnonzero(slots["id"][:end] == NONE)
        wanted = np.zeros(end, np.bool_)
        wanted[: len(first)] = first[:end]
        free = np.concatenate([free[wanted[free]], free[~wanted[free]]])
        slots["parent"][free] = np.append(free[1:], NONE)
        meta[FREED] = free[0] if len(free) else NONE

    def slot_of(self, block_id: int) -> int:
        """The slot that a block stands in, committed or not; -1 if it is not here."""
        known = 0 <= block_id < len(self._state.slot_of)
        return int(self._state.slot_of[block_id]) if known else NONE

    def occupied_slots(self) -> NDArray[np.bool_]:
        """Which slots, of those that were ever used, have a block in them."""
        fresh = int(self._state.meta[FRESH])
        return np.asarray(self._state.slots["id"][:fresh] != NONE)

    def restore(
        self,
        ids: Ids,
        parents: NDArray[np.int32],
        slots: NDArray[np.int32],
        now_s: float,
    ) -> None:
        """Fill an empty index with blocks that stand in slots already.

        Parameters
        ----------
        ids:
            The blocks, parents before children, the one used last at the end.
        parents:
            For each, the slot of the block before it in its prefix; -1 for none.
        slots:
            For each, the slot it stands in.
        now_s:
            When they count as used.

        Raises
        ------
        BlockStateError
            If the index is not empty.
        """
        if len(self):
            raise BlockStateError("only an empty index can be restored")
        if len(ids) == 0:
            return
        self._state = grow(self._state, int(slots.max()) + 1, int(ids.max()) + 1)
        self._follow(int(ids.max()) + 1)
        kernels.restore_blocks(self.state, ids, parents, slots, now_s)

    def forget(self, ids: Ids) -> None:
        """Forget what is known of blocks that are not here, as their ids will be given to others.

        Raises
        ------
        BlockStateError
            If one of them is here.
        """
        known = ids[ids < len(self._state.slot_of)]
        if (self._state.slot_of[known] != NONE).any():
            raise BlockStateError("blocks that are in a tier keep their ids")
        if self._model is not None:
            self._model.seen[known[known < len(self._model.seen)]] = np.zeros(1, SEEN)

    def hold(self, blocks: int, now_s: float) -> bool:
        """Set capacity aside for blocks without identity; False, and nothing evicted, if full."""
        if blocks < 0:
            raise BlockStateError(f"cannot hold {blocks} blocks")
        return bool(kernels.hold_blocks(self.state, blocks, now_s))

    def unhold(self, blocks: int) -> None:
        """Give held capacity back.

        Raises
        ------
        BlockStateError
            If less than that is held.
        """
        if not 0 <= blocks <= self.held_blocks:
            raise BlockStateError(f"cannot give back {blocks} of {self.held_blocks} held blocks")
        self._state.meta[HELD] -= blocks

    def resize(self, capacity_blocks: int, now_s: float) -> int:
        """Change the capacity, evicting what no longer fits.

        Returns
        -------
        int
            Blocks still over the new capacity because they are leased, written or held; they go
            when that ends.
        """
        if capacity_blocks < 0:
            raise InputError(f"a tier's capacity is 0 blocks or more, not {capacity_blocks}")
        return int(kernels.resize_tier(self.state, capacity_blocks, now_s))
