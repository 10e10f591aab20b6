"""What the gateway keeps: the active space in PostgreSQL, vectors for a while in Redis."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import redis.asyncio
from sqlalchemy import ARRAY, Boolean, CheckConstraint, Column, DateTime, Integer, MetaData, Table, Text, func, text

from mneme.embedding.provider import Embedded, Model
from mneme.embedding.quota import LocalMeter
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

# Whether the text was cut, and the tokens that its vector cost.
_HEAD = struct.Struct("<?I")
_INLINE_VECTORS = 16
_URGENT, _BULK = b"i", b"b"

# The bucket of `quota.LocalMeter`, in one atomic step on the server's clock. Times are microseconds.
_TAKE = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local cost, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local owed = math.max(0, tonumber(redis.call('GET', KEYS[1]) or now) - now)
if owed > 0 and owed + cost > window then
    return math.ceil(math.min(owed + cost - window, owed))
end
redis.call('SET', KEYS[1], string.format('%.0f', now + owed + cost), 'PX', math.ceil((owed + cost) / 1000))
return 0
"""
_WINDOW = 60_000_000

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
    """Vectors in Redis, `bedrock:embed:<model>@<dimensions>:<key>`, and who asks for those that are not there.

    A claim, `<vector's key>:asked`, says that a process asks the provider for a vector. It ends with the vector, when
    it is given up, or after a while, so that a process that died delays nobody for longer.
    """

    def __init__(self, cache: Cache, model: Model, *, seconds: float, timeout: float, claim_seconds: float) -> None:
        """Args:
        cache: The client.
        model: Whose vectors these are.
        seconds: Life of a vector.
        timeout: Longest time of one use, in seconds.
        claim_seconds: Longest life of a claim; 0 where nobody claims.
        """
        self._cache = cache
        self._prefix = f"bedrock:embed:{model.space_id}:"
        self._dimensions = model.dimensions
        self._milliseconds = int(seconds * 1000)
        self._timeout = timeout
        self._claim_milliseconds = int(claim_seconds * 1000)

    async def get(self, keys: Sequence[str]) -> Mapping[str, Embedded]:
        """Returns the vectors that are there; none when Redis does not answer."""
        values = await self._run([("GET", self._prefix + key) for key in keys])
        found = [(key, value) for key, value in zip(keys, values, strict=False) if value]
        return await _off_loop(self._decode_all, found)

    async def put(self, vectors: Mapping[str, Embedded]) -> None:
        """Keeps vectors, and gives up the claims on them; does nothing when Redis does not answer."""
        packed = await _off_loop(_encode_all, list(vectors.items()))
        await self._run(
            [("SET", self._prefix + key, value, "PX", self._milliseconds) for key, value in packed.items()]
            + [("DEL", self._claim(key)) for key in packed if self._claim_milliseconds]
        )

    async def claim(self, keys: Sequence[str], *, urgent: bool) -> set[str]:
        """Returns those that the caller shall ask the provider for; see the port. All when Redis does not answer."""
        own = _URGENT if urgent else _BULK
        commands: list[tuple[str | bytes | int, ...]] = []
        for key in keys:
            commands.append(("SET", self._claim(key), own, "NX", "PX", self._claim_milliseconds))
            commands.append(("GET", self._claim(key)))
            # Once more, after the claim: who held it before may have kept the vector since the first look.
            commands.append(("EXISTS", self._prefix + key))
        answers = await self._run(commands)
        if not answers:
            return set(keys)
        taken = list(zip(keys, answers[::3], answers[1::3], answers[2::3], strict=True))
        await self.release([key for key, won, _, there in taken if won and there])
        return {
            key
            for key, won, holder, there in taken
            if not there and (won or holder is None or (urgent and holder == _BULK))
        }

    async def unclaimed(self, keys: Sequence[str]) -> set[str]:
        """Returns those that nobody asks for any more; all when Redis does not answer."""
        answers = await self._run([("EXISTS", self._claim(key)) for key in keys])
        return {key for key, there in zip(keys, answers, strict=True) if not there} if answers else set(keys)

    async def release(self, keys: Sequence[str]) -> None:
        """Gives up claims; those that Redis does not take end by themselves."""
        await self._run([("DEL", self._claim(key)) for key in keys])

    def _claim(self, key: str) -> str:
        return f"{self._prefix}{key}:asked"

    async def _run(self, commands: Sequence[tuple[str | bytes | int, ...]]) -> list[Any]:
        """The answers to the commands; nothing when there are no commands, or Redis does not answer."""

        async def work(client: redis.asyncio.Redis) -> list[Any]:
            if len(commands) == 1:
                return [await client.execute_command(*commands[0])]  # type: ignore[no-untyped-call]
            # Single commands, not MGET: on a cluster the keys live on many nodes.
            pipeline = client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            return await pipeline.execute()

        try:
            return await self._cache.run(work, within=self._timeout) if commands else []
        except CacheDown:
            return []

    def _decode_all(self, values: Sequence[tuple[str, bytes]]) -> dict[str, Embedded]:
        decoded: dict[str, Embedded] = {}
        for key, value in values:
            vector = unpack(value[_HEAD.size :], self._dimensions)
            if vector is not None:
                truncated, tokens = _HEAD.unpack_from(value)
                decoded[key] = Embedded(vector, tokens, truncated)
        return decoded


class RedisMeter:
    """What tenants use, counted by all processes together; by each for itself while Redis does not answer."""

    def __init__(self, cache: Cache, *, timeout: float) -> None:
        """Args:
        cache: The client.
        timeout: Longest time of one use, in seconds.
        """
        self._cache = cache
        self._timeout = timeout
        self._local = LocalMeter()

    async def take(self, tenant: str, tokens: int, limit: int) -> float:
        """Returns 0 when the tenant may use the tokens now, else the seconds until it may; see the port."""
        cost = _WINDOW * tokens / limit

        async def work(client: redis.asyncio.Redis) -> int:
            return int(await client.eval(_TAKE, 1, f"mneme:quota:embedding:{tenant}", str(cost), str(_WINDOW)))

        try:
            return await self._cache.run(work, within=self._timeout) / 1_000_000
        except CacheDown:
            return self._local.take(tenant, tokens, limit, asyncio.get_running_loop().time())


def _row(model: Model) -> dict[str, str | int]:
    return {"provider": model.provider, "model": model.name, "dimensions": model.dimensions}


def _encode_all(vectors: Sequence[tuple[str, Embedded]]) -> dict[str, bytes]:
    return {
        key: _HEAD.pack(embedded.truncated, embedded.token_count) + pack(embedded.vector) for key, embedded in vectors
    }


async def _off_loop(work: Callable[[Sequence[T]], R], items: Sequence[T]) -> R:
    """The result of the work, done in a thread when it takes longer than the way there."""
    return work(items) if len(items) <= _INLINE_VECTORS else await asyncio.to_thread(work, items)
