"""What waits for one worker: who waits for it does not wait for what comes after."""

from __future__ import annotations

import asyncio

import pytest

from greencache.tiers.backlog import Backlog


async def test_what_is_put_meanwhile_is_not_waited_for() -> None:
    backlog, done = Backlog[int](), list[int]()

    async def work() -> None:
        while True:
            item = await backlog.get()
            backlog.put(item + 3)  # there is always more
            await asyncio.sleep(0)
            done.append(item)
            backlog.done()

    await backlog.drained()  # there is nothing
    for item in range(3):
        backlog.put(item)
    worker = asyncio.create_task(work())
    async with asyncio.timeout(20):
        await backlog.drained()
        assert done == [0, 1, 2]
        await asyncio.gather(backlog.drained(), backlog.drained())
        assert len(done) >= 5
    worker.cancel()


async def test_who_waits_no_longer_harms_nobody() -> None:
    backlog = Backlog[str]()
    backlog.put("only")
    first, second = (asyncio.create_task(backlog.drained()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await backlog.get() == "only"
    assert not second.done()
    backlog.done()
    await asyncio.wait_for(second, 20)


async def test_nobody_waits_for_a_worker_that_has_ended() -> None:
    backlog = Backlog[str]()
    for item in ("under way", "left", "left too"):
        backlog.put(item)
    assert await backlog.get() == "under way"
    waiting = asyncio.create_task(backlog.drained())
    await asyncio.sleep(0)
    assert backlog.close() == ["left", "left too"]
    async with asyncio.timeout(20):
        await waiting
        await backlog.drained()
    assert not backlog.put("late")
    assert backlog.close() == []
