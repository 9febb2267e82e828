"""Which daemon the commands speak to."""

from __future__ import annotations

from pathlib import Path

from greencache.client.place import default_socket
from greencache.settings import load_settings

__all__ = ["socket_of"]


def socket_of(named: Path | None) -> Path:
    """The socket that an option names, or the settings, or else the user's own."""
    return named or load_settings().serve.socket or default_socket()
