"""Waiting for another caller's answer: those who wait for the same thing in one process share one watcher."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

Pending = Callable[[], Awaitable[bool]]

_FIRST_SECONDS = 0.02
_GROWTH = 1.5
_LAST_SECONDS = 0.1


@dataclass(slots=True)
class _Watch:
    over: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0
    task: asyncio.Task[None] | None = None


class Watchers:
    """The things this process waits for, each asked about by one task however many wait."""

    def __init__(self) -> None:
        self._watches: dict[str, _Watch] = {}
        self._closed = False

    async def wait(self, name: str, pending: Pending, seconds: float) -> bool:
        """Returns whether the thing ended within the time.

        Args:
            name: Names the thing in this process.
            pending: Tells whether it still goes on; asked every 20 to 100 ms, and must not raise.
            seconds: Longest wait.
        """
        if self._closed:
            return False
        watch = self._watches.setdefault(name, _Watch())
        watch.waiting += 1
        if watch.task is None:
            watch.task = asyncio.get_running_loop().create_task(self._watch(name, watch, pending), name="watch")
        try:
            async with asyncio.timeout(seconds):
                await watch.over.wait()
            return not self._closed
        except TimeoutError:
            return False
        finally:
            watch.waiting -= 1
            if watch.waiting == 0 and not watch.over.is_set():
                watch.task.cancel()
                self._forget(name, watch)

    async def close(self) -> None:
        """Sends all away who wait, and whoever comes later."""
        self._closed = True
        watches = list(self._watches.values())
        for watch in watches:
            watch.over.set()
            if watch.task is not None:
                watch.task.cancel()
        await asyncio.gather(*(watch.task for watch in watches if watch.task), return_exceptions=True)

    async def _watch(self, name: str, watch: _Watch, pending: Pending) -> None:
        interval = _FIRST_SECONDS
        while True:
            await asyncio.sleep(interval)
            if not await pending():
                break
            interval = min(interval * _GROWTH, _LAST_SECONDS)
        self._forget(name, watch)
        watch.over.set()

    def _forget(self, name: str, watch: _Watch) -> None:
        if self._watches.get(name) is watch:
            del self._watches[name]
