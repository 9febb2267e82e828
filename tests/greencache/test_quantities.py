"""Sizes and durations, as people write them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, strategies as st

from greencache.errors import QuantityError
from greencache.quantities import format_bytes, parse_bytes, parse_s


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("17", 17),
        ("64GiB", 64 * 2**30),
        ("1.5 TB", 1_500_000_000_000),
        ("16tb", 16 * 10**12),
        ("2kB", 2000),
        (".5MiB", 2**19),
        ("1e3", 1000),
    ],
)
def test_sizes(text: str, expected: int) -> None:
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


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(QuantityError):
        assert parse_bytes(text) >= 0


@given(st.integers(0, 10**17))
def test_what_is_written_can_be_read(count: int) -> None:
    assert parse_bytes(format_bytes(count).replace(",", "")) == pytest.approx(count, rel=5e-3)


def test_sizes_are_written_as_people_write_them() -> None:
    sizes = [512 * 2**30, 16 * 10**12, 64 * 2**20, 999_600_000_000, 0, 12]
    assert [format_bytes(size) for size in sizes] == [
        "512 GiB", "16 TB", "64 MiB", "1 TB", "0 B", "12 B",
    ]  # fmt: skip
