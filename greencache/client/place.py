"""Where the daemon of this user listens, if nothing else is said."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["SOCKET_VARIABLE", "default_socket"]

SOCKET_VARIABLE = "GREENCACHE_SERVE__SOCKET"


def default_socket() -> Path:
    """What the environment names, or ``greencache/daemon.sock`` in the user's run-time folder.

    Without such a folder it is below ``/tmp``, in one that belongs to the user.
    """
    if named := os.environ.get(SOCKET_VARIABLE, ""):
        return Path(named)
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    folder = Path(runtime) / "greencache" if runtime else Path(f"/tmp/greencache-{os.geteuid()}")
    return folder / "daemon.sock"
