"""What one host keeps on a shared server: who goes first, and who may not go."""

from __future__ import annotations

from hypothesis import given, strategies as st

from greencache.tiers.share import Kept, Share
from tests.conformance.prompts import prompt


def stored(share: Share, keys: list[bytes], first: int = 0, now_s: float = 0.0) -> list[bytes]:
    """Store what follows a prefix; keys of what went for it."""
    blocks, before, removed = share.reserve(keys, first, now_s)
    return removed + share.finish(blocks, before, len(blocks))


def test_of_the_oldest_prompt_the_last_blocks_go_first() -> None:
    share = Share(6)
    a, b = prompt("a", 1, 2), prompt("b", 1, 2)
    assert stored(share, a) == stored(share, b) == []
    share.release(share.lease(a, 1.0))
    assert stored(share, prompt("c", 1)) == [b[2], b[1]]
    assert stored(share, prompt("d", 1)) == [b[0], a[2]], "a was asked for since"
    assert share.evicted_blocks == 4
    assert len(share) == 6


def test_a_lease_that_asks_for_nothing_makes_nothing_younger() -> None:
    share = Share(2)
    a, b = prompt("a"), prompt("b")
    stored(share, a)
    stored(share, b)
    share.release(share.lease(a))
    assert stored(share, prompt("c")) == a


def test_blocks_behind_what_others_wrote_are_kept_as_their_own() -> None:
    share = Share(4)
    keys = prompt("theirs", "theirs too", "mine", "mine too")
    stored(share, keys, first=2)
    assert [block is not None for block in share.committed(keys)] == [False, False, True, True]
    assert share.drop(keys[0]) == []
    assert sorted(share.drop(keys[2])) == sorted(keys[2:])
    assert len(share) == 0


def test_a_writer_and_its_prefix_are_kept_until_it_ends() -> None:
    share = Share(3)
    keys = prompt("a", "b", "c")
    stored(share, keys[:1])
    blocks, before, _ = share.reserve(keys, 1, 0.0)
    assert share.reserve(prompt("x"), 0, 0.0) == ([], [], [])
    nothing, prefix, _ = share.reserve(keys, 1, 0.0)
    assert nothing == [], "somebody is writing them"
    share.finish(nothing, prefix, 0)
    assert share.drop(keys[0]) == []
    assert share.visible(keys) == 0
    assert [block.gone for block in blocks] == [True, True]
    assert share.finish(blocks, before, 0) == keys[:1], "drafts were never there"
    assert len(share) == 0


def test_what_the_server_lost_is_forgotten_though_it_is_leased() -> None:
    share = Share(8)
    keys = prompt("a", "b", "c", "d")
    stored(share, keys[:3])
    lease = share.lease(keys[:3], 1.0)
    writing, before, _ = share.reserve(keys, 3, 1.0)
    assert sorted(share.lose(keys[1])) == sorted(keys[1:3])
    assert share.evicted_blocks == 2
    assert share.visible(keys) == 3, "b may be stored again; d is still being written"
    again, prefix, _ = share.reserve(keys[:3], 1, 2.0)
    assert [block.key for block in again] == keys[1:3]
    assert share.finish(again, prefix, 2) == []
    assert share.release(lease) == []
    assert share.finish(writing, before, 1) == keys[3:], "it was of no use any more"
    assert len(share) == 3
    assert share.lose(keys[3]) == []


def test_what_nobody_asked_for_in_time_is_forgotten() -> None:
    share = Share(8)
    a, b = prompt("a", "b"), prompt("x")
    stored(share, a, now_s=0.0)
    stored(share, b, now_s=5.0)
    share.release(share.lease(a[:1], 7.0))
    share.expire(4.0)
    assert [share.get(key) is not None for key in (*a, *b)] == [True, False, True]
    lease = share.lease(b)
    share.expire(9.0)
    assert [share.get(key) is not None for key in (*a, *b)] == [False, False, True]
    share.release(lease)
    share.expire(9.0)
    assert len(share) == 0


@given(
    st.lists(
        st.tuples(st.sampled_from("srldxe"), st.integers(0, 5), st.integers(1, 4)), max_size=60
    ),
    st.integers(0, 12),
)
def test_whatever_is_done_users_add_up(steps: list[tuple[str, int, int]], capacity: int) -> None:
    """Everything that is kept is kept by somebody, and goes when nobody wants it."""
    share = Share(capacity)
    leases: list[list[Kept]] = []
    writers: list[tuple[list[Kept], list[Kept], list[bytes]]] = []
    for now, (what, name, length) in enumerate(steps):
        keys = prompt(name % 2, name, *range(length))
        found = next((i for i, block in enumerate(share.committed(keys)) if not block), len(keys))
        if what == "s":
            writers.append(share.reserve(keys, min(found, share.visible(keys)), now))
        elif what == "e" and writers:
            blocks, before, _ = writers.pop(name % len(writers))
            share.finish(blocks, before, min(length, len(blocks)))
        elif what == "l":
            leases.append(share.lease(keys[: share.visible(keys)], now))
        elif what == "r" and leases:
            share.release(leases.pop(name % len(leases)))
        elif what == "d":
            share.drop(keys[-1])
        else:
            share.lose(keys[-1])
    for blocks, before, _ in writers:
        share.finish(blocks, before, len(blocks))
    for lease in leases:
        share.release(lease)
    assert len(share) <= capacity
    assert all(not block.gone for block in share._kept.values())
    share.capacity_blocks = 0
    share.make_room(0)
    assert len(share) == 0, "nothing is kept by nobody"
    assert share._children == {}
    assert share._gone == set()
