"""Load series: the shipped ones, the CSV reader, and scaling to a span."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from greencache.errors import InputError, LoadError, UnknownNameError
from greencache.quantities import HOUR_S
from greencache.traces.loads import (
    LoadSeries,
    find_load,
    flat_load,
    load_from_arrivals,
    load_names,
    read_load,
)

HEADER = "series,t_s,requests_per_s"


def write(path: Path, *rows: str, header: str = HEADER) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def made(rates: list[float], window_s: float = 100.0) -> LoadSeries:
    return LoadSeries("made", "a test", "none", window_s, np.array(rates))


@pytest.mark.parametrize(
    ("name", "windows", "window_s", "mean"),
    [
        ("m-large", 2016, 600, 196),
        ("deepseek-r1", 144, 600, 16.0),
        ("mooncake-conversation", 58, 60, 3.40),
        ("azure-2023-code", 57, 60, 2.52),
    ],
)
def test_shipped_loads_have_their_known_means(
    name: str, windows: int, window_s: float, mean: float
) -> None:
    """Rates as stated where the data was gathered; 8,819 requests of Azure in 3,436 s."""
    load = find_load(name)
    assert len(load.requests_per_s) == windows
    assert load.window_s == window_s
    assert load.requests_per_s.mean() == pytest.approx(mean, rel=0.02)
    assert load.source
    assert load.licence in {"Apache-2.0", "CC-BY-4.0"}


def test_every_listed_load_is_found_and_others_are_not() -> None:
    assert {find_load(name).name for name in load_names()} == set(load_names())
    with pytest.raises(UnknownNameError, match=r"unknown load 'm-larg'; did you mean 'm-large'"):
        find_load("m-larg")
    with pytest.raises(LoadError, match="no such file"):
        find_load("./nowhere.csv:x")


def test_one_series_of_several(tmp_path: Path) -> None:
    rows = ["a,0,1", "b,0,5", "a,60,2", "b,60,6", "a,120,3"]
    path = tmp_path / "loads.csv.gz"
    path.write_bytes(gzip.compress("\n".join([HEADER, *rows]).encode()))
    load = find_load(f"{path}:b")
    assert (load.name, load.window_s, load.requests_per_s.tolist()) == ("b", 60, [5, 6])
    with pytest.raises(LoadError, match=r"several series.*loads.csv.gz:NAME"):
        read_load(path)
    with pytest.raises(UnknownNameError, match="unknown series 'c'"):
        find_load(f"{path}:c")


def test_a_file_of_one_series_needs_no_name_and_may_tell_the_clock(tmp_path: Path) -> None:
    path = write(
        tmp_path / "mine.csv",
        "2026-03-01T00:00Z,4",
        "2026-03-01T00:30Z,6",
        header="utc,requests_per_s",
    )
    load = find_load(str(path))
    assert (load.name, load.window_s, load.requests_per_s.tolist()) == ("mine", 1800, [4, 6])
    assert load.start is not None
    assert load.start.isoformat() == "2026-03-01T00:00:00+00:00"
    assert find_load("m-large").start is None


@pytest.mark.parametrize(
    ("rows", "line", "reason"),
    [
        (["a,0,1", "a,60,1", "a,180,1"], 4, "has 180 s where 120 s follows"),
        (["a,60,1", "a,60,1"], 3, "lasts (0|-60) s"),
        (["a,60,1", "a,0,1"], 3, "lasts (0|-60) s"),
        (["a,0,many"], 2, "'many', not a number"),
        (["a,0,-1"], 2, "must lie in"),
        (["a,0,nan"], 2, "not a finite number"),
        (["a,0,1e12"], 2, "must lie in"),
        (["a,-1e308,1", "a,1e308,1"], 3, "lasts inf s"),
        (["a,inf,1"], 2, "not a finite number"),
        (["a,0"], 2, "too few"),
        (["\x00\xff"], 2, "too few|not a line"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, rows: list[str], line: int, reason: str) -> None:
    with pytest.raises(LoadError, match=reason) as fault:
        read_load(write(tmp_path / "l.csv", *rows))
    assert fault.value.line == line


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="no load in it"):
        read_load(write(tmp_path / "l.csv"))
    with pytest.raises(LoadError, match="has the columns series,t_s,requests_per_s"):
        read_load(write(tmp_path / "l.csv", "0,1", header="t_s,rate"))
    with pytest.raises(LoadError, match="one window only"):
        read_load(write(tmp_path / "l.csv", "a,0,1"))
    with pytest.raises(LoadError, match="no request in it"):
        read_load(write(tmp_path / "l.csv", "a,0,0", "a,60,0"))
    with pytest.raises(LoadError, match="utc: 'never' is not a time"):
        read_load(write(tmp_path / "l.csv", "never,1", header="utc,requests_per_s"))


@given(
    st.binary(max_size=200) | st.text("0123456789-+.eT:Z,a\n\r", max_size=80).map(str.encode),
    st.sampled_from(
        [b"", f"{HEADER}\na,0,1\na,9,2\n".encode(), b"utc,requests_per_s\n2026-01-01,1\n"]
    ),
)
def test_any_bytes_give_a_load_or_our_error(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, before: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.csv"
    path.write_bytes(before + noise)
    try:
        load = read_load(path)
    except LoadError:
        return
    assert len(load.requests_per_s) >= 2
    assert np.isfinite(load.requests_per_s).all()


def test_arrivals_are_counted_in_whole_windows() -> None:
    arrival_s = np.array([0.0, 1.0, 9.9, 10.0, 25.0, 31.0])
    load = load_from_arrivals(arrival_s, name="n", source="s", licence="l", window_s=10.0)
    assert load.requests_per_s.tolist() == [0.3, 0.1, 0.1]
    with pytest.raises(InputError, match="less than a window"):
        load_from_arrivals(arrival_s, name="n", source="s", licence="l", window_s=60.0)


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=9).filter(lambda rates: rates[0] > 1e-3),
    st.floats(1.0, 5000.0),
    st.floats(0.0, 5000.0),
    st.floats(0.01, 100.0),
)
def test_a_span_has_the_mean_rate_and_the_shape(
    rates: list[float], span_s: float, before_s: float, mean_rate: float
) -> None:
    load = made(rates)
    span = load.over(span_s, before_s=before_s, mean_rate=mean_rate)
    edges_s = span.start_s + np.arange(len(span.requests_per_s) + 1) * span.window_s
    assert edges_s[0] <= 1e-6 - before_s
    assert edges_s[-1] >= span_s - 1e-6
    within_s = np.diff(np.clip(edges_s, 0, span_s))
    assert span.requests_per_s @ within_s / span_s == pytest.approx(mean_rate)
    windows = np.round(edges_s[:-1] / 100.0).astype(int)
    wanted = np.array(rates)[windows % len(rates)]
    assert span.requests_per_s * wanted.sum() == pytest.approx(wanted * span.requests_per_s.sum())


def test_a_series_runs_backwards_into_its_own_end_and_on_into_its_start() -> None:
    load = made([1.0, 2.0, 3.0])
    span = load.over(400.0, before_s=150.0, mean_rate=7 / 4)
    assert span.start_s == -200.0
    assert span.requests_per_s.tolist() == [2, 3, 1, 2, 3, 1]
    assert load.repeats_within(400.0)
    assert not load.repeats_within(300.0)
    assert not flat_load().repeats_within(1e9)


def test_spans_without_requests_are_refused() -> None:
    with pytest.raises(InputError, match="no request in its first"):
        made([0.0, 1.0]).over(100.0, mean_rate=1.0)
    for rate in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(InputError, match="a mean rate is more than 0"):
            made([1.0]).over(HOUR_S, mean_rate=rate)
    for span_s in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(InputError, match="spans more than 0 s"):
            made([1.0]).over(span_s, mean_rate=1.0)
    for rates in ([], [0.0], [-1.0, 2.0], [np.nan]):
        with pytest.raises(InputError, match="no request in it"):
            made(rates)
    with pytest.raises(InputError, match="windows last more than 0 s"):
        made([1.0], window_s=0.0)
