"""Time limits that do not take the lateness of a busy process for that of whom it asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_MOST_EXTENSIONS = 20


@asynccontextmanager
async def in_time(seconds: float) -> AsyncIterator[None]:
    """Ends the block with a TimeoutError after a time, and later, up to 20 times that, where the event loop was late.

    A loop that much else keeps busy learns late of answers; who gave them in time is not to blame, and taking them for
    down would make the process busier still.
    """
    loop = asyncio.get_running_loop()
    handle: asyncio.TimerHandle
    async with asyncio.timeout(None) as limit:

        def wait(extensions: int) -> None:
            nonlocal handle
            due = loop.time() + seconds
            handle = loop.call_at(due, expired, due, extensions)

        def expired(due: float, extensions: int) -> None:
            if loop.time() - due > seconds / 2 and extensions < _MOST_EXTENSIONS:
                wait(extensions + 1)
            else:
                limit.reschedule(loop.time())

        wait(0)
        try:
            yield
        finally:
            handle.cancel()
