"""What records are called and begin with: nothing of two namespaces is alike."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, strategies as st
from redis.crc import key_slot

from greencache.errors import InputError
from greencache.tiers.records import HEADER_BYTES, PART_BYTES, RecordFormat

KEY = bytes(range(16))


WRITER = b"a writer"


def test_a_header_is_as_described() -> None:
    records = RecordFormat(5 * 2**20, b"a model", "greencache")
    header = records.header(KEY, 1, WRITER)
    assert len(header) == HEADER_BYTES == 56
    assert header[:8] == b"GCKV\x02\0\x01\0"
    assert header[8:16] == (5 * 2**20).to_bytes(8, "little")
    assert header[16:32] == records.namespace
    assert header[32:48] == KEY
    assert header[48:] == WRITER
    assert [records.record_bytes(part) for part in (0, 1)] == [4 * 2**20 + 72, 2**20 + 72]
    assert records.stored_bytes == 5 * 2**20 + 2 * 72


def test_who_wrote_a_record_is_told_of_this_part_alone() -> None:
    records = RecordFormat(5 * 2**20, b"a model", "greencache")
    header = records.header(KEY, 1, WRITER)
    assert records.writer_of(header, KEY, 1) == WRITER
    for key, part in ((KEY, 0), (KEY[::-1], 1)):
        assert records.writer_of(header, key, part) is None
    assert RecordFormat(5 * 2**20, b"other", "greencache").writer_of(header, KEY, 1) is None


@given(size=st.integers(1, 40 * 2**20))
def test_parts_are_a_block(size: int) -> None:
    records = RecordFormat(size, b"", "p")
    ranges = [records.range_of(part) for part in range(records.parts)]
    assert ranges[0][0] == 0
    assert ranges[-1][1] == size
    assert all(end == begin for (_, end), (begin, _) in pairwise(ranges))
    assert all(0 < end - begin <= PART_BYTES for begin, end in ranges)
    assert sum(map(records.record_bytes, range(records.parts))) == records.stored_bytes


def test_names_tell_namespaces_sizes_prefixes_keys_and_parts_apart() -> None:
    names = [
        name
        for size in (1, 256, 9 * 2**20)
        for space in (b"", b"\0", b"one", b"other")
        for prefix in ("greencache", "b")
        for key in (KEY, KEY[::-1])
        for name in RecordFormat(size, space, prefix).names(key)
    ]
    assert len(set(names)) == len(names) == (1 + 1 + 3) * 4 * 2 * 2


@given(key=st.binary(min_size=16, max_size=16), writer=st.binary(max_size=20))
def test_all_parts_and_drafts_stand_on_one_node(key: bytes, writer: bytes) -> None:
    records = RecordFormat(9 * 2**20, b"n", "p")
    names, drafts = records.names(key), records.draft_names(key, writer)
    assert len({key_slot(name) for name in [*names, *drafts]}) == 1
    assert len({*names, *drafts}) == 6


def test_what_cannot_be_a_name_is_refused() -> None:
    for prefix in ("", "a{b", "a}b"):
        with pytest.raises(InputError, match="prefix"):
            RecordFormat(10, b"", prefix)
    with pytest.raises(InputError, match="16 bytes"):
        RecordFormat(10, b"", "p").names(b"short")
