"""Who is at the other end of a socket, and when that process has ended.

A process is known by a pidfd, which stays that of the process however pids are reused, and is
readable once all its threads have ended: nothing of it reads or writes memory any more.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from dataclasses import dataclass

from greencache.errors import RefusedError

__all__ = ["Peer", "peer_of"]

_SO_PEERPIDFD = 77
"""asm-generic/socket.h; since Linux 6.5."""

_CREDENTIALS = struct.Struct("iII")
"""``struct ucred`` of unix(7): pid, uid, gid."""


@dataclass(frozen=True, slots=True)
class Peer:
    """The process that connected.

    Attributes
    ----------
    pid, uid:
        As the kernel knows them since it connected.
    pidfd:
        Of the process; whoever has this closes it.
    """

    pid: int
    uid: int
    pidfd: int

    @property
    def dead(self) -> bool:
        """Whether it has ended."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Close its pidfd."""
        os.close(self.pidfd)


def peer_of(connection: socket.socket) -> Peer:
    """Who connected.

    Raises
    ------
    RefusedError
        If the process cannot be seen from here, or is gone already.
    """
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(packed)
    if pid <= 0:
        raise RefusedError("a client of another pid namespace cannot be told to have ended")
    try:
        return Peer(pid, uid, _pidfd(connection, pid))
    except OSError as fault:
        raise RefusedError(f"process {pid} cannot be watched: {fault.strerror}") from None


def _pidfd(connection: socket.socket, pid: int) -> int:
    try:
        packed = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD, 4)
        return int(struct.unpack("i", packed)[0])
    except OSError:
        return os.pidfd_open(pid)  # before Linux 6.5
