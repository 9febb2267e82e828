"""What the controller remembers across a restart of the daemon: loads, windows, sizes, corrections.

One small file, 0600, replaced as a whole: a header of magic, version and checksum, then one msgpack
message. What cannot be read, is damaged, of another version or of another engine is ignored: the
controller then begins as new.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

import msgspec
import xxhash

from greencache.controller.calibration import Calibration
from greencache.controller.sizes import Sizes
from greencache.controller.telemetry import Window
from greencache.errors import InputError, OutputError

__all__ = ["ControlState", "read_state", "write_state"]

_MAGIC = b"GCctl\x00\x00\x01"
"""The last byte is the version."""
_CHECKSUM_BYTES = 16
_MOST_BYTES = 16 << 20
"""Eight weeks of windows every minute are less."""


class ControlState(msgspec.Struct):
    """What is remembered.

    Attributes
    ----------
    engine:
        Names what is controlled; of another engine nothing is taken over.
    interval_s:
        Length of an interval.
    saved_s:
        When it was written, on the daemon's clock.
    sizes:
        What held then.
    decided:
        Whether these were decided by a plan, not while learning.
    calibration:
        What the models were off by.
    windows:
        The last intervals, the oldest first.
    """

    engine: str
    interval_s: float
    saved_s: float
    sizes: Sizes
    decided: bool
    calibration: Calibration
    windows: list[Window]


def write_state(path: Path, state: ControlState) -> None:
    """Replace the file; whoever reads it has all of the old or all of the new one.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    content = msgspec.msgpack.encode(state, enc_hook=float)  # numpy's numbers
    made: str | None = None
    try:
        descriptor, made = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # 0600
        with os.fdopen(descriptor, "wb") as file:
            file.write(_MAGIC + xxhash.xxh3_128_digest(content) + content)
            file.flush()
            os.fsync(file.fileno())
        Path(made).replace(path)
    except OSError as fault:
        if made is not None:
            with contextlib.suppress(OSError):
                Path(made).unlink()
        raise OutputError(f"{path}: what the controller knows cannot be kept ({fault})") from None


def read_state(path: Path, engine: str, interval_s: float) -> ControlState | None:
    """What an earlier daemon wrote; None if there is no file.

    Raises
    ------
    InputError
        If it cannot be used: damaged, of another version, engine or interval, or not ours.
    """
    content = _content(path)
    if content is None:
        return None
    try:
        state = msgspec.msgpack.decode(content, type=ControlState)
    except (msgspec.DecodeError, InputError) as fault:
        raise InputError(f"{path}: is not what a controller writes ({fault})") from None
    if state.engine != engine or state.interval_s != interval_s:
        raise InputError(f"{path}: is of another engine, or of another interval")
    return state


def _content(path: Path) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as fault:
        raise InputError(f"{path}: cannot be read ({fault.strerror})") from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise InputError(f"{path}: is no file of ours")
        if status.st_size > _MOST_BYTES:
            raise InputError(f"{path}: is longer than any that a controller writes")
        raw = file.read(_MOST_BYTES)
    start = len(_MAGIC) + _CHECKSUM_BYTES
    if raw[: len(_MAGIC)] != _MAGIC:
        raise InputError(f"{path}: is of another version, or no state of a controller")
    if xxhash.xxh3_128_digest(raw[start:]) != raw[len(_MAGIC) : start]:
        raise InputError(f"{path}: is damaged")
    return raw[start:]
