"""What a client was given to read or to write, and gives back."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from greencache.client.arena import Extent, Standing
from greencache.client.messages import Abort, Leased, Question, Release, Reserved
from greencache.client.session import Session
from greencache.errors import BlockStateError

__all__ = ["Lease", "Reservation"]


class Giver(Protocol):
    """Takes back what a session was given."""

    def give_back(self, session: Session, question: Question | None) -> bool:
        """One use of a session is over; the daemon is told so by ``question``, if anything.

        Whether that could be said: not if the connection is lost.
        """

    def in_use(self, extents: list[Extent]) -> AbstractContextManager[None]:
        """None of these extents is unpinned meanwhile."""


class _Transaction:
    """Something of the daemon's that this process uses until it says that it no longer does."""

    standing: Standing

    def __init__(self, giver: Giver, session: Session, number: int) -> None:
        self.session = session
        self.number = number
        """What the daemon calls it, and what other processes of the group join it by."""
        self.ended = number == 0
        self._giver = giver

    def check_running(self) -> None:
        """Refuse to use what was given back.

        Raises
        ------
        BlockStateError
            If it was.
        """
        if self.ended and self.number:
            raise BlockStateError(f"this {type(self).__name__.lower()} has ended before")

    def end(self, question: Question | None) -> bool:
        """Give it back; whether the daemon could be told. Raises as `check_running`."""
        self.check_running()
        if self.ended:
            return True
        self.ended = True
        return self._giver.give_back(self.session, question)

    def in_use(self) -> AbstractContextManager[None]:
        """Within it, devices may copy by themselves: nothing is unpinned of where its blocks stand.

        It may have to wait for what is being unpinned, and so must not be entered in another one.
        """
        return self._giver.in_use(self.standing.extents)

    def __enter__(self) -> Self:
        return self


class Lease(_Transaction):
    """Blocks that stay where they are until `release`, which the end of a ``with`` does too.

    They stay readable even if the daemon dies meanwhile. They may not be read after the release:
    the daemon then puts other blocks there.

    Attributes
    ----------
    blocks:
        Leading blocks of the prompt that some tier has.
    ready:
        How many of them are in memory; more after a fetch.
    found:
        What each tier adds to those before it, and to what the engine had.
    """

    def __init__(
        self,
        giver: Giver,
        session: Session,
        answer: Leased,
        standing: Standing,
        *,
        joined: bool = False,
    ) -> None:
        super().__init__(giver, session, answer.lease)
        self.blocks, self.found = answer.blocks, answer.found
        self.standing = standing
        self._joined = joined

    def __len__(self) -> int:
        return self.blocks

    @property
    def ready(self) -> int:
        """Leading blocks that can be read now."""
        return len(self.standing)

    def views(self) -> list[NDArray[np.uint8]]:
        """The blocks that are ready, where they stand: read-only arrays of [block_bytes].

        Of a client with a shard, each is the shard's part of its block.
        """
        self.check_running()
        return self.standing.views()

    def release(self) -> None:
        """Nothing of it is read any more.

        Raises
        ------
        BlockStateError
            If it was released before.
        """
        self.end(None if self._joined else Release(0, [self.number]))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.ended:
            self.release()


class Reservation(_Transaction):
    """Room for blocks, which are found once they are written and committed.

    The end of a ``with`` aborts what was not committed.

    Attributes
    ----------
    first:
        Place in the prompt of the first block to write.
    """

    def __init__(
        self,
        giver: Giver,
        session: Session,
        answer: Reserved,
        standing: Standing,
        *,
        shard: int | None = None,
    ) -> None:
        super().__init__(giver, session, answer.reservation)
        self.first = answer.first
        self.standing = standing
        self.shard = shard
        """Whose part is committed or aborted; None if all of it."""

    def __len__(self) -> int:
        return len(self.standing)

    def views(self) -> list[NDArray[np.uint8]]:
        """Where the blocks, or this shard's parts of them, are to be written."""
        self.check_running()
        return self.standing.views(writable=True)

    def abort(self) -> None:
        """Nothing is written any more, and nothing of it will be found.

        Raises
        ------
        BlockStateError
            If it was committed or aborted before.
        """
        self.end(Abort(0, self.number, self.shard))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.ended:
            self.abort()
