"""``Link``: a socket to the daemon and the session that it carries. It never blocks."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import time

from greencache.client.session import Session
from greencache.errors import GreenCacheError, UnavailableError

__all__ = ["Link"]

_READ_BYTES = 1 << 18
_MOST_DESCRIPTORS = 253
"""That one message can carry; unix(7), SCM_RIGHTS."""

_ANCILLARY_BYTES = socket.CMSG_SPACE(_MOST_DESCRIPTORS * array.array("i").itemsize)


class Link:
    """A connection.

    Not safe for several threads: who owns it keeps one out while another is in.

    Parameters
    ----------
    connection:
        The socket, which does not block; it is closed by `lose`.
    session:
        What is said over it.
    """

    def __init__(self, connection: socket.socket, session: Session) -> None:
        self.session = session
        self.reading = False
        self._socket = connection
        self.descriptor = connection.fileno()

    def send(self) -> None:
        """Send as much of what is to be sent as there is room for."""
        outgoing = self.session.outgoing
        try:
            while outgoing:
                sent = self._socket.send(outgoing, socket.MSG_NOSIGNAL)
                del outgoing[:sent]
        except BlockingIOError:
            pass
        except OSError as error:
            # What the daemon said last may tell why.
            self.receive()
            self.lose(_ended(error))

    def receive(self) -> None:
        """Take what has come in."""
        while not self.session.lost and self._take():
            pass

    def _take(self) -> bool:
        """Take a part of what has come in; whether there may be more."""
        try:
            data, ancillary, flags, _ = self._socket.recvmsg(
                _READ_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return False
        except OSError as error:
            self.lose(_ended(error))
            return False
        descriptors = _descriptors(ancillary)
        if flags & socket.MSG_CTRUNC:
            _close(descriptors)
            self.lose(UnavailableError("too many files are open to map the daemon's memory"))
        elif not data:
            self.lose(_ended(None))
        else:
            self.session.receive(data, descriptors, time.monotonic())
            if self.session.lost:
                self.lose(self.session.reason)
        return len(data) == _READ_BYTES or bool(descriptors)

    def lose(self, fault: GreenCacheError) -> None:
        """Close it; everything that waits ends with a fault."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits for it
        self.leave(fault)

    def leave(self, fault: GreenCacheError) -> None:
        """Close it here only: a process that forked from this one, or this from it, keeps it."""
        self._socket.close()
        self.session.lose(fault)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return found.tolist()


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _ended(error: OSError | None) -> UnavailableError:
    reason = f" ({os.strerror(error.errno).lower()})" if error and error.errno else ""
    return UnavailableError(f"the daemon ended the connection{reason}")
