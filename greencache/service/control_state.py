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
from dataclasses import asdict
from pathlib import Path

import msgspec
import xxhash

from greencache.controller.calibration import Calibration
from greencache.controller.sizes import Sizes
from greencache.controller.telemetry import Spread, Window
from greencache.errors import InputError, OutputError

__all__ = ["ControlState", "read_state", "write_state"]

_MAGIC = b"GCctl\x00\x00\x01"
"""The last byte is the version."""
_CHECKSUM_BYTES = 16
_MOST_BYTES = 16 << 20
"""Eight weeks of windows every minute are less."""


class _Window(msgspec.Struct, array_like=True):
    start_s: float
    duration_s: float
    counts: list[float]
    ttft: list[float]
    tpot: list[float]
    by_tier: list[dict[str, float]]


_COUNTS = (
    "arrivals",
    "prompt_tokens",
    "output_tokens",
    "finished",
    "within_slo",
    "busy_s",
    "gpu_j",
    "prefill_tokens",
    "prefill_s",
    "prefill_j",
    "read_bytes",
    "written_bytes",
    "declined_bytes",
    "held_blocks",
    "backlog_s",
)
_WHOLE = 5
"""So many of these are whole numbers."""
_BY_TIER = ("hit_tokens", "capacity_bytes", "used_bytes")


class _State(msgspec.Struct):
    engine: str
    interval_s: float
    saved_s: float
    dram_bytes: int
    ssd_bytes: int
    decided: bool
    calibration: dict[str, float]
    windows: list[_Window]


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
    content = msgspec.msgpack.encode(
        _State(
            state.engine,
            state.interval_s,
            state.saved_s,
            *state.sizes,
            state.decided,
            {name: float(value) for name, value in asdict(state.calibration).items()},
            [_packed(window) for window in state.windows],
        )
    )
    made: str | None = None
    try:
        descriptor, made = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # 0600
        with open(descriptor, "wb") as file:
            file.write(_MAGIC + xxhash.xxh3_128_digest(content) + content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(made, path)
    except OSError as fault:
        if made is not None:
            with contextlib.suppress(OSError):
                os.unlink(made)
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
        state = msgspec.msgpack.decode(content, type=_State)
        windows = [_unpacked(each) for each in state.windows]
        calibration = Calibration(**state.calibration)
    except (msgspec.DecodeError, ValueError, TypeError, InputError) as fault:
        raise InputError(f"{path}: is not what a controller writes ({fault})") from None
    if state.engine != engine or state.interval_s != interval_s:
        raise InputError(f"{path}: is of another engine, or of another interval")
    return ControlState(
        state.engine,
        state.interval_s,
        state.saved_s,
        Sizes(state.dram_bytes, state.ssd_bytes),
        state.decided,
        calibration,
        windows,
    )


def _content(path: Path) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as fault:
        raise InputError(f"{path}: cannot be read ({fault.strerror})") from None
    with open(descriptor, "rb") as file:
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


def _packed(window: Window) -> _Window:
    return _Window(
        window.start_s,
        window.duration_s,
        [float(getattr(window, name)) for name in _COUNTS],
        list(window.ttft),
        list(window.tpot),
        [dict(getattr(window, name)) for name in _BY_TIER],
    )


def _unpacked(packed: _Window) -> Window:
    counts = dict(zip(_COUNTS, packed.counts, strict=True))
    whole = {name: int(counts.pop(name)) for name in _COUNTS[:_WHOLE]}
    return Window(
        start_s=packed.start_s,
        duration_s=packed.duration_s,
        **whole,
        **counts,
        ttft=Spread(*packed.ttft),
        tpot=Spread(*packed.tpot),
        **dict(zip(_BY_TIER, packed.by_tier, strict=True)),
    )
