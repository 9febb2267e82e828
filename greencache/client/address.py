"""Connecting to the daemon of this user, and of nobody else."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

from greencache.client.place import SOCKET_VARIABLE
from greencache.errors import RefusedError, UnavailableError

__all__ = ["connect"]

_CREDENTIALS = struct.Struct("iII")
"""``struct ucred`` of unix(7): pid, uid, gid."""


def connect(path: Path) -> socket.socket:
    """Connect without waiting, to a daemon of this user; the socket does not block.

    Raises
    ------
    UnavailableError
        If none listens there, it is too busy to take one more, or there is no socket to be had.
    RefusedError
        If it is another user's, who could hand out any bytes.
    """
    try:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError as error:  # this process, or the host, has too many files open
        raise UnavailableError(f"no connection to the daemon at {path}: {error}") from error
    try:
        connection.connect(os.fspath(path))
        _check_user(connection, path)
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


def _check_user(connection: socket.socket, path: Path) -> None:
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(packed)
    if user != os.geteuid():
        raise RefusedError(f"the daemon at {path} is of user {user}, not of this one")
