"""Keys stand for all that makes KV what it is, and for nothing else."""

from __future__ import annotations

import secrets

from hypothesis import given, strategies as st

from greencache.adapters.paged.names import block_keys, namespace_of
from greencache.adapters.paged.planning import Planning, Shape
from greencache.adapters.paged.statistics import Counts
from greencache.client import Client
from tests.adapters.paged.miniature import BLOCK, Request


@given(count=st.integers(0, 20), per_block=st.integers(1, 5), first=st.integers(0, 6))
def test_each_full_block_has_a_key_whoever_asks_from_where(
    count: int, per_block: int, first: int
) -> None:
    hashes = [bytes([number]) * 32 for number in range(count)]
    keys = block_keys(b"n" * 16, hashes, per_block)
    assert len(keys) == count // per_block
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 16 for key in keys)
    assert block_keys(b"n" * 16, hashes, per_block, first=first) == keys[first:]
    assert set(keys).isdisjoint(block_keys(b"m" * 16, hashes, per_block))


def test_a_namespace_tells_models_and_layouts_apart() -> None:
    identity = {"model": "m", "dtype": "float32", "layers": {"0": "spec"}}
    assert namespace_of(identity) == namespace_of(dict(reversed(identity.items())))
    for name in identity:
        assert namespace_of({**identity, name: "another"}) != namespace_of(identity)


def test_keys_are_made_anew_when_tokens_were_taken_back() -> None:
    """As when a session goes on: its last token is dropped, and another follows."""
    namespace = secrets.token_bytes(16)
    with Client(4096, socket="/nowhere/daemon.sock") as client:
        planning = Planning(client, Shape(BLOCK, 1, 1, namespace), Counts())
        request = Request("session", list(range(2 * BLOCK)))
        planning.match(request, 0)
        known = planning._known["session"]
        before = list(known.keys)
        other = Request("session", [*range(2 * BLOCK - 1), 999])
        request.block_hashes[:] = other.block_hashes
        after = planning._keys(known, 2)
        assert after == block_keys(namespace, other.block_hashes, 1)
        assert after[0] == before[0]
        assert after[1] != before[1]
        request.block_hashes[1:] = []
        assert planning._keys(known, 2) == before[:1]
