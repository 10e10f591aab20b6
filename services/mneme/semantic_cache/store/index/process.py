"""Neighbours in the memory of each process, for a server that only keeps data.

Each partition has an append-only stream of the digests that were stored. A process follows it from where it was, and
takes the vectors from the entries' own rows: what is gone from Redis is not read. A graph is expensive to build, so one
of the processes leaves a snapshot of a large one for those that start later. A stream that was lost has a partition of
another name after it, since the scope's epoch is lost with it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import redis.asyncio
import structlog

from mneme.runtime.redis import Cache, CacheDown
from mneme.semantic_cache.addresses import Partition
from mneme.semantic_cache.neighbours import Neighbours, Vectors
from mneme.semantic_cache.store.rows import HEAD_BYTES, Row

_STREAM, _SNAPSHOT = "stream", "snapshot"
_START = b"0-0"
# Read beside a search; more is read in the background.
_INLINE = 64
_CHUNK = 256
# So many fit between two searches: a graph takes 0.2 to 0.5 ms for each.
_BATCH = 16
_PORTION = 500
# Multiplications that take about 2 ms; more are left to a thread.
_HEAVY = 16_000_000
_BULK_SECONDS = 5.0
_PART_BYTES = 1 << 20
_SNAPSHOT_LOCK_MS = 60_000

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Followed:
    """One partition as far as this process has read it."""

    partition: Partition
    neighbours: Neighbours
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the neighbours are used."""
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the stream is read."""
    position: bytes = _START
    begun: bool = False
    saved_at: int = 0
    """Vectors read when the last snapshot was made or taken."""
    read: int = 0
    task: asyncio.Task[None] | None = None


class ProcessIndex:
    """Follows the streams of the partitions that this process is asked about."""

    name = "process"

    def __init__(
        self,
        cache: Cache,
        *,
        exact_limit: int,
        memory_bytes: int,
        longest_life: float,
        patience: float,
    ) -> None:
        """Args:
        cache: The client.
        exact_limit: Entries of a partition up to which all are compared.
        memory_bytes: Most memory of all partitions; those asked longest ago leave.
        longest_life: Longest life of an entry, in seconds.
        patience: Longest wait of a search for a partition that is read for the first time, in seconds.
        """
        self._cache = cache
        self._exact_limit = exact_limit
        self._memory_bytes = memory_bytes
        self._life_ms = int(longest_life * 1000)
        self._patience = patience
        self._followed: OrderedDict[str, _Followed] = OrderedDict()

    @property
    def memory_bytes(self) -> int:
        """About what all partitions take."""
        return sum(followed.neighbours.memory_bytes for followed in self._followed.values())

    async def add(self, partition: Partition, digest: str, vector: Vectors, ends: float) -> None:
        """Tells all processes of an entry that is stored already."""
        key = partition.key(_STREAM)

        async def command(client: redis.asyncio.Redis) -> None:
            pipeline = client.pipeline(transaction=False)
            oldest = max(0, int(time.time() * 1000) - self._life_ms)
            pipeline.xadd(key, {"d": bytes.fromhex(digest), "e": repr(ends)}, minid=oldest, approximate=True)
            pipeline.pexpire(key, self._life_ms)
            await pipeline.execute()

        await self._cache.run(command)

    async def search(self, partition: Partition, vector: Vectors, limit: int) -> list[str]:
        """Returns the digests of the nearest entries; of what has been read of a partition that is still being read."""
        followed = self._of(partition)
        await self._catch_up(followed)
        async with followed.lock:
            neighbours = followed.neighbours
            if neighbours.work > _HEAVY:
                names = await asyncio.to_thread(neighbours.search, vector, limit)
            else:
                names = neighbours.search(vector, limit)
        return [name.hex() for name in names]

    async def drop(self, partition: Partition, digests: Sequence[str]) -> None:
        """Forgets entries that were found gone."""
        followed = self._of(partition)
        async with followed.lock:
            followed.neighbours.remove(map(bytes.fromhex, digests))

    async def close(self) -> None:
        """Ends reading in the background."""
        tasks = [followed.task for followed in self._followed.values() if followed.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _of(self, partition: Partition) -> _Followed:
        followed = self._followed.get(partition.name)
        if followed is None:
            neighbours = Neighbours(partition.dimensions, exact_limit=self._exact_limit)
            followed = self._followed[partition.name] = _Followed(partition, neighbours)
        self._followed.move_to_end(partition.name)
        return followed

    async def _catch_up(self, followed: _Followed) -> None:
        """Reads what is new, if it is little; leaves much to the background and waits for it a moment."""
        inline = followed.task is None and followed.begun
        if inline and await self._read(followed, _INLINE) < _INLINE and not followed.neighbours.promotes:
            return
        if followed.task is None:
            followed.task = asyncio.get_running_loop().create_task(self._read_all(followed), name="cache-index")
        await asyncio.wait([followed.task], timeout=self._patience)

    async def _read_all(self, followed: _Followed) -> None:
        try:
            if not followed.begun:
                await self._restore(followed)
                followed.begun = True
            whole = False
            while not whole:
                whole = await self._read(followed, _CHUNK, within=_BULK_SECONDS) < _CHUNK
            while followed.neighbours.promotes:
                await self._promote(followed)
            self._make_room(followed)
            await self._save(followed)
        except CacheDown:
            # Whoever searches next begins again.
            return
        finally:
            followed.task = None

    async def _promote(self, followed: _Followed) -> None:
        """Builds a portion of the graph beside the matrix, which answers meanwhile."""
        neighbours = followed.neighbours
        async with followed.lock:
            numbers, vectors = neighbours.portion(_PORTION)
        await asyncio.to_thread(neighbours.build, numbers, vectors)
        async with followed.lock:
            neighbours.settle(numbers)

    async def _read(self, followed: _Followed, count: int, *, within: float | None = None) -> int:
        """Takes on what follows in the stream; returns how many records that were."""
        key = followed.partition.key(_STREAM)

        async def command(client: redis.asyncio.Redis) -> Any:
            return await client.xrange(key, b"(" + followed.position, "+", count=count)

        async with followed.reading:
            records = await self._cache.run(command, within=within)
            if records:
                await self._take_on(followed, [record for _, record in records], within)
                followed.position = records[-1][0]
                followed.read += len(records)
        return len(records)

    async def _take_on(self, followed: _Followed, records: Sequence[dict[bytes, bytes]], within: float | None) -> None:
        """Adds entries with the vectors of their rows, as far as they are still what the partition holds."""
        partition, now = followed.partition, time.time()
        living = {record[b"d"]: float(record[b"e"]) for record in records if float(record[b"e"]) > now}
        names, end = list(living), HEAD_BYTES + 2 * partition.dimensions - 1

        async def command(client: redis.asyncio.Redis) -> Any:
            pipeline = client.pipeline(transaction=False)
            for name in names:
                pipeline.getrange(partition.entry_key(name.hex()), 0, end)
            return await pipeline.execute()

        found = await self._cache.run(command, within=within) if names else []
        kept, vectors = [], []
        for name, value in zip(names, found, strict=True):
            vector = Row(value).vector(partition.space)
            if vector is not None and len(vector) == partition.dimensions:
                kept.append(name)
                vectors.append(vector)
        for start in range(0, len(kept), _BATCH):
            part = kept[start : start + _BATCH]
            arguments = (part, np.stack(vectors[start : start + _BATCH]), [living[name] for name in part])
            async with followed.lock:
                if followed.neighbours.exact:
                    followed.neighbours.add(*arguments)
                else:
                    await asyncio.to_thread(followed.neighbours.add, *arguments)

    def _make_room(self, newest: _Followed) -> None:
        newest.neighbours.sweep()
        while len(self._followed) > 1 and self.memory_bytes > self._memory_bytes:
            _, oldest = self._followed.popitem(last=False)
            if oldest.task is not None:
                oldest.task.cancel()

    async def _save(self, followed: _Followed) -> None:
        """Leaves a snapshot of a graph that has grown by a quarter since the last one."""
        neighbours, partition = followed.neighbours, followed.partition
        grown = followed.read - followed.saved_at
        if neighbours.exact or grown <= max(self._exact_limit, len(neighbours)) // 4:
            return
        lock = partition.key(f"{_SNAPSHOT}-lock")
        if not await self._cache.run(lambda client: client.set(lock, 1, nx=True, px=_SNAPSHOT_LOCK_MS)):
            return
        async with followed.lock:
            content, position = await asyncio.to_thread(neighbours.snapshot), followed.position
        parts = [content[start : start + _PART_BYTES] for start in range(0, len(content), _PART_BYTES)]
        for number, part in enumerate(parts):
            await self._set(partition.key(f"{_SNAPSHOT}-{number}"), part)
        manifest = {
            "position": position.decode(),
            "parts": len(parts),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        await self._set(partition.key(_SNAPSHOT), json.dumps(manifest).encode())
        followed.saved_at = followed.read
        log.info("cache.index_saved", entries=len(neighbours), bytes=len(content))

    async def _restore(self, followed: _Followed) -> None:
        """Takes the last snapshot on; without a whole one the stream is read from its beginning."""
        partition = followed.partition
        packed = await self._get(partition.key(_SNAPSHOT))
        if packed is None:
            return
        manifest = json.loads(packed)
        keys = [partition.key(f"{_SNAPSHOT}-{number}") for number in range(manifest["parts"])]
        content = b"".join([await self._get(key) or b"" for key in keys])
        if hashlib.sha256(content).hexdigest() != manifest["sha256"]:
            return
        try:
            async with followed.lock:
                await asyncio.to_thread(followed.neighbours.restore, content)
        except (ValueError, KeyError, RuntimeError) as error:
            log.warning("cache.index_unreadable", error=str(error))
            return
        followed.position = manifest["position"].encode()
        followed.read = followed.saved_at = len(followed.neighbours)

    async def _get(self, key: str) -> bytes | None:
        async def command(client: redis.asyncio.Redis) -> Any:
            return await client.get(key)

        found: bytes | None = await self._cache.run(command, within=_BULK_SECONDS)
        return found

    async def _set(self, key: str, value: bytes) -> None:
        async def command(client: redis.asyncio.Redis) -> Any:
            return await client.set(key, value, px=self._life_ms)

        await self._cache.run(command, within=_BULK_SECONDS)
