"""A client that says whatever a test wants it to, rightly or wrongly."""

from __future__ import annotations

import mmap
import os
import socket
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from greencache.client.framing import Frames, decode_answer, encode
from greencache.client.messages import PROTOCOL, Answer, Extents, Hello, Places, Question, Welcome

__all__ = ["RawClient"]


class RawClient:
    """A socket to the daemon, without any care.

    Parameters
    ----------
    path:
        The daemon's socket.
    timeout_s:
        What it waits for an answer.
    """

    def __init__(self, path: Path, timeout_s: float = 20.0) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout_s)
        self.socket.connect(os.fspath(path))
        self.extents: dict[int, NDArray[np.uint8]] = {}
        self.gone: set[int] = set()
        self.offered: list[tuple[int, int, int]] = []
        self.asked_back: list[int] = []
        self._frames, self._bodies = Frames(), deque[bytes]()
        self._descriptors: deque[int] = deque()
        self._number = 0

    def hello(self, block_bytes: int, **options: Any) -> Answer:
        """Begin a session."""
        answer: Answer = self.ask(Hello, protocol=PROTOCOL, block_bytes=block_bytes, **options)
        return answer

    def attach(self, block_bytes: int, **options: Any) -> bytes:
        """Begin a session; its name."""
        welcome = self.hello(block_bytes, **options)
        assert isinstance(welcome, Welcome), welcome
        return welcome.session

    def say(self, kind: type[Question], **content: Any) -> int:
        """Ask without waiting; the question's number."""
        self._number += 1
        self.socket.sendall(encode(kind(self._number, **content)))
        return self._number

    def ask(self, kind: type[Question], **content: Any) -> Any:
        """Ask; the answer."""
        number = self.say(kind, **content)
        while (answer := self.hear()).number not in {number, 0}:
            pass
        return answer

    def hear(self) -> Answer:
        """The next answer.

        Raises
        ------
        ConnectionError
            If the daemon has ended the connection.
        """
        while True:
            while not self._bodies:
                self._receive()
            answer = decode_answer(self._bodies.popleft())
            if not isinstance(answer, Extents):
                return answer
            self.gone.update(answer.gone)
            self.offered += answer.pin
            self.asked_back += answer.unpin
            for number, length in answer.new:
                descriptor = self._descriptors.popleft()
                self.extents[number] = np.frombuffer(mmap.mmap(descriptor, length), np.uint8)
                os.close(descriptor)

    def _receive(self) -> None:
        data, descriptors, _, _ = socket.recv_fds(self.socket, 1 << 16, 253)
        if not data:
            raise ConnectionResetError("the daemon has ended the connection")
        self._descriptors.extend(descriptors)
        self._bodies.extend(self._frames.feed(data))

    def ended(self) -> bool:
        """Read on until the daemon ends the connection; whether it does in time."""
        try:
            while True:
                self.hear()
        except ConnectionError:
            return True
        except TimeoutError:
            return False

    def views(self, places: Places, block_bytes: int) -> list[NDArray[np.uint8]]:
        """Blocks where they stand."""
        extents, offsets = places.arrays()
        return [
            self.extents[extent][offset : offset + block_bytes]
            for extent, offset in zip(extents.tolist(), offsets.tolist(), strict=True)
        ]

    def close(self) -> None:
        self.socket.close()
        while self._descriptors:
            os.close(self._descriptors.popleft())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
