"""One client's socket: its messages in, answers and memory files out, within limits.

asyncio's streams know nothing of descriptors that come with bytes, so this works on the socket
itself. What a client does wrong or does not do costs itself alone:

- It may have so many questions unanswered; more are not read until some are answered.
- What it does not read is kept up to a limit, and as long as it reads on; then it is cut off.
- A message that it has begun has to be whole soon.
- Each turn of the event loop begins one question of each client, so nobody waits for a queue.
"""

from __future__ import annotations

import array
import asyncio
import errno
import fcntl
import os
import socket
import termios
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from greencache.client.framing import Frames, decode_question, encode
from greencache.client.messages import Answer, Failed, Question
from greencache.errors import ProtocolError

__all__ = ["MOST_DESCRIPTORS", "Budget", "Connection", "ConnectionLimits"]

MOST_DESCRIPTORS = 100
"""With one message; the kernel takes 253 (``SCM_MAX_FD``)."""

_GONE = {errno.EPIPE, errno.ECONNRESET}
_AGAIN_S = 0.05
_RECEIVED_BYTES = 64 << 10
_FAIR_BYTES = 128 << 10
"""That a client may cost however much others do: a prompt of 8,000 blocks."""

_IMPATIENT_BYTES = 256 << 10
"""Unread by the client; beyond that its questions wait."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one client may cost.

    Attributes
    ----------
    questions:
        Asked and not answered.
    unread_bytes:
        Answers that it has not read.
    message_s:
        From the first byte of a message to its last, and from connecting to the first message.
    reading_s:
        Without reading any byte of answers that wait.
    together_bytes:
        What all clients have begun to say and have not read, as `Budget` has it.
    """

    questions: int = 64
    unread_bytes: int = 4 << 20
    message_s: float = 10.0
    reading_s: float = 10.0
    together_bytes: int = 256 << 20


class Budget:
    """Memory for what clients have begun to say and have not read, of all of them together.

    Once it is spent, who has more than a fair part waits to be read, or is cut off.

    Attributes
    ----------
    used_bytes:
        By now.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self.used_bytes = most_bytes, 0

    @property
    def spent(self) -> bool:
        """Whether nothing is left."""
        return self.used_bytes >= self.most_bytes


@dataclass(slots=True)
class _Outgoing:
    bytes: memoryview
    descriptors: Sequence[int] = ()
    """Ours, closed when they were sent."""


class Connection:
    """A client's socket.

    Parameters
    ----------
    connected:
        The socket, which this closes.
    answer:
        Answers a question; what it raises ends the connection.
    closed:
        Called once the connection has ended, with the reason if it was cut off.
    limits:
        What the client may cost.
    budget:
        What all clients may cost.
    """

    def __init__(
        self,
        connected: socket.socket,
        answer: Callable[[Question], Awaitable[Answer | None]],
        closed: Callable[[str], None],
        limits: ConnectionLimits,
        budget: Budget,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket, self._answer, self._closed, self._limits = connected, answer, closed, limits
        self._budget, self._counted_bytes = budget, 0
        connected.setblocking(False)
        self._frames = Frames()
        self._bodies: deque[bytes] = deque()
        self._working: set[asyncio.Task[None]] = set()
        self._outgoing: deque[_Outgoing] = deque()
        self._unread_bytes = 0
        self._body_bytes = 0
        self._reading = self._writing = self._turning = self._finishing = False
        self._waiting_since_s: float | None = self._loop.time()
        """Since when the rest of a message is waited for, the first one included."""
        self._unread_since_s = 0.0
        self._was_over_budget = False
        self._handed_over_s: float | None = None
        """When descriptors were sent that the client may not have received."""
        self._sent_after = 0
        """Bytes sent after them, with what the kernel needs to keep them."""
        self.closed = False
        self.read_on()

    # Deadlines.

    def overdue(self, now_s: float) -> str:
        """Why the client has to be cut off by now; empty if it has not."""
        waiting_s, limits = self._waiting_since_s, self._limits
        waited_for = self._reading or self._over_budget
        if waited_for and waiting_s is not None and now_s - waiting_s > limits.message_s:
            return f"no whole message within {limits.message_s:g} s"
        if self._outgoing and now_s - self._unread_since_s > limits.reading_s:
            return f"answers were not read for {limits.reading_s:g} s"
        if self._handed_over_s is not None:
            # A client may always have something to read, as it waits for no answer to a release
            # or a commit: what counts is that it is newer.
            if _unread_bytes(self._socket) <= self._sent_after:
                self._handed_over_s = None
            elif now_s - self._handed_over_s > limits.reading_s:
                return f"memory was not taken for {limits.reading_s:g} s"
        return ""

    # In.

    def _count(self) -> None:
        """Count what is kept of and for this client."""
        kept = 0
        if not self.closed:
            kept = self._frames.waiting_bytes + self._body_bytes + self._unread_bytes
        self._budget.used_bytes += kept - self._counted_bytes
        self._counted_bytes = kept

    @property
    def _over_budget(self) -> bool:
        return self._budget.spent and self._counted_bytes > _FAIR_BYTES

    def read_on(self) -> None:
        """Read as long as the client keeps within its limits, and only so long."""
        self._count()
        wanted = not (
            self.closed
            or self._finishing
            or self._over_budget
            or self._bodies
            or len(self._working) >= self._limits.questions
            or self._unread_bytes > _IMPATIENT_BYTES
        )
        if wanted == self._reading:
            return
        before, self._was_over_budget = self._was_over_budget, self._over_budget
        self._reading = wanted
        if wanted:
            if self._frames.begun and not before:
                self._waiting_since_s = self._loop.time()  # till now it was we who did not read
            self._loop.add_reader(self._socket, self._readable)
        else:
            self._loop.remove_reader(self._socket)

    def _readable(self) -> None:
        try:
            data = self._socket.recv(_RECEIVED_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as fault:
            self._broke(fault)
            return
        if not data:
            self.close("")
            return
        try:
            for body in self._frames.feed(data):
                self._bodies.append(body)
                self._body_bytes += len(body)
        except ProtocolError as fault:
            self._refuse(fault)
            return
        if not self._frames.begun:
            self._waiting_since_s = None
        elif self._bodies or self._waiting_since_s is None:
            self._waiting_since_s = self._loop.time()
        if self._turning:
            self.read_on()
        else:
            self._turn()  # at once, as nearly always it is one question

    def _turn_soon(self) -> None:
        if self._turning or self.closed or not self._bodies:
            return
        if len(self._working) < self._limits.questions and self._unread_bytes <= _IMPATIENT_BYTES:
            self._turning = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Begin one question."""
        self._turning = False
        if self.closed or not self._bodies:
            self.read_on()
            return
        body = self._bodies.popleft()
        self._body_bytes -= len(body)
        try:
            question = decode_question(body)
        except ProtocolError as fault:
            self._refuse(fault)
            return
        task = self._loop.create_task(self._respond(question))
        self._working.add(task)
        task.add_done_callback(self._responded)
        self._turn_soon()
        self.read_on()

    async def _respond(self, question: Question) -> None:
        answer = await self._answer(question)
        if answer is not None:
            self.send(answer)

    def _responded(self, task: asyncio.Task[None]) -> None:
        self._working.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._refuse(fault)
            if not isinstance(fault, ProtocolError):
                self._loop.call_exception_handler(
                    {"message": "a question could not be answered", "exception": fault}
                )
        self._turn_soon()
        self.read_on()
        self._finish_if_done()

    # Out.

    def send(self, answer: Answer, descriptors: Sequence[int] = ()) -> None:
        """Send a message, with descriptors, which are closed then."""
        if self.closed:
            _close_all(descriptors)
            return
        if not self._outgoing:
            self._unread_since_s = self._loop.time()
        data = memoryview(encode(answer))
        self._outgoing.append(_Outgoing(data, descriptors))
        self._unread_bytes += len(data)
        if len(self._outgoing) == 1:
            self._write()
        self._count()
        if self._unread_bytes > self._limits.unread_bytes or (
            self._over_budget and self._unread_bytes > _FAIR_BYTES
        ):
            self.close("too much was not read")

    def _writable(self) -> None:
        self._unread_since_s = self._loop.time()
        self._write()
        self._turn_soon()
        self.read_on()

    def _write_again(self) -> None:
        if not self.closed:
            self._writable()  # it was not the client that did not read

    def _write(self) -> None:
        try:
            while self._outgoing:
                first = self._outgoing[0]
                sent = _send(self._socket, first.bytes, first.descriptors)
                if first.descriptors:
                    self._handed_over_s, self._sent_after = self._loop.time(), 0
                    _close_all(first.descriptors)
                elif self._handed_over_s is not None:
                    self._sent_after += _kept_bytes(sent)
                self._unread_bytes -= sent
                first.bytes, first.descriptors = first.bytes[sent:], ()
                if first.bytes:
                    break
                self._outgoing.popleft()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as fault:
            if fault.errno == errno.ETOOMANYREFS:  # others do not take theirs, and are cut off
                self._wait_to_write(False)
                self._loop.call_later(_AGAIN_S, self._write_again)
                return
            self._broke(fault)
            return
        self._wait_to_write(bool(self._outgoing))
        self._finish_if_done()

    def _wait_to_write(self, wanted: bool) -> None:
        if wanted == self._writing:
            return
        self._writing = wanted
        if wanted:
            self._loop.add_writer(self._socket, self._writable)
        else:
            self._loop.remove_writer(self._socket)

    # The end.

    def _refuse(self, fault: BaseException) -> None:
        """Say what is wrong, and end."""
        kind = "protocol" if isinstance(fault, ProtocolError) else "tier"
        self.send(Failed(0, kind, f"{fault}"))
        self.close(f"{fault}")

    def _broke(self, fault: OSError) -> None:
        """The client went, or the socket failed."""
        self.close("" if fault.errno in _GONE else f"{fault.strerror}")

    def finish(self) -> None:
        """Answer what was asked, send it, and end."""
        self._finishing = True
        self._bodies.clear()
        self._body_bytes = 0
        self.read_on()
        self._finish_if_done()

    def _finish_if_done(self) -> None:
        if self._finishing and not self._working and not self._outgoing:
            self.close("")

    def close(self, reason: str) -> None:
        """End the connection now; what is being worked on for it goes on."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._socket)
        self._wait_to_write(False)
        self._reading = False
        for each in self._outgoing:
            _close_all(each.descriptors)
        self._outgoing.clear()
        self._bodies.clear()
        self._frames = Frames()
        self._count()
        self._socket.close()
        self._closed(reason)

    async def done(self) -> None:
        """Wait until nothing is being worked on for it."""
        while self._working:
            await asyncio.wait(self._working)


def _send(connected: socket.socket, data: memoryview, descriptors: Sequence[int]) -> int:
    """As much as goes; descriptors with its first byte."""
    if not descriptors:
        return connected.send(data)
    packed = array.array("i", descriptors)
    return connected.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)])


def _kept_bytes(sent: int) -> int:
    """What the kernel counts for so many bytes sent by one call, until they are read."""
    try:
        return _measured_bytes(sent)
    except OSError:  # no descriptors are left for that; who reads all there is passes all the same
        return sent


@lru_cache(maxsize=4096)
def _measured_bytes(sent: int) -> int:
    """What it counts for them, all of it.

    That is more than was sent, by its own structures (``truesize`` of a buffer), which no
    interface tells; so the same is sent to nobody.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        ours.send(bytes(sent))
        return _unread_bytes(ours)


def _unread_bytes(connected: socket.socket) -> int:
    """What the kernel counts for all that the other side has not read."""
    found = array.array("i", [0])
    fcntl.ioctl(connected, termios.TIOCOUTQ, found)  # as unix(7) has it, SIOCOUTQ
    return found[0]


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
