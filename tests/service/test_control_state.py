"""What the controller remembers across a restart, and what it does with a file that is no good."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from greencache.controller.calibration import Calibration
from greencache.controller.sizes import Sizes
from greencache.controller.telemetry import Spread, Window
from greencache.errors import InputError, OutputError
from greencache.service.control_state import ControlState, read_state, write_state

ENGINE, INTERVAL_S = "a model on a GPU", 3600.0


def state(windows: int = 3) -> ControlState:
    many = [
        replace(
            Window.empty(hour * INTERVAL_S, INTERVAL_S),
            arrivals=hour,
            finished=hour,
            within_slo=hour // 2,
            hit_tokens={"hbm": 1.5, "dram": 2.0},
            ttft=Spread(0.1, 0.2, 0.3, 0.4),
            gpu_j=np.float64(1e6),
            used_bytes={"ssd": 5e12},
        )
        for hour in range(windows)
    ]
    known = Calibration(work=np.float64(1.25), requests=10.0)
    return ControlState(ENGINE, INTERVAL_S, 1e9, Sizes(5, 7), True, known, many)


def same(one: ControlState, other: ControlState) -> bool:
    return repr(one) == repr(other)  # NaN is not equal to itself


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_state(path, state())
    read = read_state(path, ENGINE, INTERVAL_S)
    assert read is not None
    plain = state()
    assert (read.sizes, read.decided, read.saved_s) == (plain.sizes, True, 1e9)
    assert read.calibration == plain.calibration
    assert isinstance(read.sizes, Sizes)
    for a, b in zip(read.windows, plain.windows, strict=True):
        assert a.ttft == b.ttft
        assert (a.arrivals, a.hit_tokens, a.gpu_j) == (b.arrivals, b.hit_tokens, b.gpu_j)
    assert path.stat().st_mode & 0o777 == 0o600
    write_state(path, state(4))
    again = read_state(path, ENGINE, INTERVAL_S)
    assert again is not None
    assert len(again.windows) == 4
    assert os.listdir(tmp_path) == ["state"]  # noqa: PTH208 - names only


def test_no_file_is_no_fault(tmp_path: Path) -> None:
    assert read_state(tmp_path / "none", ENGINE, INTERVAL_S) is None


@pytest.mark.parametrize(
    ("engine", "interval_s"), [("another", INTERVAL_S), (ENGINE, 2 * INTERVAL_S)]
)
def test_what_is_of_another_engine_is_not_taken_over(
    tmp_path: Path, engine: str, interval_s: float
) -> None:
    write_state(tmp_path / "state", state())
    with pytest.raises(InputError, match="of another engine"):
        read_state(tmp_path / "state", engine, interval_s)


@given(place=st.integers(0, 10_000), flip=st.integers(1, 255), cut=st.booleans())
def test_a_damaged_file_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, place: int, flip: int, cut: bool
) -> None:
    path = tmp_path_factory.mktemp("state") / "state"
    write_state(path, state())
    raw = bytearray(path.read_bytes())
    place %= len(raw)
    if cut:
        del raw[place:]
    else:
        raw[place] ^= flip
    path.write_bytes(raw)
    with pytest.raises(InputError):
        read_state(path, ENGINE, INTERVAL_S)


def test_a_link_or_a_pipe_is_not_read(tmp_path: Path) -> None:
    write_state(tmp_path / "real", state())
    (tmp_path / "link").symlink_to(tmp_path / "real")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(InputError, match=name):
            read_state(tmp_path / name, ENGINE, INTERVAL_S)


def test_a_folder_that_takes_nothing_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be kept"):
        write_state(tmp_path / "none" / "state", state())
    (tmp_path / "state").mkdir()
    with pytest.raises(OutputError, match="cannot be kept"):
        write_state(tmp_path / "state", state())
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
