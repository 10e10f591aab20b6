"""What the gateway keeps: the active space in PostgreSQL, vectors for a while in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import redis.asyncio
from sqlalchemy import ARRAY, Boolean, CheckConstraint, Column, DateTime, Integer, MetaData, Table, Text, func, text

from mneme.embedding.provider import Embedded, Model
from mneme.embedding.space import RecordedSpace, not_everywhere
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

# Who serves which spaces, so that the deployment never switches to one that a running process cannot make.
process = Table(
    "process",
    metadata,
    Column("process_id", Text, primary_key=True),
    Column("spaces", ARRAY(Text), nullable=False),
    Column("expire_time", DateTime(timezone=True), nullable=False),
)

_LOCK = 0x656D6265646469  # "embeddi", as the lock's number has eight bytes with a sign
_ATTEND_LOCK = f"SELECT pg_advisory_xact_lock_shared({_LOCK})"
_SWITCH_LOCK = f"SELECT pg_advisory_xact_lock({_LOCK})"

_ATTEND = """
WITH attended AS (
    INSERT INTO embedding.process (process_id, spaces, expire_time)
    VALUES (%(process)s, %(spaces)s, now() + %(seconds)s * interval '1 second')
    ON CONFLICT (process_id) DO UPDATE SET spaces = excluded.spaces, expire_time = excluded.expire_time
), ended AS (
    DELETE FROM embedding.process WHERE expire_time < now() AND process_id <> %(process)s
)
SELECT provider, model, dimensions FROM embedding.space
"""

# The update changes nothing; it makes the statement return the row that was there.
_RECORD = """
INSERT INTO embedding.space AS kept (provider, model, dimensions)
VALUES (%(provider)s, %(model)s, %(dimensions)s)
ON CONFLICT (singleton) DO UPDATE SET provider = kept.provider
RETURNING provider, model, dimensions
"""

_LEAVE = "DELETE FROM embedding.process WHERE process_id = %(process)s"

_COUNT = """
SELECT count(*)::integer AS processes,
       (count(*) FILTER (WHERE NOT %(space)s = ANY (spaces)))::integer AS without
FROM embedding.process WHERE expire_time >= now()
"""

_SWITCH = """
UPDATE embedding.space
SET provider = %(provider)s, model = %(model)s, dimensions = %(dimensions)s, create_time = now()
WHERE (provider, model, dimensions) IS DISTINCT FROM (%(provider)s, %(model)s, %(dimensions)s)
"""

_WHOLE, _CUT = b"\x00", b"\x01"
_INLINE_VECTORS = 16

R = TypeVar("R")
T = TypeVar("T")


class SpaceStore:
    """The record of the deployment's active space."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def attend(self, process_id: str, models: Sequence[Model], seconds: float) -> RecordedSpace:
        """Returns the recorded space; records that of the first model where none is.

        Args:
            process_id: Who serves.
            models: What it can serve.
            seconds: Time after which it counts as dead unless it attends again.

        Raises:
            Error: REASON_STORE_UNAVAILABLE.
        """
        own = {"process": process_id, "spaces": [model.space_id for model in models], "seconds": seconds}
        async with self._database.work() as tx:
            await tx.execute(_ATTEND_LOCK)
            found = await (await tx.execute(_ATTEND, own)).fetchone()
            if found is None:
                found = await (await tx.execute(_RECORD, _row(models[0]))).fetchone()
        assert found is not None
        return RecordedSpace(**found)

    async def leave(self, process_id: str) -> None:
        """Forgets a process that ends.

        Raises:
            Error: REASON_STORE_UNAVAILABLE.
        """
        async with self._database.work() as tx:
            await tx.execute(_LEAVE, {"process": process_id})

    async def switch(self, model: Model) -> None:
        """Records the model's space as the active one; processes that start meanwhile wait and see the result.

        Raises:
            Error: REASON_SPACE_MISMATCH where a running process does not serve the space, REASON_STORE_UNAVAILABLE.
        """
        async with self._database.work() as tx:
            await tx.execute(_SWITCH_LOCK)
            counted = await (await tx.execute(_COUNT, {"space": model.space_id})).fetchone()
            assert counted is not None
            if counted["without"]:
                raise not_everywhere(model.space_id, **counted)
            await tx.execute(_SWITCH, _row(model))


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


def _row(model: Model) -> dict[str, str | int]:
    return {"provider": model.provider, "model": model.name, "dimensions": model.dimensions}


def _encode_all(vectors: Sequence[tuple[str, Embedded]]) -> dict[str, bytes]:
    return {key: (_CUT if embedded.truncated else _WHOLE) + pack(embedded.vector) for key, embedded in vectors}


async def _off_loop(work: Callable[[Sequence[T]], R], items: Sequence[T]) -> R:
    """The result of the work, done in a thread when it takes longer than the way there."""
    return work(items) if len(items) <= _INLINE_VECTORS else await asyncio.to_thread(work, items)
