"""Keys to ids: the same key is the same id, whatever else is there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from greencache.errors import BlockStateError, InputError
from greencache.tiers import KeyDirectory

keys = st.lists(st.binary(min_size=16, max_size=16), max_size=60)
few_keys = st.lists(st.sampled_from([bytes([i]) * 16 for i in range(8)]), max_size=60)


@given(st.lists(keys | few_keys, max_size=5))
def test_it_is_a_dictionary_that_counts(batches: list[list[bytes]]) -> None:
    directory = KeyDirectory()
    expected: dict[bytes, int] = {}
    for batch in batches:
        found = directory.find(batch).tolist()
        assert found == [expected.get(key, -1) for key in batch]
        for key in batch:
            expected.setdefault(key, len(expected))
        assert directory.intern(batch).tolist() == [expected[key] for key in batch]
        assert len(directory) == len(expected)


@given(st.lists(st.lists(st.integers(-3, 3), max_size=6), max_size=12))
def test_chains_are_equal_where_their_whole_prefix_is(requests: list[list[int]]) -> None:
    starts = np.cumsum([0] + [len(r) for r in requests]).astype(np.int64)
    names = np.array([name for r in requests for name in r], np.int64)
    ids = KeyDirectory().intern_chains(names, starts)
    expected: dict[tuple[int, ...], int] = {}
    for request, start in zip(requests, starts, strict=False):
        for end in range(1, len(request) + 1):
            prefix = tuple(request[:end])
            assert ids[start + end - 1] == expected.setdefault(prefix, len(expected))


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(InputError, match="16 bytes"):
        KeyDirectory().intern([b"short"])


@given(st.lists(st.tuples(few_keys | keys, few_keys), max_size=8))
def test_forgotten_keys_give_their_ids_to_others(
    steps: list[tuple[list[bytes], list[bytes]]],
) -> None:
    directory = KeyDirectory()
    known: dict[bytes, int] = {}
    most = 0
    for learned, forgotten in steps:
        for key, number in zip(learned, directory.intern(learned).tolist(), strict=True):
            assert known.setdefault(key, number) == number
        most = max(most, len(known))
        assert len(set(known.values())) == len(known) == len(directory)
        going = sorted({known.pop(key) for key in forgotten if key in known})
        directory.forget(np.array(going, np.int32))
        assert directory.find(list(known)).tolist() == list(known.values())
        assert (directory.find([key for key in forgotten if key not in known]) == -1).all()
    # What was forgotten is used again before anything new: ids stay dense.
    assert directory.ids <= max(most, 1) or not steps


def test_only_what_is_known_can_be_forgotten() -> None:
    directory = KeyDirectory()
    ids = directory.intern([b"a" * 16, b"b" * 16])
    directory.forget(ids[:1])
    with pytest.raises(BlockStateError):
        directory.forget(ids[:1])
    with pytest.raises(BlockStateError):
        directory.forget(np.array([7], np.int32))
    with pytest.raises(BlockStateError):
        directory.forget(np.array([-1], np.int32))
