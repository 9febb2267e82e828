"""Where the daemon listens: nobody else's place, and taken over from who left it."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from greencache.client.place import default_socket
from greencache.errors import ServiceError
from greencache.service.endpoint import Endpoint


def test_only_the_owner_can_come_in(tmp_path: Path) -> None:
    path = tmp_path / "new" / "daemon.sock"
    endpoint = Endpoint(path)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    endpoint.close()
    assert list(path.parent.iterdir()) == []
    endpoint.close()


def test_a_socket_that_was_left_is_replaced(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    path = tmp_path / "daemon.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    (tmp_path / "daemon.sock.lock").write_text("1\n")
    endpoint = Endpoint(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    endpoint.close()


def test_two_places_in_one_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    first, second = Endpoint(tmp_path / "a.sock"), Endpoint(tmp_path / "b.sock")
    with pytest.raises(ServiceError, match=r"listens at .*a\.sock already"):
        Endpoint(tmp_path / "a.sock")
    first.close()
    Endpoint(tmp_path / "a.sock").close()
    second.close()


def test_the_name_goes_before_the_place(tmp_path: Path) -> None:
    """Who stops is not found any more, but nobody else can begin yet."""
    tmp_path.chmod(0o700)
    path = tmp_path / "daemon.sock"
    endpoint = Endpoint(path)
    endpoint.hide()
    assert not path.exists()
    with pytest.raises(ServiceError, match="already"):
        Endpoint(path)
    endpoint.close()


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_folder_that_others_can_enter_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(ServiceError, match="chmod 700"):
        Endpoint(tmp_path / "daemon.sock")


def test_what_is_no_socket_stays(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    path = tmp_path / "daemon.sock"
    path.write_text("somebody's")
    with pytest.raises(ServiceError, match="no socket"):
        Endpoint(path)
    assert path.read_text() == "somebody's"
    assert not (tmp_path / "daemon.sock.lock").exists()


def test_no_link_is_followed(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(real)
    with pytest.raises(ServiceError, match="cannot be used"):
        Endpoint(tmp_path / "link" / "daemon.sock")
    (real / "daemon.sock.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ServiceError, match="cannot listen"):
        Endpoint(real / "daemon.sock")
    assert not (tmp_path / "elsewhere").exists()


def test_a_path_that_is_too_long_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="too long for a socket"):
        Endpoint(tmp_path / ("x" * 120))


def test_each_user_has_a_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert default_socket() == tmp_path / "greencache" / "daemon.sock"
    monkeypatch.setenv("GREENCACHE_SERVE__SOCKET", "/elsewhere.sock")
    assert default_socket() == Path("/elsewhere.sock")
