"""``Session``: what one connection has asked, was answered and has mapped; without any I/O.

Whoever owns the socket sends what `Session.outgoing` has, and hands over what comes in; calls end
as their answers are in. That is the same for a client that blocks and one that does not.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from greencache.client.arena import Extent, Part, Standing
from greencache.client.framing import Frames, decode_answer, encode
from greencache.client.messages import (
    KEY_BYTES,
    Abort,
    Acquire,
    Answer,
    Commit,
    Committed,
    Count,
    Delete,
    Done,
    Ended,
    Extents,
    Failed,
    Fetch,
    Flush,
    Found,
    Goodbye,
    Hello,
    Join,
    Leased,
    Lookup,
    Observe,
    Prefetch,
    Question,
    Release,
    Reserve,
    Reserved,
    Resize,
    Resized,
    Status,
    StatusText,
    Unpin,
    Welcome,
)
from greencache.client.pinning import Pins
from greencache.errors import (
    BlockStateError,
    GreenCacheError,
    InputError,
    ProtocolError,
    RefusedError,
    TierError,
    UnavailableError,
)

__all__ = ["Call", "Session", "fault_of"]

_log = logging.getLogger("greencache.client")

_SESSION_BYTES = 16

_MOST_DESCRIPTORS = 4096
"""That may have come before their message has; the daemon sends 100 with one at the most."""

_ANSWERS: dict[type[Question], type[Answer] | tuple[type[Answer], ...]] = {
    Hello: Welcome,
    Unpin: Done,
    Lookup: Found,
    Acquire: Leased,
    Fetch: Leased,
    Release: Done,
    Reserve: Reserved,
    Commit: Committed,
    Abort: Done,
    Prefetch: Count,
    Delete: Count,
    Resize: Resized,
    Flush: Done,
    Status: StatusText,
    Observe: Done,
    Goodbye: Done,
    Ended: Done,
    Join: (Leased, Reserved),
}

_FAULTS: dict[str, type[GreenCacheError]] = {
    "protocol": ProtocolError,
    "state": BlockStateError,
    "input": InputError,
    "tier": TierError,
    "refused": RefusedError,
}


class Call:
    """A question, and its answer once it is there.

    Attributes
    ----------
    asked_s:
        When.
    answer:
        What the daemon said.
    standing:
        Where the blocks of the answer are mapped, if it names any.
    fault:
        Why there is no answer and will be none.
    """

    __slots__ = (
        "abandoned",
        "answer",
        "asked_s",
        "fault",
        "question",
        "session",
        "standing",
        "wake",
    )

    def __init__(
        self,
        session: Session,
        question: Question,
        asked_s: float,
    ) -> None:
        self.session = session
        self.question = question
        self.asked_s = asked_s
        self.wake: Callable[[Call], None] | None = None
        self.answer: Answer | None = None
        self.standing: Standing | None = None
        self.fault: GreenCacheError | None = None
        self.abandoned = False

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self.answer is not None or self.fault is not None

    def checked(self) -> Call:
        """Itself, if it was answered.

        Raises
        ------
        GreenCacheError
            Why it was not.
        """
        if self.fault is not None:
            raise _apart(self.fault)
        return self

    def end(self, answer: Answer | None, fault: GreenCacheError | None = None) -> None:
        """End it, and wake who waits for that."""
        self.answer, self.fault = answer, fault
        if answer is None:
            self.standing = None
        if self.wake is not None:
            self.wake(self)


class Session:
    """One connection.

    Parameters
    ----------
    part:
        Which bytes of a block this process reads and writes.
    shard:
        Whose those are.
    pins:
        What it has pinned, if it was said that it pins.

    Attributes
    ----------
    identity:
        What the daemon calls it; empty until it is welcome.
    outgoing:
        Bytes to be sent.
    uses:
        Leases and reservations that somebody in this process has. The daemon is told that a lost
        session ended only when there are none.
    heard_s:
        When the daemon last said anything.
    fault:
        Why it is lost, if it is.
    """

    def __init__(self, part: Part, shard: int | None = None, pins: Pins | None = None) -> None:
        self.part, self.shard, self.pins = part, shard, pins
        self.identity = b""
        self.outgoing = bytearray()
        self.uses = 0
        self.heard_s = 0.0
        self.fault: GreenCacheError | None = None
        self._last = 0
        self._waiting: dict[int, Call] = {}
        self._frames = Frames()
        self._descriptors: deque[int] = deque()
        self._extents: dict[int, Extent] = {}

    @property
    def used(self) -> bool:
        """Whether anything of it is in use or pinned."""
        return self.uses > 0 or (self.pins is not None and self.pins.has(self))

    @property
    def lost(self) -> bool:
        """Whether the connection is over."""
        return self.fault is not None

    @property
    def reason(self) -> GreenCacheError:
        """Why it is."""
        return self.fault or UnavailableError("the connection to the daemon is lost")

    def ask(self, question: Question, now_s: float) -> Call:
        """Number a question and put it into what is to be sent.

        Raises
        ------
        ServiceError
            Why the connection is lost, if it is.
        InputError
            If it is too long to be sent.
        """
        if self.lost:
            raise _apart(self.reason)
        self._last += 1
        question = msgspec.structs.replace(question, number=self._last)
        try:
            self.outgoing += encode(question)
        except ProtocolError as fault:
            raise InputError(str(fault)) from None
        call = self._waiting[self._last] = Call(self, question, now_s)
        return call

    def tell(self, question: Question, now_s: float) -> None:
        """Ask without waiting for the answer; nothing if the connection is lost."""
        if not self.lost:
            self.ask(question, now_s).abandoned = True

    def abandon(self, call: Call, now_s: float) -> None:
        """Nobody waits for an answer any more: what it gives is given back when it comes."""
        call.abandoned, call.wake = True, None
        if call.done:
            if _uses(call):
                self.uses -= 1
            self._undo(call, now_s)

    def silent_s(self, now_s: float) -> float:
        """How long the daemon has said nothing, though something was asked."""
        oldest = next(iter(self._waiting.values()), None)
        return 0.0 if oldest is None else now_s - max(self.heard_s, oldest.asked_s)

    def receive(self, data: bytes, descriptors: Sequence[int], now_s: float) -> None:
        """Take what came in; calls end as their answers are complete.

        After what cannot be understood the session is lost.
        """
        self.heard_s = now_s
        self._descriptors.extend(descriptors)
        try:
            for body in self._frames.feed(data):
                answer = decode_answer(body)
                if isinstance(answer, Extents):
                    self._map(answer)
                else:
                    self._answered(answer, now_s)
            if len(self._descriptors) > _MOST_DESCRIPTORS:
                raise ProtocolError("the daemon sends more memory than it says")
        except (ProtocolError, UnavailableError) as fault:
            self.lose(fault)

    def lose(self, fault: GreenCacheError) -> None:
        """The connection is lost: no call is answered any more, nothing stays mapped unused."""
        if self.fault is None:
            self.fault = _apart(fault)
        while self._descriptors:
            os.close(self._descriptors.popleft())
        self._extents.clear()
        if self.pins is not None:
            self.pins.take_all_back(self)
        self.outgoing.clear()
        waiting, self._waiting = self._waiting, {}
        for call in waiting.values():
            call.end(None, self.fault)

    def _map(self, message: Extents) -> None:
        for number in message.gone:
            self._extents.pop(number, None)
        for number, size_bytes in message.new:
            if number in self._extents:
                raise ProtocolError(f"extent {number} came twice")
            if not self._descriptors:
                raise ProtocolError(f"extent {number} came without its memory")
            self._extents[number] = Extent(self._descriptors.popleft(), size_bytes, number)
        if self.pins is not None:
            self._mind_pins(message, self.pins)

    def _mind_pins(self, message: Extents, pins: Pins) -> None:
        pins.asked_back(self._extents[each] for each in message.unpin if each in self._extents)
        parts: dict[Extent, list[tuple[int, int]]] = {}
        for number, begin, size_bytes in message.pin:
            extent = self._extents.get(number)
            if extent is None or not 0 <= begin < begin + size_bytes <= len(extent):
                raise ProtocolError(f"what is not mapped is to be pinned, in extent {number}")
            parts.setdefault(extent, []).append((begin, size_bytes))
        for extent, wanted in parts.items():
            pins.offered(self, extent, wanted)

    def _answered(self, answer: Answer, now_s: float) -> None:
        call = self._waiting.pop(answer.number, None)
        if call is None:
            if isinstance(answer, Failed):  # about no question: the daemon ends the connection
                self.lose(fault_of(answer))
                return
            raise ProtocolError(f"an answer to question {answer.number}, which waits for none")
        if isinstance(answer, Failed):
            fault = fault_of(answer)
            if call.abandoned:
                _log.debug("%s failed: %s", type(call.question).__name__, answer.text)
            call.end(None, fault)
            if isinstance(fault, ProtocolError):
                self.lose(fault)
            return
        try:
            self._understand(call, answer)
        except ProtocolError as fault:
            call.end(None, _apart(fault))
            raise
        if call.abandoned:
            call.answer = answer
            self._undo(call, now_s)
            return
        if isinstance(answer, Welcome):
            self.identity = answer.session
        call.answer = answer
        if _uses(call):
            self.uses += 1
        call.end(answer)

    def _understand(self, call: Call, answer: Answer) -> None:
        """Refuse an answer that does not fit its question; find the blocks that it names."""
        question = call.question
        if not isinstance(answer, _ANSWERS[type(question)]):
            raise ProtocolError(
                f"{type(question).__name__} was answered by {type(answer).__name__}"
            )
        if isinstance(answer, Welcome) and len(answer.session) != _SESSION_BYTES:
            raise ProtocolError(f"a session's name has {_SESSION_BYTES} bytes")
        if isinstance(answer, Leased | Reserved):
            call.standing = Standing(answer.places, self._extents, self.part)
            known = question.keys if isinstance(question, Acquire | Reserve) else None
            if known is not None and len(call.standing) * KEY_BYTES > len(known):
                raise ProtocolError("more blocks were given than were asked for")
        if isinstance(answer, Leased):
            if len(call.standing or ()) > answer.blocks:
                raise ProtocolError("a lease has blocks in memory that it has not")
            if isinstance(question, Fetch) and answer.lease != question.lease:
                raise ProtocolError("another lease was fetched than was asked for")

    def _undo(self, call: Call, now_s: float) -> None:
        question, answer = call.question, call.answer
        if isinstance(question, Acquire) and isinstance(answer, Leased) and answer.lease:
            self.tell(Release(0, [answer.lease]), now_s)
        elif isinstance(answer, Reserved) and answer.reservation:
            joined = isinstance(question, Join)
            self.tell(Abort(0, answer.reservation, self.shard if joined else None), now_s)


def _apart(fault: GreenCacheError) -> GreenCacheError:
    """The same error without its traceback, which keeps whatever was in use where it was raised."""
    return type(fault)(*fault.args)


def fault_of(answer: Failed) -> GreenCacheError:
    """What to raise for it."""
    return _FAULTS.get(answer.kind, ProtocolError)(answer.text)


def _uses(call: Call) -> bool:
    """Whether an answer gave something that is in use until it is given back."""
    if isinstance(call.question, Fetch):
        return False
    if isinstance(call.answer, Leased):
        return call.answer.lease != 0
    return isinstance(call.answer, Reserved) and call.answer.reservation != 0
