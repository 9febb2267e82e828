"""Where the daemon listens: rights of the directory, and ports."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from greencache.service.doctor.finding import Verdict
from greencache.service.doctor.place import check_port, check_socket_directory


def verdict(path: Path) -> tuple[Verdict, str]:
    found = check_socket_directory(path)
    return found.verdict, f"{found.text}; {found.advice}"


def test_a_directory_of_our_own_is_well(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    assert verdict(tmp_path / "daemon.sock")[0] is Verdict.OK
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "daemon.sock"))
        assert verdict(tmp_path / "daemon.sock")[0] is Verdict.OK


def test_a_missing_one_is_to_be_made_and_is_not_made(tmp_path: Path) -> None:
    made, text = verdict(tmp_path / "a" / "b" / "daemon.sock")
    assert (made, "to be made" in text) == (Verdict.OK, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o777])
def test_one_that_others_may_enter_fails(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    failed, text = verdict(tmp_path / "daemon.sock")
    assert failed is Verdict.FAIL
    assert text == f"others may enter {tmp_path} (mode {mode:04o}); chmod 700 {tmp_path}"


def test_links_files_and_long_paths_fail(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "link").symlink_to(tmp_path)
    assert "is a symbolic link" in verdict(tmp_path / "link" / "daemon.sock")[1]
    (tmp_path / "file").touch()
    assert "is no directory" in verdict(tmp_path / "file" / "daemon.sock")[1]
    assert "is there and no socket" in verdict(tmp_path / "file")[1]
    assert "too long" in verdict(tmp_path / ("x" * 108))[1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_another_users_directory_fails(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    os.chown(tmp_path, 12345, -1)
    failed, text = verdict(tmp_path / "daemon.sock")
    assert failed is Verdict.FAIL
    assert "belongs to user 12345" in text


def test_a_port_is_free_or_in_use() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        assert check_port("127.0.0.1", port).verdict is Verdict.FAIL
    assert check_port("127.0.0.1", port).verdict is Verdict.OK
    assert check_port("192.0.2.1", port).verdict is Verdict.FAIL
