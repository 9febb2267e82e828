"""``KeyDirectory``: block keys to the small integers that the index works on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from greencache.blocks import KEY_BYTES
from greencache.compiled import kernel, subroutine
from greencache.errors import BlockStateError, InputError

__all__ = ["KeyDirectory", "mixed"]

EMPTY = -1


class DirectoryState(NamedTuple):
    """An open-addressing table of ids, and the key of each id."""

    table: NDArray[np.int32]
    high: NDArray[np.uint64]
    low: NDArray[np.uint64]


@subroutine
def mixed(x: np.uint64) -> np.uint64:
    """One number for another, as if drawn at random; different ones stay different.

    splitmix64's finaliser (Steele, Lea, Flood, OOPSLA 2014).
    """
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@subroutine
def _home(high: np.uint64, low: np.uint64, size: int) -> np.int64:
    # Keys from traces are small integers, and would crowd together unmixed.
    return np.int64(mixed(low ^ (high * np.uint64(0x9E3779B97F4A7C15))) & np.uint64(size - 1))


@subroutine
def _locate(state: DirectoryState, high: np.uint64, low: np.uint64) -> np.int64:
    """Where in the table the key is, or the empty place where it would go."""
    size = len(state.table)
    at = _home(high, low, size)
    while True:
        found = state.table[at]
        if found == EMPTY or (state.high[found] == high and state.low[found] == low):
            return at
        at = (at + 1) & (size - 1)


@subroutine
def _intern(state: DirectoryState, count: int, high: np.uint64, low: np.uint64) -> int:
    """Id of the key; ``count`` itself if it is new, which then is its id."""
    at = _locate(state, high, low)
    if state.table[at] == EMPTY:
        state.table[at] = count
        state.high[count] = high
        state.low[count] = low
    return state.table[at]


@kernel
def _find_all(
    state: DirectoryState,
    high: NDArray[np.uint64],
    low: NDArray[np.uint64],
    ids: NDArray[np.int32],
) -> None:
    for i in range(len(low)):
        ids[i] = state.table[_locate(state, high[i], low[i])]


@kernel
def _intern_all(
    state: DirectoryState,
    count: int,
    free: NDArray[np.int32],
    left: int,
    high: NDArray[np.uint64],
    low: NDArray[np.uint64],
    ids: NDArray[np.int32],
) -> tuple[int, int]:
    """Ids of keys: new ones get those of ``free[:left]``, from its end, then from ``count`` on.

    Returns what is the count then, and what is left.
    """
    for i in range(len(low)):
        following = free[left - 1] if left > 0 else count
        ids[i] = _intern(state, following, high[i], low[i])
        if ids[i] == following:
            if left > 0:
                left -= 1
            else:
                count += 1
    return count, left


@kernel
def _enter_all(state: DirectoryState, live: NDArray[np.bool_]) -> None:
    """Enter the keys of live ids into an empty table."""
    for i in range(len(live)):
        if live[i]:
            state.table[_locate(state, state.high[i], state.low[i])] = i


@kernel
def _intern_chains(
    state: DirectoryState,
    count: int,
    names: NDArray[np.int64],
    starts: NDArray[np.int64],
    ids: NDArray[np.int32],
) -> int:
    for chain in range(len(starts) - 1):
        parent = -1
        for i in range(starts[chain], starts[chain + 1]):
            high, low = np.uint64(parent), np.uint64(names[i])
            # Where a chain was seen before, its ids mostly follow one another: no search is needed.
            known = parent + 1 < count and state.high[parent + 1] == high
            if known and state.low[parent + 1] == low:
                ids[i] = parent + 1
            else:
                ids[i] = _intern(state, count, high, low)
                count = max(count, ids[i] + 1)
            parent = ids[i]
    return count


_PIECE_NAMES = 2**20


class KeyDirectory:
    """Gives every block key an id: 0 for the first one seen, and so on.

    It holds the 128-bit keys in arrays, 24 to 48 bytes a key. An id stays valid until it is
    forgotten; then another key may get it.

    Examples
    --------
    >>> directory = KeyDirectory()
    >>> directory.intern([b"a" * 16, b"b" * 16, b"a" * 16]).tolist()
    [0, 1, 0]
    >>> directory.find([b"c" * 16]).tolist()
    [-1]
    """

    def __init__(self) -> None:
        zero = np.zeros(8, np.uint64)
        self._state = DirectoryState(np.full(16, EMPTY, np.int32), zero, zero.copy())
        self._count = 0
        self._free = np.zeros(0, np.int32)
        """Ids that were forgotten; the first ``_left`` of them have not been given again."""
        self._left = 0

    def __len__(self) -> int:
        """Keys that have an id."""
        return self._count - self._left

    @property
    def ids(self) -> int:
        """All ids are below this."""
        return self._count

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return sum(array.nbytes for array in self._state) + self._free.nbytes

    def _make_room(self, keys: int) -> None:
        wanted = self._count + max(0, keys - self._left)
        if wanted <= len(self._state.low):
            return
        size = 1 << (wanted - 1).bit_length()
        high, low = np.zeros(size, np.uint64), np.zeros(size, np.uint64)
        # Twice as many places as keys, so that a search takes a step or two.
        state = DirectoryState(np.full(2 * size, EMPTY, np.int32), high, low)
        count = self._count
        if count:  # else there is nothing to carry over, and nothing to compile
            high[:count], low[:count] = self._state.high[:count], self._state.low[:count]
            _enter_all(state, self.live_ids())
        self._state = state

    def live_ids(self) -> NDArray[np.bool_]:
        """Which ids, of those ever given, have a key."""
        live = np.ones(self._count, np.bool_)
        live[self._free[: self._left]] = False
        return live

    @staticmethod
    def _split(keys: list[bytes] | bytes) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        if isinstance(keys, bytes):
            if len(keys) % KEY_BYTES:
                raise InputError(f"block keys have {KEY_BYTES} bytes each")
        elif any(len(key) != KEY_BYTES for key in keys):
            raise InputError(f"a block key has {KEY_BYTES} bytes")
        else:
            keys = b"".join(keys)
        halves = np.frombuffer(keys, "<u8").reshape(-1, 2)
        return halves[:, 0].copy(), halves[:, 1].copy()

    def find(self, keys: list[bytes]) -> NDArray[np.int32]:
        """Ids of the keys, -1 for those not known."""
        ids = np.empty(len(keys), np.int32)
        _find_all(self._state, *self._split(keys), ids)
        return ids

    def intern(self, keys: list[bytes] | bytes) -> NDArray[np.int32]:
        """Ids of the keys, which may follow one another in one string; new ones get the next."""
        high, low = self._split(keys)
        self._make_room(len(low))
        ids = np.empty(len(low), np.int32)
        self._count, self._left = _intern_all(
            self._state, self._count, self._free, self._left, high, low, ids
        )
        return ids

    def forget(self, ids: NDArray[np.int32]) -> None:
        """Forget keys; their ids are given to others. Takes time in proportion to all keys.

        Raises
        ------
        BlockStateError
            If one of the ids has no key.
        """
        live = self.live_ids()
        if len(ids) and (ids.min() < 0 or ids.max() >= self._count or not live[ids].all()):
            raise BlockStateError("only ids that have a key can be forgotten")
        live[ids] = False
        self._free = np.flatnonzero(~live).astype(np.int32)
        self._left = len(self._free)
        self._state.table.fill(EMPTY)
        _enter_all(self._state, live)

    def intern_chains(
        self, names: NDArray[np.int64], starts: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        """Ids for the block names of a trace, chained: a name after another prefix is another id.

        For a directory of which nothing is ever forgotten.

        Parameters
        ----------
        names:
            Block names of all requests, one after the other.
        starts:
            Where each request begins in ``names``, and at last the length of ``names``.
        """
        ids = np.empty(len(names), np.int32)
        # Piece by piece, so that there is room for the keys that are new, not for every name.
        first = 0
        while first < len(starts) - 1:
            end = int(np.searchsorted(starts, starts[first] + _PIECE_NAMES, side="right")) - 1
            end = max(end, first + 1)
            piece = starts[first : end + 1]
            self._make_room(int(piece[-1] - piece[0]))
            self._count = _intern_chains(self._state, self._count, names, piece, ids)
            first = end
        return ids
