"""PostgreSQL and Redis of one data folder, started together and stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from mneme.embedded import folder as folders
from mneme.embedded import postgres, process, redis
from mneme.embedded.errors import EmbeddedError

_WATCH_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Embedded:
    """Running stores."""

    data_dir: Path
    """The folder they live in."""
    database_url: str
    """Of the role that servers use; `runtime.migrations` makes it."""
    owner_url: str
    """Of the role that owns the schemas."""
    redis_url: str
    """Of the empty database 0."""
    children: Mapping[str, subprocess.Popen[bytes]]
    """Their processes, by the name of their log."""

    async def watch(self) -> NoReturn:
        """Waits for a store to end by itself, which nobody can serve without.

        Raises:
            EmbeddedError: One did; the text names its log.
        """
        while True:
            for name, child in self.children.items():
                if child.poll() is not None:
                    log = self.data_dir / f"{name}.log"
                    raise EmbeddedError(
                        f"{name} ended by itself (exit code {child.returncode}), its log is {log}: "
                        "start again, nothing that was accepted is lost"
                    )
            await asyncio.sleep(_WATCH_SECONDS)

    @staticmethod
    @contextlib.asynccontextmanager
    async def start(data_dir: Path | None = None, *, ephemeral: bool = False) -> AsyncIterator[Embedded]:
        """Runs the stores of a data folder inside the block; call it from the main thread.

        Args:
            data_dir: The folder; None for the default one.
            ephemeral: Uses a temporary folder instead, and saves the time that safety on disk costs.

        Raises:
            EmbeddedError: The folder is taken or unusable, or a store does not start.
        """
        path = None if ephemeral else data_dir or folders.default_data_dir()
        with folders.hold(path) as folder:
            async with _stores(folder, durable=not ephemeral) as (database, cache):
                yield Embedded(
                    data_dir=folder.path,
                    database_url=database.url(postgres.APP, postgres.DATABASE),
                    owner_url=database.url(postgres.OWNER, postgres.DATABASE),
                    redis_url=cache.url(),
                    children={"postgres": database.child, "redis": cache.child},
                )


@contextlib.asynccontextmanager
async def _stores(folder: folders.DataFolder, *, durable: bool) -> AsyncIterator[tuple[postgres.Postgres, redis.Redis]]:
    async with contextlib.AsyncExitStack() as stack:
        database = await postgres.start(folder, durable=durable)
        stack.push_async_callback(database.stop)
        folder.note([process.identify(database.child)])
        cache = await redis.start(folder)
        stack.push_async_callback(cache.stop)
        folder.note([process.identify(database.child), process.identify(cache.child)])
        yield database, cache
