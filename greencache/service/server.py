"""``Server``: accepts clients of the same user, and knows which of their processes have ended."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable

from greencache.client.framing import encode
from greencache.client.messages import Failed
from greencache.errors import RefusedError
from greencache.service.connection import Budget, Connection, ConnectionLimits
from greencache.service.peers import Peer, peer_of
from greencache.service.session import Process, Service, Session
from greencache.waiting import stopped

__all__ = ["Server"]

_log = logging.getLogger("greencache.service")

_TICK_S = 1.0
_ACCEPTED_AT_ONCE = 64
_COMPLAINTS_PER_TICK = 3
_NO_DESCRIPTORS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class _Complaints:
    """Warnings of what clients do, a few at a time: they could fill a disk otherwise."""

    def __init__(self) -> None:
        self._said = self._unsaid = 0

    def say(self, text: str, *arguments: object) -> None:
        if self._said < _COMPLAINTS_PER_TICK:
            self._said += 1
            _log.warning(text, *arguments)
        else:
            self._unsaid += 1

    def tick(self) -> None:
        """A second has passed."""
        if self._unsaid:
            _log.warning("%d more clients were refused or cut off", self._unsaid)
        self._said = self._unsaid = 0


class _Watched:
    """A process that has connected, until it has ended or nothing is left of it."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.process = Process(peer.pid)


class Server:
    """Clients' connections.

    Parameters
    ----------
    service:
        What answers them.
    listening:
        The socket; who gives it closes it.
    limits:
        Of a connection.
    most:
        Connections at a time.
    who:
        Tells who connected.
    """

    def __init__(
        self,
        service: Service,
        listening: socket.socket,
        *,
        limits: ConnectionLimits,
        most: int,
        who: Callable[[socket.socket], Peer] = peer_of,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._service, self._listening, self._who = service, listening, who
        self._limits, self._most = limits, most
        self._sessions: dict[Session, Connection] = {}
        self._watched: dict[int, _Watched] = {}
        self._complaints = _Complaints()
        self._budget = Budget(limits.together_bytes)
        self._ticking = self._loop.create_task(self._tick())
        self._loop.add_reader(listening, self._accept)
        self._listens, self._stopping = True, False

    @property
    def connections(self) -> int:
        """Clients connected."""
        return len(self._sessions)

    @property
    def processes(self) -> int:
        """Processes that are watched for their end."""
        return len(self._watched)

    async def stop(self, within_s: float) -> None:
        """Take no more clients and questions; answer those there are, and end."""
        self._stopping = True
        self._stop_listening()
        for connection in list(self._sessions.values()):
            connection.finish()
        waiting = [connection.done() for connection in self._sessions.values()]
        if waiting:
            await asyncio.wait([asyncio.ensure_future(each) for each in waiting], timeout=within_s)
        for connection in list(self._sessions.values()):
            connection.close("the daemon stops")
        await stopped(self._ticking)
        for watched in list(self._watched.values()):
            self._forget(watched)

    def _stop_listening(self) -> None:
        if self._listens:
            self._listens = False
            self._loop.remove_reader(self._listening)

    # Clients.

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                connected, _ = self._listening.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError as fault:
                if fault.errno not in _NO_DESCRIPTORS:
                    raise
                _log.warning("no client can connect for now: %s", fault.strerror)
                self._stop_listening()
                self._loop.call_later(_TICK_S, self._listen_again)
                return
            try:
                self._welcome(connected)
            except RefusedError as fault:
                self._service.counts["refused"] += 1
                self._complaints.say("a client was refused: %s", fault)
                _say(connected, fault)

    def _listen_again(self) -> None:
        if not self._stopping and self._listening.fileno() >= 0:
            self._listens = True
            self._loop.add_reader(self._listening, self._accept)

    def _welcome(self, connected: socket.socket) -> None:
        if len(self._sessions) >= self._most:
            raise RefusedError(f"{self._most:,} clients are connected, which is the most")
        watched = self._watch(self._who(connected))
        session = Session(self._service, watched.process)

        def closed(reason: str) -> None:
            del self._sessions[session]
            watched.process.connections -= 1
            if reason:
                self._service.counts["cut_off"] += 1
                name = session.name or "a client"
                self._complaints.say(
                    "%s (process %d) was cut off: %s", name, watched.peer.pid, reason
                )
            session.lost()

        connection = Connection(connected, session.answer, closed, self._limits, self._budget)
        session.connected(connection)
        self._sessions[session] = connection
        watched.process.connections += 1

    # Processes.

    def _watch(self, peer: Peer) -> _Watched:
        """Watch a process, once however often it connects; takes the peer."""
        if peer.uid != os.geteuid():
            peer.close()
            raise RefusedError(f"process {peer.pid} is of user {peer.uid}")
        found = self._watched.get(peer.pid)
        if found is not None and found.peer.dead:
            self._died(found)  # and its pid was given to another
            found = None
        if found is not None:
            peer.close()
            return found
        watched = self._watched[peer.pid] = _Watched(peer)
        self._loop.add_reader(peer.pidfd, self._died, watched)
        return watched

    def _died(self, watched: _Watched) -> None:
        self._forget(watched)
        watched.process.dead = True
        for session, connection in list(self._sessions.items()):
            if session.process is watched.process:
                connection.close("")  # a child that it forked may have it, and is nobody here
        self._service.apply(self._service.ledger.died(watched.process))
        self._service.pinned.died(watched.process)

    def _forget(self, watched: _Watched) -> None:
        del self._watched[watched.peer.pid]
        self._loop.remove_reader(watched.peer.pidfd)
        watched.peer.close()

    # Time.

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            now_s = self._loop.time()
            self._complaints.tick()
            for session, connection in list(self._sessions.items()):
                try:
                    self._look_after(session, connection, now_s)
                except Exception as fault:  # whatever it is, others are looked after as well
                    connection.close(f"{fault!r}")
            for watched in list(self._watched.values()):
                process, service = watched.process, self._service
                known = service.ledger.knows(process) or service.pinned.knows(process)
                if not process.connections and not known:
                    self._forget(watched)

    def _look_after(self, session: Session, connection: Connection, now_s: float) -> None:
        if reason := connection.overdue(now_s):
            connection.close(reason)
        else:
            connection.read_on()  # others may have left memory for it
            session.tell()


def _say(connected: socket.socket, fault: RefusedError) -> None:
    with connected:
        try:
            connected.setblocking(False)
            connected.send(encode(Failed(0, "refused", f"{fault}")))
        except OSError:
            return  # it does not listen
