"""Time limits of whom a busy process asks."""

from __future__ import annotations

import asyncio
import time

import pytest

from mneme.runtime.lateness import in_time


async def _hops(count: int) -> None:
    """What passes through the loop several times, as the answer of a call does."""
    for _ in range(count):
        await asyncio.sleep(0)


async def _busy() -> None:
    """Makes each round of the loop last 10 ms."""
    while True:
        time.sleep(0.01)  # noqa: ASYNC251 - it is to be late
        await asyncio.sleep(0)


async def test_who_does_not_answer_is_given_up() -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with in_time(0.05):
            await asyncio.Event().wait()
    assert 0.04 < time.monotonic() - began < 1.5


async def test_many_small_delays_of_a_busy_loop_are_nobodys_fault_and_one_long_one_neither() -> None:
    busy = asyncio.create_task(_busy())
    async with in_time(0.02):
        await _hops(6)
    busy.cancel()
    async with in_time(0.02):
        time.sleep(0.5)  # noqa: ASYNC251 - it is to be late
        await _hops(6)


async def test_also_a_busy_process_gives_up_in_the_end() -> None:
    busy, began = asyncio.create_task(_busy()), time.monotonic()
    with pytest.raises(TimeoutError):
        async with in_time(0.02):
            await asyncio.Event().wait()
    busy.cancel()
    assert time.monotonic() - began < 1.5
