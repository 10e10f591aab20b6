"""A running archive whose callers bring their vectors, beside plain connections to the same database."""

from __future__ import annotations

import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import psycopg
from pgvector import HalfVector
from pgvector.psycopg import register_vector_async
from psycopg.rows import tuple_row

from benchmarks.processes import TENANT, Deployment, deployed, fresh_stores
from mneme.client import Client
from mneme.embedding.v1 import embedding_pb2
from mneme.settings import Settings

DIMENSIONS = 1024
WARM_UP = 12
"""Calls before those that count: statements are prepared, and planned for good, after some."""

_EMBEDDED = "mneme.embedded.postgres._SETTINGS"
# As on a server for databases; the embedded default is that of a laptop.
_SERVER = {"shared_buffers": "1GB", "max_wal_size": "4GB", "maintenance_work_mem": "512MB"}
# No text is sent to this model: every passage and question brings its vector.
_MODELS = {
    "embedding_provider": "openai",
    "embedding_model": "given",
    "openai_base_url": "http://127.0.0.1:9",
}


@dataclass(frozen=True, slots=True)
class Memory:
    """The suite, a client of it, and its database."""

    settings: Settings
    deployment: Deployment
    client: Client
    space_id: str

    @asynccontextmanager
    async def by_hand(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """A connection of the application role as a careful programmer would have it: one, kept, that prepares."""
        url = self.settings.database.url.get_secret_value()
        async with await psycopg.AsyncConnection.connect(url, autocommit=True, row_factory=tuple_row) as connection:
            connection.prepare_threshold = 5
            await register_vector_async(connection)
            await connection.execute(f"SET app.tenant = '{TENANT}'".encode())
            yield connection


@asynccontextmanager
async def running(groups: Sequence[tuple[str, ...]], *, dimensions: int = DIMENSIONS) -> AsyncIterator[Memory]:
    """Fresh stores that wait for the disk at each commit, and the services in processes as named."""
    overrides = {
        "models": {**_MODELS, "embedding_dimensions": dimensions},
        # The benchmark says when.
        "maintenance": {"interval": 86_400},
    }
    with mock.patch.dict(_EMBEDDED, _SERVER):
        async with (
            fresh_stores(overrides) as stores,
            deployed(stores, groups) as deployment,
            deployment.client() as client,
        ):
            space = (await client.embedding.GetSpace(embedding_pb2.GetSpaceRequest())).space
            yield Memory(stores, deployment, client, space.space_id)


async def milliseconds(work: Callable[[int], Awaitable[object]], samples: int, *, warm_up: int = WARM_UP) -> float:
    """The median time of a piece of work that is done again and again; it is told how often it was done."""
    times = []
    for number in range(warm_up + samples):
        began = time.perf_counter()
        await work(number)
        times.append(1000.0 * (time.perf_counter() - began))
    return statistics.median(times[warm_up:])


def halfvec(values: Sequence[float]) -> HalfVector:
    """A vector as the database takes it."""
    return HalfVector(list(values))
