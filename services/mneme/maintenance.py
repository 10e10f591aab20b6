"""What runs under the role that owns the schemas while the suite serves: indexes of large scopes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mneme.archival.store import meaning as passages
from mneme.recall.store import meaning as messages
from mneme.runtime import vectors_maintenance
from mneme.runtime.vectors_maintenance import Done
from mneme.settings import Settings

CONTENTS = (passages.CONTENT, messages.CONTENT)
"""The tables with vectors."""


async def once(settings: Settings) -> Done:
    """One pass over all schemas.

    Raises:
        ValueError: `database.owner_url` is not set.
    """
    return await vectors_maintenance.maintain(_owner_url(settings), CONTENTS, settings.maintenance)


async def watch(settings: Settings) -> None:
    """Pass after pass, until it is cancelled.

    Raises:
        ValueError: `database.owner_url` is not set.
    """
    await vectors_maintenance.watch(_owner_url(settings), CONTENTS, settings.maintenance)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[None]:
    """Watches inside the block, where an owner is set: elsewhere a job of the deployment does."""
    if not settings.database.owner_url.get_secret_value():
        yield
        return
    task = asyncio.create_task(watch(settings), name="maintenance")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _owner_url(settings: Settings) -> str:
    url = settings.database.owner_url.get_secret_value()
    if not url:
        raise ValueError("no owner: set MNEME_DATABASE__OWNER_URL to the role that owns the schemas")
    return url
