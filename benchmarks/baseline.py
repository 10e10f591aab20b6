"""The same work without the suite: bare echo calls for its hops, and its commits by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc.aio
import psycopg
from psycopg_pool import AsyncConnectionPool

from benchmarks import echo
from benchmarks.processes import Process, echoing
from mneme.settings import Settings

_PAYLOAD = b"x" * 512
_TABLE = """
CREATE SCHEMA IF NOT EXISTS benchmarks;
CREATE TABLE IF NOT EXISTS benchmarks.entry (
    tenant_id text NOT NULL, entry_id bigint GENERATED ALWAYS AS IDENTITY, payload bytea NOT NULL,
    PRIMARY KEY (tenant_id, entry_id)
)
"""
_INSERT = "INSERT INTO benchmarks.entry (tenant_id, payload) VALUES (%s, %s)"


class Baseline:
    """Does some hops and some commits, one after another."""

    def __init__(
        self, processes: tuple[Process, ...], channels: list[grpc.aio.Channel], pool: AsyncConnectionPool[Any]
    ) -> None:
        self.processes = processes
        self._echoes: list[grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = [
            channel.unary_unary(echo.METHOD) for channel in channels
        ]
        self._pool = pool

    @classmethod
    @asynccontextmanager
    async def open(cls, stores: Settings) -> AsyncIterator[Baseline]:
        """Two echo servers, as many as there are orchestrators at most, and a table in the suite's own database."""
        assert stores.data_dir is not None
        url = stores.database.owner_url.get_secret_value()
        async with AsyncExitStack() as stack:
            processes = await stack.enter_async_context(echoing(2, stores.data_dir))
            channels = [grpc.aio.insecure_channel(f"127.0.0.1:{process.port}") for process in processes]
            for channel in channels:
                stack.push_async_callback(channel.close)
                await asyncio.wait_for(channel.channel_ready(), 30)
            options = {"autocommit": True}
            pool: AsyncConnectionPool[Any] = AsyncConnectionPool(url, kwargs=options, min_size=2, open=False)
            await stack.enter_async_context(pool)
            async with pool.connection() as connection:
                await connection.execute(_TABLE)
            yield cls(processes, channels, pool)

    async def do(self, hops: int, commits: int, *, lane: int = 0) -> float:
        """Milliseconds of some echo calls and then some small commits; lanes take turns with the echo servers."""
        began = time.perf_counter()
        call = self._echoes[lane % len(self._echoes)]
        for _ in range(hops):
            await call(_PAYLOAD)
        for _ in range(commits):
            async with self._pool.connection() as connection:
                await _commit(connection)
        return 1000.0 * (time.perf_counter() - began)


async def _commit(connection: psycopg.AsyncConnection[Any]) -> None:
    """One write as a store does it: begin under a tenant, one statement, commit."""
    await connection.execute("BEGIN; SET LOCAL app.tenant = 'bench'")
    await connection.execute(_INSERT, ("bench", _PAYLOAD))
    await connection.execute("COMMIT")
