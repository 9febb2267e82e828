"""Where the daemon listens, and how to get there."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

from greencache.errors import RefusedError, UnavailableError

__all__ = ["SOCKET_VARIABLE", "connect", "default_socket", "peer_of"]

SOCKET_VARIABLE = "GREENCACHE_SERVE__SOCKET"

_CREDENTIALS = struct.Struct("3i")
"""socket(7), SO_PEERCRED: process, user and group."""


def default_socket() -> Path:
    """The socket that is used if nobody names one; each user has one of their own."""
    named = os.environ.get(SOCKET_VARIABLE)
    if named:
        return Path(named)
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(runtime) / "greencache" if runtime else Path(f"/tmp/greencache-{os.getuid()}")
    return folder / "daemon.sock"


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """Process and user at the other end of a Unix socket, as the kernel knows them."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, user, _ = _CREDENTIALS.unpack(raw)
    return process, user


def connect(path: Path) -> socket.socket:
    """Connect without waiting, to a daemon of this user; the socket does not block.

    Raises
    ------
    UnavailableError
        If none listens there, or it is too busy to take one more.
    RefusedError
        If it is another user's, who could hand out any bytes.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        connection.connect(os.fspath(path))
        _, user = peer_of(connection)
        if user != os.getuid():
            raise RefusedError(f"the daemon at {path} is of user {user}, not of this one")
    except BlockingIOError:
        connection.close()
        raise UnavailableError(f"the daemon at {path} takes no connection now") from None
    except OSError as error:
        connection.close()
        reason = (error.strerror or str(error)).lower()
        raise UnavailableError(
            f"no daemon at {path} ({reason}): start it with `greencache serve`, or name its socket"
            f" in {SOCKET_VARIABLE}"
        ) from error
    except BaseException:
        connection.close()
        raise
    return connection
