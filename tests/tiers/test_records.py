"""What records are called and begin with: nothing of two namespaces is alike."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st
from redis.crc import key_slot

from greencache.errors import InputError
from greencache.tiers.records import HEADER_BYTES, RecordFormat

KEY = bytes(range(16))


def test_a_header_is_as_described() -> None:
    records = RecordFormat(4096, b"a model", "greencache")
    header = records.header(KEY)
    assert len(header) == HEADER_BYTES == 48
    assert header[:8] == b"GCKV\x01\0\0\0"
    assert header[8:16] == (4096).to_bytes(8, "little")
    assert header[16:32] == records.namespace
    assert header[32:] == KEY
    assert records.record_bytes == 4096 + 64


def test_names_tell_namespaces_sizes_prefixes_and_keys_apart() -> None:
    names = {
        RecordFormat(size, space, prefix).name(key)
        for size in (1, 256, 4096)
        for space in (b"", b"\0", b"one", b"other")
        for prefix in ("greencache", "b")
        for key in (KEY, KEY[::-1])
    }
    assert len(names) == 3 * 4 * 2 * 2


@given(key=st.binary(min_size=16, max_size=16), writer=st.binary(max_size=20))
def test_a_draft_stands_on_the_node_of_its_block(key: bytes, writer: bytes) -> None:
    records = RecordFormat(10, b"n", "p")
    assert key_slot(records.draft_name(key, writer)) == key_slot(records.name(key))
    assert records.draft_name(key, writer) != records.name(key)


def test_what_cannot_be_a_name_is_refused() -> None:
    for prefix in ("", "a{b", "a}b"):
        with pytest.raises(InputError, match="prefix"):
            RecordFormat(10, b"", prefix)
    with pytest.raises(InputError, match="16 bytes"):
        RecordFormat(10, b"", "p").name(b"short")
