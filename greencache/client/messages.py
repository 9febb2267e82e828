"""What clients and the daemon say to each other.

Each message is one MessagePack array, framed by `greencache.client.framing`. A client asks, and
gets one answer with the same number; the daemon also tells of extents unasked, under the number 0,
before the first answer that names them.

Many blocks go in one message: keys follow one another in one string of bytes, places in arrays of
little-endian integers. KV bytes never cross the socket: a place is an extent of the daemon's
memory, which the client has mapped, and an offset in it.

*Transactions* are as in `greencache.tiers.base`: `Acquire`, `Fetch`, `Release` to load, and
`Reserve`, `Commit` or `Abort` to store. They belong to the client's *group*: the processes of one
engine, which name the same group when they attach. What a group holds ends when it says so, or when
the last of its processes has ended: never by time, as somebody may still be reading or writing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from greencache.errors import ProtocolError

__all__ = [
    "KEY_BYTES",
    "MOST_BLOCKS",
    "PROTOCOL",
    "Abort",
    "Acquire",
    "Answer",
    "Commit",
    "Committed",
    "Count",
    "Delete",
    "Done",
    "Ended",
    "Extents",
    "Failed",
    "Fetch",
    "Flush",
    "Found",
    "Goodbye",
    "Hbm",
    "Hello",
    "Join",
    "Leased",
    "Lookup",
    "Observe",
    "Places",
    "Prefetch",
    "Question",
    "Release",
    "Reserve",
    "Reserved",
    "Resize",
    "Resized",
    "Seen",
    "Status",
    "StatusText",
    "Unpin",
    "Welcome",
    "join_keys",
    "split_keys",
]

PROTOCOL = 1
"""Version of these messages; both sides have to speak the same."""

KEY_BYTES = 16
"""As `greencache.blocks.KEY_BYTES`, which an engine's process would have to import more for."""

MOST_BLOCKS = 1 << 16
"""Blocks that one message may name: 16 million tokens of 256 a block."""

MOST_SEEN = 1 << 12
"""Requests that one message may tell of."""

Keys: TypeAlias = bytes
"""Keys of blocks from the start of a prompt, one after another."""


class _Message(msgspec.Struct, array_like=True, frozen=True, tag_field="is"):
    number: int
    """Of the question, counted by the client from 1; an answer has its question's."""


# What clients ask.


class Hello(_Message, tag=1, frozen=True):
    """The first message of a connection; answered by `Welcome`."""

    protocol: int
    block_bytes: int
    """Bytes of a block, all shards together."""
    shards: int = 1
    """Processes that each keep a part of every block (tensor-parallel ranks)."""
    shard: int | None = None
    """Which part this process writes; None if none, or all of it."""
    group: bytes = b""
    """Names the processes of one engine, 16 bytes that nobody else knows; empty if this is all."""
    name: str = ""
    """What logs and metrics call the client."""
    pins: bool = False
    """Whether it wants to pin memory, for a device to use: then `Extents` says what it may."""


class Lookup(_Message, tag=2, frozen=True):
    """How long a prefix each tier has; answered by `Found`."""

    keys: Keys


class Acquire(_Message, tag=3, frozen=True):
    """Keep what there is of a prompt until `Release`; answered by `Leased`."""

    keys: Keys
    held: int = 0
    """Leading blocks that the engine has already."""
    reusable: int | None = None
    """Leading blocks that may be loaded; all, if nothing is said."""
    learn: bool = True
    """Whether it counts as a request; not where the same one asks again."""
    request: int = 0
    """The client's number of it, by which `Seen` tells of the same; 0 if it has none."""


class Fetch(_Message, tag=4, frozen=True):
    """Get a lease's blocks into memory; answered by `Leased` when they are there."""

    lease: int


class Release(_Message, tag=5, frozen=True):
    """End leases; answered by `Done`."""

    leases: list[int]


class Reserve(_Message, tag=6, frozen=True):
    """Take room for what follows the part of a prompt that is stored; answered by `Reserved`."""

    keys: Keys


class Commit(_Message, tag=7, frozen=True):
    """A shard of reserved blocks, or all of them, is written; answered by `Committed`."""

    reservation: int
    shard: int | None = None


class Abort(_Message, tag=8, frozen=True):
    """A shard will not be written, or nobody writes any of it any more; answered by `Done`."""

    reservation: int
    shard: int | None = None


class Prefetch(_Message, tag=9, frozen=True):
    """Get a prompt into memory that is asked for soon; answered by `Count`: its blocks there."""

    keys: Keys


class Delete(_Message, tag=10, frozen=True):
    """Drop the last of these blocks and what builds on it; answered by `Count`."""

    keys: Keys


class Resize(_Message, tag=11, frozen=True):
    """Change tiers' capacities by hand; answered by `Resized`. It needs no `Hello` before."""

    capacity_bytes: dict[str, int]


class Flush(_Message, tag=12, frozen=True):
    """Write what waits, so that it outlasts a loss of power; answered by `Done`."""


class Status(_Message, tag=13, frozen=True):
    """What the daemon is and has; answered by `StatusText`. It needs no `Hello` before."""


class Seen(msgspec.Struct, array_like=True, frozen=True):
    """One request as its engine saw it; times are of the host's monotonic clock."""

    arrived_s: float
    prompt_tokens: int
    output_tokens: int
    ttft_s: float | None = None
    """None while it has no first token."""
    tpot_s: float | None = None
    """None if it had one token or none."""
    hit_tokens: dict[str, int] = {}
    """Prompt tokens that each tier served, the engine's own ``hbm`` among them."""
    started: bool = True
    """Whether this is the first message about it; a later one tells of its end."""
    ended: bool = True
    request: int = 0
    """The client's number of it, as in `Acquire`; 0 if it has none."""


class Hbm(msgspec.Struct, array_like=True, frozen=True):
    """What an engine's own pool of KV blocks has, over all its ranks, and what waits for it."""

    block_bytes: int
    """Of one of the engine's blocks."""
    blocks: int
    """All that there are."""
    cached: int
    """Those in which it finds a prefix again, in use or not."""
    kept: int
    """The most that requests used at a time since it told last: no room for others' prefixes."""
    waiting_tokens: int = 0
    """Prompt tokens to be computed of requests that have no first token."""


class Observe(_Message, tag=14, frozen=True):
    """What became of requests, and what the engine's own memory has; answered by `Done`."""

    seen: list[Seen]
    hbm: Hbm | None = None


class Goodbye(_Message, tag=15, frozen=True):
    """Nothing of this session is in use any more; answered by `Done`."""


class Ended(_Message, tag=16, frozen=True):
    """Nothing of these lost sessions is in use any more; answered by `Done`.

    They are sessions of this process whose connections ended without a `Goodbye`. What they began
    ends, and what they asked before is no longer done. A session that the daemon does not know was
    an earlier daemon's: that is no fault.
    """

    sessions: list[bytes]


class Join(_Message, tag=17, frozen=True):
    """Read or write what another process of the group was given; one of both is named.

    Answered by `Leased` or `Reserved`, as that process was. Only who asked first may release a
    lease; who joins a reservation commits or aborts its own shard of it.
    """

    lease: int = 0
    reservation: int = 0


class Unpin(_Message, tag=18, frozen=True):
    """Nothing of these extents is pinned by this session any more; answered by `Done`.

    If it was not asked for them, it could not pin them, and is not offered them again.
    """

    extents: list[int]


# What the daemon answers.


class Places(msgspec.Struct, array_like=True, frozen=True):
    """Where blocks stand: for each, an extent's number and an offset in it, in bytes."""

    extent: bytes = b""
    """uint32, little-endian."""
    offset: bytes = b""
    """uint64, little-endian."""

    @classmethod
    def of(cls, extent: NDArray[np.uint32], offset: NDArray[np.uint64]) -> Places:
        """Pack arrays."""
        return cls(extent.astype("<u4").tobytes(), offset.astype("<u8").tobytes())

    def arrays(self) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
        """Unpack them.

        Raises
        ------
        ProtocolError
            If they do not go together.
        """
        if len(self.extent) % 4 or len(self.extent) * 2 != len(self.offset):
            raise ProtocolError("places have as many extents as offsets")
        return np.frombuffer(self.extent, "<u4"), np.frombuffer(self.offset, "<u8")


class Welcome(_Message, tag=64, frozen=True):
    """The client may ask."""

    session: bytes
    """Names this session, 16 bytes that nobody else knows."""
    version: str
    """The daemon's, for logs."""
    tiers: list[str] = []


class Found(_Message, tag=65, frozen=True):
    """Blocks of the prefix that each tier has."""

    blocks: dict[str, int]


class Leased(_Message, tag=66, frozen=True):
    """What is kept until the lease is released."""

    lease: int
    """0 if there is nothing to be kept: it needs no release."""
    blocks: int
    """Leading blocks that are in some tier."""
    found: dict[str, int]
    """What each tier adds to those before it, and to what the engine had."""
    places: Places
    """Of the leading blocks that are in memory: they can be read now. The others after `Fetch`."""


class Reserved(_Message, tag=67, frozen=True):
    """Room to write to."""

    reservation: int
    """0 if there is none: everything is stored, or nothing more can be now."""
    first: int
    """Place in the prompt of the first block to write."""
    places: Places


class Committed(_Message, tag=68, frozen=True):
    """A shard was taken."""

    visible: bool
    """Whether the blocks are found from now on: all shards are in, none failed."""


class Count(_Message, tag=69, frozen=True):
    """A number of blocks."""

    blocks: int


class Resized(_Message, tag=70, frozen=True):
    """Bytes that each tier has still to give back, which it does as leases and pins end."""

    over_bytes: dict[str, int]


class StatusText(_Message, tag=71, frozen=True):
    """A JSON object, as ``greencache status --json`` prints it."""

    json: bytes


class Done(_Message, tag=72, frozen=True):
    """It is done."""


class Failed(_Message, tag=73, frozen=True):
    """It is not; what was asked for has not happened."""

    kind: str
    """``protocol`` (the connection ends), ``state``, ``input``, ``tier`` or ``refused``."""
    text: str


class Extents(_Message, tag=74, frozen=True):
    """Unasked, number 0: memory to map, whose descriptors come with this message, and to unmap."""

    new: list[tuple[int, int]]
    """Number and length in bytes of each; one descriptor each, in this order."""
    gone: list[int] = []
    """What has no block any more. What is in use elsewhere in the client may stay mapped."""
    pin: list[tuple[int, int, int]] = []
    """Extent, first byte and bytes of each part. It counts as pinned, whether it is or not, until
    `Unpin`, the session's end by `Goodbye` or `Ended`, or the end of the process."""
    unpin: list[int] = []
    """Extents that are asked back: `Unpin` is to follow once no copy runs there any more."""


Question: TypeAlias = (
    Hello
    | Lookup
    | Acquire
    | Fetch
    | Release
    | Reserve
    | Commit
    | Abort
    | Prefetch
    | Delete
    | Resize
    | Flush
    | Status
    | Observe
    | Goodbye
    | Ended
    | Join
    | Unpin
)
Answer: TypeAlias = (
    Welcome
    | Found
    | Leased
    | Reserved
    | Committed
    | Count
    | Resized
    | StatusText
    | Done
    | Failed
    | Extents
)


def join_keys(keys: Sequence[bytes]) -> Keys:
    """Put keys one after another.

    Raises
    ------
    ProtocolError
        If one is not 16 bytes long, or there are too many.
    """
    joined = b"".join(keys)
    if len(keys) > MOST_BLOCKS or not set(map(len, keys)) <= {KEY_BYTES}:
        raise ProtocolError(
            f"a message names {MOST_BLOCKS:,} keys of {KEY_BYTES} bytes at the most"
        )
    return joined


def split_keys(joined: Keys) -> list[bytes]:
    """The keys again.

    Raises
    ------
    ProtocolError
        If there is a part of one, or there are too many.
    """
    if len(joined) % KEY_BYTES or len(joined) > MOST_BLOCKS * KEY_BYTES:
        raise ProtocolError(
            f"a message names {MOST_BLOCKS:,} keys of {KEY_BYTES} bytes at the most"
        )
    return [joined[at : at + KEY_BYTES] for at in range(0, len(joined), KEY_BYTES)]
