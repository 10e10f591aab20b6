"""Those who wait for one thing share one watcher."""

from __future__ import annotations

import asyncio

from mneme.semantic_cache.flight import Watchers


class Thing:
    """Goes on until it is ended, and counts how often it is asked."""

    def __init__(self) -> None:
        self.goes_on = True
        self.asked = 0
        self.first = asyncio.Event()

    async def pending(self) -> bool:
        self.asked += 1
        self.first.set()
        return self.goes_on


async def test_many_wait_and_one_asks() -> None:
    watchers, thing = Watchers(), Thing()
    waiting = [asyncio.create_task(watchers.wait("a", thing.pending, 10)) for _ in range(100)]
    await thing.first.wait()
    thing.goes_on = False
    assert all(await asyncio.gather(*waiting))
    assert thing.asked <= 5


async def test_patience_ends_and_nothing_is_left_behind() -> None:
    watchers, thing = Watchers(), Thing()
    tasks = asyncio.all_tasks()
    assert not await watchers.wait("a", thing.pending, 0.05)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == tasks


async def test_one_who_leaves_does_not_end_the_wait_of_others() -> None:
    watchers, thing = Watchers(), Thing()
    leaving = asyncio.create_task(watchers.wait("a", thing.pending, 10))
    staying = asyncio.create_task(watchers.wait("a", thing.pending, 10))
    await thing.first.wait()
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    thing.goes_on = False
    assert await staying


async def test_closing_sends_all_away() -> None:
    watchers, thing = Watchers(), Thing()
    waiting = asyncio.create_task(watchers.wait("a", thing.pending, 10))
    await thing.first.wait()
    await watchers.close()
    assert not await waiting
    assert not await watchers.wait("a", thing.pending, 10)
