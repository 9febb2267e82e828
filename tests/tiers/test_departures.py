"""Blocks on their way off a server: not found, and waited for."""

from __future__ import annotations

import asyncio

import pytest

from greencache.tiers.departures import Departures
from tests.conformance.prompts import prompt

KEYS = prompt("a", "b", "c")


async def test_what_leaves_is_found_no_longer_until_it_has_left() -> None:
    departures, gone = Departures(), asyncio.Event()
    with departures.watched() as seen:
        departures.begin(KEYS[1:2], gone.wait())
        departures.begin(KEYS[1:], gone.wait())
        assert departures.staying(KEYS) == 1
        assert seen == set(KEYS[1:])
    with departures.hidden(KEYS[:1]):
        assert departures.staying(KEYS) == 0
    await departures.over(KEYS[:1])  # which is not leaving
    asyncio.get_running_loop().call_later(0.01, gone.set)
    await departures.over(KEYS)
    assert departures.staying(KEYS) == 3
    assert seen == set(KEYS[1:]), "nobody watches any more"


@pytest.mark.parametrize("rounds", range(4))
async def test_waiting_ends_however_far_the_others_are(rounds: int) -> None:
    """Also between a departure's end and the moment at which that is noted."""
    departures = Departures()

    async def fail() -> None:
        raise OSError("gone")

    departures.begin((), asyncio.sleep(0))
    departures.begin(KEYS, fail())
    for _ in range(rounds):
        await asyncio.sleep(0)
    await departures.over()
    assert departures.staying(KEYS) == 3
