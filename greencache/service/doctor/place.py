"""Where the daemon listens: whether it could, and nobody else can."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path
from typing import Any

from greencache.client.direct import ask_status
from greencache.errors import GreenCacheError, UnavailableError
from greencache.service.doctor.finding import Finding, fail, ok, warn
from greencache.version import VERSION

__all__ = ["check_daemon", "check_port", "check_socket_directory"]

_LONGEST_PATH = 107
"""``sun_path`` of unix(7), without its last zero."""

_NAMED = "name another (GREENCACHE_SERVE__SOCKET)"


def check_socket_directory(path: Path) -> Finding:
    """Whether the daemon would listen at a path."""
    name, folder = "socket directory", path.parent
    if len(os.fsencode(path)) > _LONGEST_PATH:
        return fail(name, f"{path} is too long for a socket", f"{_NAMED}, shorter")
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return _to_be_made(name, folder)
    except OSError as fault:
        return fail(name, f"{folder}: {fault.strerror}", _NAMED)
    if not stat.S_ISDIR(found.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "no directory"
        return fail(name, f"{folder} is {kind}", _NAMED)
    if found.st_uid != os.geteuid():
        text = f"{folder} belongs to user {found.st_uid}, not to {os.geteuid()} that runs this"
        return fail(name, text, f"{_NAMED}: whoever has it could answer in the daemon's place")
    if found.st_mode & 0o077:
        text = f"others may enter {folder} (mode {stat.S_IMODE(found.st_mode):04o})"
        return fail(name, text, f"chmod 700 {folder}")
    if path.exists() and not path.is_socket():
        return fail(name, f"{path} is there and no socket", f"remove it, or {_NAMED}")
    return ok(name, f"{folder} is this user's alone")


def _to_be_made(name: str, folder: Path) -> Finding:
    above = folder.parent
    while not above.exists():
        above = above.parent
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        return fail(name, f"{folder} cannot be made: {above} may not be written to", _NAMED)
    return ok(name, f"{folder}, to be made")


def check_daemon(path: Path) -> tuple[Finding, dict[str, Any] | None]:
    """Whether a daemon answers at a socket, and its status if one does."""
    name = "daemon"
    if not path.exists():
        return ok(name, f"none runs at {path}; greencache serve starts one"), None
    try:
        status = ask_status(path)
    except UnavailableError as fault:
        if isinstance(fault.__cause__, ConnectionRefusedError):
            text = f"none runs at {path}; one that was killed left its socket, the next replaces it"
            return ok(name, text), None
        advice = "look at its log; if it hangs, end it: what it has on SSD is found again"
        return fail(name, str(fault), advice), None
    except GreenCacheError as fault:
        return fail(name, str(fault), f"stop what listens there, or {_NAMED}"), None
    text = f"version {status['version']} runs as process {status['pid']}"
    if status["version"] != VERSION:
        advice = "restart it after an update: its clients have to speak the same protocol"
        return warn(name, f"{text}, this is {VERSION}", advice), status
    return ok(name, text), status


def check_port(address: str, port: int, *, needed: bool = True) -> Finding:
    """Whether metrics could be served there, while no daemon of ours does.

    Parameters
    ----------
    address, port:
        Where.
    needed:
        Whether the daemon does not start without it.
    """
    name, where = "metrics port", f"{address}:{port}"
    bad = fail if needed else warn
    advice = "set GREENCACHE_SERVE__METRICS_PORT or METRICS_ADDRESS to another"
    try:
        family, *_, found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as asyncio does
            probe.bind(found)
    except OSError as fault:
        if fault.errno == errno.EADDRINUSE:
            return bad(name, f"{where} is in use by another program", advice)
        return bad(name, f"cannot listen on {where} ({fault.strerror})", advice)
    return ok(name, f"{where} is free")
