"""What the gateway keeps: the active space in PostgreSQL, vectors for a while in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import redis.asyncio
from sqlalchemy import Boolean, CheckConstraint, Column, DateTime, Integer, MetaData, Table, Text, func, text

from mneme.embedding.provider import Embedded, Model
from mneme.embedding.space import RecordedSpace
from mneme.embedding.vectors import pack, unpack
from mneme.runtime.db import Database
from mneme.runtime.redis import Cache, CacheDown

metadata = MetaData(schema="embedding")

# Holds no content and belongs to no tenant: one row for the whole deployment.
space = Table(
    "space",
    metadata,
    Column("singleton", Boolean, primary_key=True, server_default=text("true")),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("dimensions", Integer, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("singleton", name="space_only"),
)

# The update changes nothing; it makes the statement return the row that was there.
_CLAIM = """
INSERT INTO embedding.space AS kept (provider, model, dimensions)
VALUES (%(provider)s, %(model)s, %(dimensions)s)
ON CONFLICT (singleton) DO UPDATE SET provider = kept.provider
RETURNING provider, model, dimensions
"""

_WHOLE, _CUT = b"\x00", b"\x01"
_INLINE_VECTORS = 16

R = TypeVar("R")
T = TypeVar("T")


class SpaceStore:
    """The record of the deployment's active space."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, model: Model) -> RecordedSpace:
        """Records the model's space unless one is recorded; returns the recorded one.

        Raises:
            Error: REASON_STORE_UNAVAILABLE.
        """
        row = {"provider": model.provider, "model": model.name, "dimensions": model.dimensions}
        async with self._database.work() as tx:
            found = await (await tx.execute(_CLAIM, row)).fetchone()
        assert found is not None
        return RecordedSpace(**found)

    async def ping(self) -> None:
        """Returns when the database answers."""
        await self._database.ping()


class RedisVectors:
    """Vectors in Redis, `bedrock:embed:<model>@<dimensions>:<key>`; a first byte says if the text was cut."""

    def __init__(self, cache: Cache, model: Model, *, seconds: float, timeout: float) -> None:
        """Args:
        cache: The client.
        model: Whose vectors these are.
        seconds: Life of a vector.
        timeout: Longest time of one use, in seconds.
        """
        self._cache = cache
        self._prefix = f"bedrock:embed:{model.space_id}:"
        self._dimensions = model.dimensions
        self._milliseconds = int(seconds * 1000)
        self._timeout = timeout

    async def get(self, keys: Sequence[str]) -> Mapping[str, Embedded]:
        """Returns the vectors that are there; none when Redis does not answer."""

        async def read(client: redis.asyncio.Redis) -> list[Any]:
            # Not MGET: on a cluster the keys live on many nodes.
            pipeline = client.pipeline(transaction=False)
            for key in keys:
                pipeline.get(self._prefix + key)
            return await pipeline.execute()

        try:
            values = await self._cache.run(read, within=self._timeout)
        except CacheDown:
            return {}
        found = [(key, value) for key, value in zip(keys, values, strict=True) if value]
        return await _off_loop(self._decode_all, found)

    async def put(self, vectors: Mapping[str, Embedded]) -> None:
        """Keeps vectors; does nothing when Redis does not answer."""

        if not vectors:
            return
        values = await _off_loop(_encode_all, list(vectors.items()))

        async def write(client: redis.asyncio.Redis) -> None:
            pipeline = client.pipeline(transaction=False)
            for key, value in values.items():
                pipeline.set(self._prefix + key, value, px=self._milliseconds)
            await pipeline.execute()

        try:
            await self._cache.run(write, within=self._timeout)
        except CacheDown:
            return

    def _decode_all(self, values: Sequence[tuple[str, bytes]]) -> dict[str, Embedded]:
        decoded: dict[str, Embedded] = {}
        for key, value in values:
            vector = unpack(value[1:], self._dimensions)
            if vector is not None:
                decoded[key] = Embedded(vector, truncated=value[:1] == _CUT)
        return decoded


def _encode_all(vectors: Sequence[tuple[str, Embedded]]) -> dict[str, bytes]:
    return {key: (_CUT if embedded.truncated else _WHOLE) + pack(embedded.vector) for key, embedded in vectors}


async def _off_loop(work: Callable[[Sequence[T]], R], items: Sequence[T]) -> R:
    """The result of the work, done in a thread when it takes longer than the way there."""
    return work(items) if len(items) <= _INLINE_VECTORS else await asyncio.to_thread(work, items)
