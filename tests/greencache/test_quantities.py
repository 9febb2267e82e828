"""Sizes and durations, as people write them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, strategies as st

from greencache.errors import QuantityError
from greencache.quantities import format_bytes, parse_bytes, parse_s, write_bytes, write_s


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("17B", 17),
        (17, 17),
        ("0.0", 0),
        ("64GiB", 64 * 2**30),
        ("1.5 TB", 1_500_000_000_000),
        ("16tb", 16 * 10**12),
        ("2kB", 2000),
        (".5MiB", 2**19),
        ("1e3kB", 10**6),
    ],
)
def test_sizes(text: str | int, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2s", 2.0), ("200ms", 0.2), ("15min", 900.0), ("1h", 3600.0), ("3", 3.0)],
)
def test_durations(text: str, expected: float) -> None:
    assert parse_s(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text", ["12XB", "", "GB", "-1GB", "1 2GB", "1,5TB", "nan", "inf", "1e999"]
)
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(QuantityError, match=r"write it like 64GiB|too large"):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["2", "64 ", "1.5", "1e12", "7."])
def test_a_size_without_a_unit_is_refused_as_it_was_forgotten(text: str) -> None:
    with pytest.raises(QuantityError, match=r"without a unit; write it like 64GiB, 1\.5TB or 0"):
        parse_bytes(text)


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(QuantityError):
        assert parse_bytes(text) >= 0


@given(st.integers(0, 10**17))
def test_what_is_written_can_be_read(count: int) -> None:
    assert parse_bytes(format_bytes(count).replace(",", "")) == pytest.approx(count, rel=5e-3)


@given(st.one_of(st.integers(0, 10**15), st.integers(0, 10**6).map(lambda n: n * 2**20)))
def test_a_size_as_a_setting_is_read_as_just_that(count: int) -> None:
    assert parse_bytes(write_bytes(count)) == count


@given(st.one_of(st.floats(0, 1e12), st.integers(0, 10**6).map(lambda n: n / 10)))
def test_a_duration_as_a_setting_is_read_as_just_that(duration_s: float) -> None:
    assert parse_s(write_s(duration_s)) == duration_s


def test_settings_are_written_in_the_units_that_people_use() -> None:
    assert [write_bytes(size) for size in (512 * 2**30, 15 * 10**11, 0, 12, 1023, 2**30 + 1)] == [
        "512GiB", "1.5TB", "0", "12B", "1023B", "1073741825B",
    ]  # fmt: skip
    assert [write_s(duration) for duration in (0.1, 900.0, 5400.0, 86400.0, 100.0, 0.0)] == [
        "100ms", "15min", "1.5h", "1d", "100s", "0s",
    ]  # fmt: skip


def test_sizes_are_written_as_people_write_them() -> None:
    sizes = [512 * 2**30, 16 * 10**12, 64 * 2**20, 999_600_000_000, 0, 12]
    assert [format_bytes(size) for size in sizes] == [
        "512 GiB", "16 TB", "64 MiB", "1 TB", "0 B", "12 B",
    ]  # fmt: skip
