"""Time limits that do not take the lateness of a busy process for that of whom it asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_MOST_EXTENSIONS = 20
_LAST_ROUNDS = 500
"""A server takes about one call in each round, and hundreds may be before the one that is waited for."""


@asynccontextmanager
async def in_time(seconds: float) -> AsyncIterator[None]:
    """Ends the block with a TimeoutError after a time, and later, up to 40 times that, where the event loop was late.

    A loop that much else keeps busy learns late of answers; who gave them in time is not to blame, and taking them for
    down would make the process busier still. An answer passes through the loop several times, and may be a little late
    each time: so when the time is over the loop goes round 500 times more, which takes an idle one some milliseconds.
    """
    loop = asyncio.get_running_loop()
    handle: asyncio.Handle
    async with asyncio.timeout(None) as limit:

        def wait(extensions: int) -> None:
            nonlocal handle
            due = loop.time() + seconds
            handle = loop.call_at(due, expired, due, extensions)

        def expired(due: float, extensions: int) -> None:
            if loop.time() - due > seconds / 2 and extensions < _MOST_EXTENSIONS:
                wait(extensions + 1)
            else:
                go_round(_LAST_ROUNDS, loop.time() + _MOST_EXTENSIONS * seconds)

        def go_round(rounds: int, until: float) -> None:
            nonlocal handle
            if rounds and loop.time() < until:
                handle = loop.call_soon(go_round, rounds - 1, until)
            else:
                limit.reschedule(loop.time())

        wait(0)
        try:
            yield
        finally:
            handle.cancel()
