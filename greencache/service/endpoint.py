"""Where the daemon listens: a socket in a directory that is ours, one daemon each.

The lock beside the socket is what says that a daemon runs: the kernel lets it go when the process
ends, however that happens. Whoever has it replaces a socket that was left behind.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from pathlib import Path

from greencache.errors import ServiceError

__all__ = ["Endpoint"]

_BACKLOG = 1024
_LONGEST_PATH = 107
"""``sun_path`` of unix(7), without its last zero."""


class Endpoint:
    """A listening socket, for its owner alone.

    Parameters
    ----------
    path:
        Of the socket. Its directory is made if it is missing.

    Raises
    ------
    ServiceError
        If another daemon listens there, or the directory is not ours alone.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_name = f"{path.name}.lock"
        if len(os.fsencode(path)) > _LONGEST_PATH:
            raise ServiceError(f"{path} is too long for a socket: choose a shorter path")
        try:
            self._folder = _own_folder(path.parent)
        except OSError as fault:
            raise ServiceError(f"{path.parent} cannot be used: {fault.strerror}") from None
        try:
            self._lock = self._locked()
            try:
                self.socket = self._listening()
            except BaseException:
                os.close(self._lock)
                raise
        except OSError as fault:
            os.close(self._folder)
            raise ServiceError(f"cannot listen at {path}: {fault.strerror}") from None
        except BaseException:
            os.close(self._folder)
            raise

    def _locked(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        while True:
            lock = os.open(self._lock_name, flags, 0o600, dir_fd=self._folder)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = os.read(lock, 20).decode("ascii", "replace").strip()
                os.close(lock)
                raise ServiceError(
                    f"a daemon listens at {self.path} already (process {pid or 'unknown'}):"
                    " use it, stop it, or choose another socket"
                ) from None
            if self._is_named(lock):
                break
            os.close(lock)  # its owner has just removed it
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
        return lock

    def _is_named(self, lock: int) -> bool:
        try:
            named = os.stat(self._lock_name, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(lock))

    def _listening(self) -> socket.socket:
        self._remove()
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.setblocking(False)
            before = os.umask(0o177)
            try:
                listening.bind(os.fspath(self.path))
            finally:
                os.umask(before)
            listening.listen(_BACKLOG)
        except BaseException:
            listening.close()
            raise
        return listening

    def _remove(self) -> None:
        try:
            found = os.stat(self.path.name, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(found.st_mode):
            raise ServiceError(f"{self.path} is there and no socket: choose another path")
        os.unlink(self.path.name, dir_fd=self._folder)

    def hide(self) -> None:
        """Stop listening, and take the name away; who is connected stays so."""
        if self.socket.fileno() >= 0:
            self.socket.close()
            self._remove()

    def close(self) -> None:
        """Stop listening, and let another daemon have the place."""
        self.hide()
        if self._lock >= 0:
            os.unlink(self._lock_name, dir_fd=self._folder)
            os.close(self._lock)
            os.close(self._folder)
            self._lock = -1


def _own_folder(path: Path) -> int:
    """Descriptor of a directory that only we may use, made if it is missing."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    found = os.fstat(folder)
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        os.close(folder)
        raise ServiceError(
            f"{path} must belong to you alone: chmod 700 it, or choose another socket"
        )
    return folder
