"""The statements that calls run: taken down in a server of this process, and sent again by a plain connection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import grpc.aio
import psycopg
from pgvector.psycopg import register_vector_async
from psycopg.rows import dict_row

from benchmarks.memory import Memory
from benchmarks.processes import TENANT
from mneme import registry
from mneme.archival.indexer import Indexer as ArchivalIndexer
from mneme.archival.v1.archival_pb2_grpc import ArchivalServiceStub
from mneme.core_memory.v1.core_memory_pb2_grpc import CoreMemoryServiceStub
from mneme.recall.indexer import Indexer as RecallIndexer
from mneme.recall.v1.recall_pb2_grpc import RecallServiceStub
from mneme.runtime.auth import ServiceTokens, SuiteKeys
from mneme.runtime.call import Principal
from mneme.settings import Settings

Statement = tuple[Any, Any]
"""A statement and its parameters."""


@dataclass(frozen=True, slots=True)
class Stubs:
    """Calls the services as the orchestrator does: with stubs that are kept, and a token a call."""

    tokens: ServiceTokens
    stubs: Mapping[str, Any]

    @classmethod
    @asynccontextmanager
    async def open(cls, address: str, settings: Settings) -> AsyncIterator[Stubs]:
        """Stubs inside the block."""
        async with grpc.aio.insecure_channel(address) as channel:
            stubs = {
                "archival": ArchivalServiceStub(channel),
                "recall": RecallServiceStub(channel),
                "core_memory": CoreMemoryServiceStub(channel),
            }
            yield cls(ServiceTokens(SuiteKeys.load(settings.auth), settings.auth), stubs)

    def archival(self, method: Callable[[Any], Any], request: Any) -> Awaitable[Any]:
        """Calls a method of archival."""
        return self._call("archival", method, request)

    def recall(self, method: Callable[[Any], Any], request: Any) -> Awaitable[Any]:
        """Calls a method of recall."""
        return self._call("recall", method, request)

    def core_memory(self, method: Callable[[Any], Any], request: Any) -> Awaitable[Any]:
        """Calls a method of core memory."""
        return self._call("core_memory", method, request)

    def _call(self, peer: str, method: Callable[[Any], Any], request: Any) -> Awaitable[Any]:
        token = self.tokens.token("orchestrator", peer, Principal(TENANT, "bench", "", "orchestrator"))
        stub = self.stubs[peer]
        called: Awaitable[Any] = method(stub)(request, metadata=(("authorization", f"Bearer {token}"),))
        return called


Call = Callable[[Stubs], Awaitable[Any]]


async def copies(memory: Memory, count: int) -> list[str]:
    """Application URLs of copies of the suite's database as it is now."""
    owner, url = (one.get_secret_value() for one in (memory.settings.database.owner_url, memory.settings.database.url))
    name = str(psycopg.conninfo.conninfo_to_dict(owner)["dbname"])
    async with await psycopg.AsyncConnection.connect(owner, dbname="postgres", autocommit=True) as admin:
        # A copy needs the original for itself; the suite's pools come back afterwards.
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        await admin.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (name,))
        for number in range(count):
            await admin.execute(f"CREATE DATABASE copy_{number} TEMPLATE {name}".encode())
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())
    return [url.replace(f"/{name}?", f"/copy_{number}?") for number in range(count)]


async def statements(
    settings: Settings, services: Sequence[str], calls: Mapping[str, Sequence[Call]]
) -> dict[str, list[list[Statement]]]:
    """The statements of each call, with background work left out.

    Args:
        settings: Of a server in this process, on a database of its own.
        services: What it hosts.
        calls: The calls of each method.
    """
    taken: list[Statement] = []
    execute = psycopg.AsyncConnection.execute

    async def recording(self: Any, query: Any, params: Any = None, **options: Any) -> Any:
        taken.append((query, params))
        return await execute(self, query, params, **options)

    found: dict[str, list[list[Statement]]] = {}
    own = settings.model_copy(
        update={"server": settings.server.model_copy(update={"port": 0, "ready_interval": 3600.0})}
    )
    with ExitStack() as patches:
        for indexer in (ArchivalIndexer, RecallIndexer):
            patches.enter_context(mock.patch.object(indexer, "start"))
        async with registry.running(own, services) as server, Stubs.open(server.address, own) as stubs:
            patches.enter_context(mock.patch.object(psycopg.AsyncConnection, "execute", recording))
            for name, of in calls.items():
                found[name] = []
                for call in of:
                    taken.clear()
                    await call(stubs)
                    found[name].append(list(taken))
    return found


@asynccontextmanager
async def plain(url: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A connection of the application role that prepares statements as the suite's do."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True, row_factory=dict_row) as connection:
        connection.prepare_threshold = 5
        await register_vector_async(connection)
        yield connection


async def replay(connection: psycopg.AsyncConnection[Any], call: Sequence[Statement]) -> None:
    """Sends the statements of one call, and reads what they find."""
    for query, params in call:
        cursor = await connection.execute(query, params)
        if cursor.description is not None:
            await cursor.fetchall()
