"""Who is at the other end of a socket, and when it has ended."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from greencache.errors import RefusedError
from greencache.service import peers
from greencache.service.peers import peer_of

CONNECTS = """
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
sys.stdin.read()
"""


@pytest.mark.parametrize("kernel", ["of today", "before 6.5"])
def test_a_process_is_known_until_it_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: str
) -> None:
    if kernel != "of today":
        monkeypatch.setattr(peers, "_SO_PEERPIDFD", 0x7FFF)  # which no kernel knows
    path = os.fspath(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        with subprocess.Popen(
            [sys.executable, "-c", CONNECTS, path], stdin=subprocess.PIPE
        ) as process:
            connection, _ = listening.accept()
            with connection:
                peer = peer_of(connection)
                assert (peer.pid, peer.uid) == (process.pid, os.geteuid())
                before = peer.dead
                process.kill()
                assert select.select([peer.pidfd], [], [], 10.0)[0]
                assert (before, peer.dead) == (False, True)
                peer.close()


def test_who_has_ended_before_it_was_looked_at_is_not_mistaken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "_SO_PEERPIDFD", 0x7FFF)
    path = os.fspath(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        subprocess.run([sys.executable, "-c", CONNECTS, path], stdin=subprocess.DEVNULL, check=True)
        connection, _ = listening.accept()
        with connection, pytest.raises(RefusedError, match="cannot be watched"):
            peer_of(connection)
