"""The index port: what every adapter must do, and each on its own.

`search` is not run against a server here: its exchanges are replayed from the vendor's documentation of FT.CREATE,
FT.SEARCH and FT._LIST (Valkey Search, Redis). `vector_set` runs where REDIS8_SERVER names a server of Redis 8.
"""

from __future__ import annotations

import asyncio
import os
import struct
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from pydantic import SecretStr

from mneme.runtime.redis import Cache, CacheDown
from mneme.semantic_cache.addresses import Address, Partition, Scope, partition
from mneme.semantic_cache.neighbours import Vectors, unit
from mneme.semantic_cache.store import Embedded, EntryStore, Stored
from mneme.semantic_cache.store.index import (
    ChosenIndex,
    ProcessIndex,
    SearchIndex,
    VectorIndex,
    VectorSetIndex,
)
from mneme.semantic_cache.v1 import semantic_cache_pb2 as pb
from mneme.settings import RedisSettings

DIMENSIONS = 24
LIFE = 60.0
SCOPE = Scope("acme", "agent-1")


def vectors(count: int, seed: int = 1) -> Vectors:
    return unit(np.random.default_rng(seed).normal(size=(count, DIMENSIONS)).astype(np.float32))


def digest(number: int) -> str:
    return f"{number:064x}"


@dataclass
class SearchServer:
    """Answers as the documentation of `FT.*` says, over a plain server's hashes.

    Only the commands, arguments and shapes of the portable subset are known to it; anything else is refused as a real
    server would refuse it.
    """

    url: str
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    indexes: dict[str, str] = field(default_factory=dict)
    """Prefix by index."""

    def answer(self, *command: Any) -> Any:
        self.asked.append(command)
        name = command[0]
        if name == "FT._LIST":
            return [index.encode() for index in self.indexes]
        if name == "FT.CREATE":
            return self._create(command)
        assert name == "FT.SEARCH", command
        return self._search(command)

    def _create(self, command: tuple[Any, ...]) -> bytes:
        _, name, *rest = command
        assert rest[:4] == ["ON", "HASH", "PREFIX", 1]
        assert rest[5:9] == ["SCHEMA", "part", "TAG", "v"]
        assert rest[9:] == [
            "VECTOR", "HNSW", 10, "TYPE", "FLOAT32", "DIM", DIMENSIONS, "DISTANCE_METRIC", "COSINE", "M", 16,
            "EF_CONSTRUCTION", 200,
        ]  # fmt: skip
        if name in self.indexes:
            raise redis.ResponseError("Index already exists")
        self.indexes[name] = rest[4]
        return b"OK"

    def _search(self, command: tuple[Any, ...]) -> list[Any]:
        """`[count, key, [field, value, …], key, …]`, unsorted as where the server does not sort."""
        _, name, query, *rest = command
        if name not in self.indexes:
            raise redis.ResponseError(f"Index with name '{name}' not found")
        limit = rest[-3]
        assert rest[:2] == ["PARAMS", 2]
        assert rest[2] == "q"
        assert rest[4:] == ["RETURN", 1, "d", "LIMIT", 0, limit, "DIALECT", 2]
        part = query.partition("{")[2].partition("}")[0]
        assert query == f"(@part:{{{part}}})=>[KNN {limit} @v $q AS d]"
        wanted = np.frombuffer(rest[3], dtype="<f4")
        found = []
        with redis.Redis.from_url(self.url) as client:
            for key in client.scan_iter(f"{self.indexes[name]}*"):
                if client.hget(key, "part") == part.encode():
                    vector = np.frombuffer(client.hget(key, "v") or b"", dtype="<f4")
                    found.append((1 - float(vector @ wanted), key))
        nearest = sorted(found)[:limit][::-1]
        answer: list[Any] = [len(nearest)]
        for distance, key in nearest:
            answer += [key, [b"d", f"{distance:.6f}".encode()]]
        return answer


class SearchingCache(Cache):
    """A client of a plain server that hands `FT.*` to the documented exchanges."""

    def __init__(self, url: str) -> None:
        super().__init__(RedisSettings(url=SecretStr(url), command_timeout=5.0, connect_timeout=5.0))
        self.server = SearchServer(url)
        assert self._client is not None
        plain: Callable[..., Awaitable[Any]] = self._client.execute_command

        async def execute(*command: Any, **options: Any) -> Any:
            if str(command[0]).startswith("FT."):
                return self.server.answer(*command)
            return await plain(*command, **options)

        self._client.execute_command = execute  # type: ignore[method-assign]


@pytest.fixture(scope="session")
def redis8() -> Iterator[str]:
    """A server of Redis 8."""
    program = os.environ.get("REDIS8_SERVER")
    if not program:
        pytest.skip("REDIS8_SERVER names no server of Redis 8")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "redis8.sock")
        server = subprocess.Popen(
            [*program.split(), "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", folder],
            stdout=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + 20
            while not path.exists():
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield f"unix://{path}"
        finally:
            server.terminate()
            server.wait(10)


@dataclass
class Indexed:
    """An index over rows, as the service uses it."""

    index: VectorIndex
    entries: EntryStore
    cache: Cache
    url: str

    async def store(self, place: Partition, number: int, vector: Vectors, *, life: float = LIFE) -> None:
        """Stores an entry and adds it."""
        address = Address(place.scope, digest(number))
        ends = time.time() + life
        entry = pb.CacheEntry(entry_id=f"entry-{number:032x}", question=str(number), answer="x")
        entry.expire_time.FromNanoseconds(int(ends * 1e9))
        stored = Stored(entry, bytes(16), bytes(16), bytes(16), Embedded(place.space, vector))
        await self.entries.put(address, stored, owners=())
        await self.index.add(place, address.digest, vector, ends)

    async def place(self, scope: Scope = SCOPE) -> Partition:
        """The partition of a scope as it lives now."""
        address = Address(scope, "f" * 64)
        entry = pb.CacheEntry(entry_id="entry-" + "f" * 32)
        entry.expire_time.FromNanoseconds(int((time.time() + LIFE) * 1e9))
        epoch = await self.entries.put(address, Stored(entry, bytes(16), bytes(16), bytes(16)), owners=())
        return partition(scope, epoch=epoch, fingerprint="a" * 64, space_id="stub@24", dimensions=DIMENSIONS)


def process_index(cache: Cache, *, exact_limit: int = 10_000, memory_bytes: int = 1 << 30) -> ProcessIndex:
    return ProcessIndex(cache, exact_limit=exact_limit, memory_bytes=memory_bytes, longest_life=LIFE, patience=5.0)


async def over(stack: AsyncExitStack, index: VectorIndex, cache: Cache, url: str) -> Indexed:
    stack.push_async_callback(cache.close)
    stack.push_async_callback(index.close)
    entries = EntryStore(cache, longest_life=LIFE, longest_lease=LIFE, concurrency=8)
    return Indexed(index, entries, cache, url)


def plain(url: str) -> Cache:
    return Cache(RedisSettings(url=SecretStr(url), command_timeout=5.0, connect_timeout=5.0))


@pytest.fixture(params=["process", "process graph", "search", "vector_set"])
async def indexed(request: pytest.FixtureRequest, redis_url: str) -> AsyncIterator[Indexed]:
    """Each adapter."""
    url = redis_url if request.param != "vector_set" else request.getfixturevalue("redis8")
    async with AsyncExitStack() as stack:
        if request.param == "search":
            searching = SearchingCache(url)
            yield await over(stack, SearchIndex(searching), searching, url)
            return
        cache = plain(url)
        with redis.Redis.from_url(url) as client:
            client.flushdb()
        index: VectorIndex = VectorSetIndex(cache, longest_life=LIFE)
        if request.param != "vector_set":
            index = process_index(cache, exact_limit=10_000 if request.param == "process" else 4)
        yield await over(stack, index, cache, url)


async def test_the_nearest_are_found_best_first(indexed: Indexed) -> None:
    place, known = await indexed.place(), vectors(40)
    for number, vector in enumerate(known):
        await indexed.store(place, number, vector)
    for wanted in (0, 17, 39):
        asked = unit(known[wanted] + 0.1 * known[(wanted + 1) % 40])
        found = await indexed.index.search(place, asked, 8)
        nearest = np.argsort(-(known @ asked))[:8]
        assert found[0] == digest(wanted)
        assert set(found) == {digest(int(number)) for number in nearest}


async def test_an_unknown_partition_has_no_neighbours(indexed: Indexed) -> None:
    assert await indexed.index.search(await indexed.place(), vectors(1)[0], 8) == []


async def test_fewer_entries_than_asked_for_are_all_found(indexed: Indexed) -> None:
    place, known = await indexed.place(), vectors(3)
    for number, vector in enumerate(known):
        await indexed.store(place, number, vector)
    assert set(await indexed.index.search(place, known[0], 8)) == set(map(digest, range(3)))


async def test_partitions_do_not_see_each_other(indexed: Indexed) -> None:
    place, vector = await indexed.place(), vectors(1)[0]
    await indexed.store(place, 1, vector)
    epoch = b"0" * 16
    for other in (
        await indexed.place(Scope("other", "agent-1")),
        await indexed.place(Scope("acme", "agent-2")),
        await indexed.place(Scope("acme", "agent-1", "ann")),
        partition(SCOPE, epoch=epoch, fingerprint="a" * 64, space_id="stub@24", dimensions=DIMENSIONS),
        partition(SCOPE, epoch=epoch, fingerprint="b" * 64, space_id="stub@24", dimensions=DIMENSIONS),
        partition(SCOPE, epoch=epoch, fingerprint="a" * 64, space_id="else@24", dimensions=DIMENSIONS),
    ):
        assert await indexed.index.search(other, vector, 8) == []
    assert await indexed.index.search(place, vector, 8) == [digest(1)]


async def test_a_replaced_entry_is_found_where_it_is_now(indexed: Indexed) -> None:
    place, known = await indexed.place(), vectors(10)
    for number, vector in enumerate(known):
        await indexed.store(place, number, vector)
    await indexed.store(place, 0, known[9])
    found = await indexed.index.search(place, known[9], 2)
    assert set(found) == {digest(0), digest(9)}


async def test_what_was_dropped_is_not_found(indexed: Indexed) -> None:
    place, known = await indexed.place(), vectors(10)
    for number, vector in enumerate(known):
        await indexed.store(place, number, vector)
    assert digest(3) in await indexed.index.search(place, known[3], 2)
    await indexed.index.drop(place, [digest(3), digest(77)])
    found = await indexed.index.search(place, known[3], 9)
    assert set(found) == {digest(number) for number in range(10) if number != 3}


async def test_what_has_ended_is_not_found(indexed: Indexed) -> None:
    place, known = await indexed.place(), vectors(2)
    await indexed.store(place, 0, known[0], life=0.3)
    await indexed.store(place, 1, known[1])
    async with asyncio.timeout(10):
        while digest(0) in await indexed.index.search(place, known[0], 8):
            pass
    assert await indexed.index.search(place, known[0], 8) == [digest(1)]


async def test_after_a_loss_new_entries_are_found_and_old_ones_are_not(indexed: Indexed) -> None:
    place, known = await indexed.place(), vectors(6)
    for number in range(3):
        await indexed.store(place, number, known[number])
    assert len(await indexed.index.search(place, known[0], 8)) == 3
    with redis.Redis.from_url(indexed.url) as client:
        client.flushdb()
    if isinstance(indexed.cache, SearchingCache):
        # FLUSHALL removes indexes as well: the next use is refused, and the one after makes them anew.
        indexed.cache.server.indexes.clear()
        with pytest.raises(CacheDown):
            await indexed.index.search(place, known[0], 8)
    place = await indexed.place()
    for number in range(3, 6):
        await indexed.store(place, number, known[number])
    assert set(await indexed.index.search(place, known[0], 8)) == set(map(digest, range(3, 6)))


@pytest.mark.parametrize("exact_limit", [10_000, 50])
async def test_processes_that_start_at_any_time_find_the_same(redis_url: str, exact_limit: int) -> None:
    known = vectors(400)
    async with AsyncExitStack() as stack:
        caches = [plain(redis_url) for _ in range(3)]
        one, two, late = [
            await over(stack, process_index(cache, exact_limit=exact_limit), cache, redis_url) for cache in caches
        ]
        place = await one.place()
        for number, vector in enumerate(known[:200]):
            await (one, two)[number % 2].store(place, number, vector)
            if number % 50 == 0:
                await one.index.search(place, vector, 8)
                await two.index.search(place, vector, 8)
        await settled(one.index)
        for number, vector in enumerate(known[200:], start=200):
            await one.store(place, number, vector)
        for number in (0, 199, 200, 399):
            for indexed in (one, two, late):
                assert (await indexed.index.search(place, known[number], 1)) == [digest(number)]
        with redis.Redis.from_url(redis_url) as client:
            # A graph leaves a snapshot, and who starts later goes on from there.
            snapshots = [name for name in client.scan_iter() if b":snapshot:" in name]
        assert bool(snapshots) == (exact_limit == 50)


async def settled(index: VectorIndex) -> None:
    """Waits until nothing is read in the background."""
    assert isinstance(index, ProcessIndex)
    while tasks := [followed.task for followed in index._followed.values() if followed.task]:
        await asyncio.wait(tasks)


async def test_a_torn_snapshot_is_not_believed(redis_url: str) -> None:
    known = vectors(100)
    async with AsyncExitStack() as stack:
        one, late = [
            await over(stack, process_index(cache, exact_limit=10), cache, redis_url)
            for cache in (plain(redis_url), plain(redis_url))
        ]
        place = await one.place()
        for number, vector in enumerate(known):
            await one.store(place, number, vector)
        await one.index.search(place, known[0], 1)
        await settled(one.index)
        with redis.Redis.from_url(redis_url) as client:
            (part,) = [name for name in client.scan_iter() if b":snapshot-0:" in name]
            client.setrange(part, 100, b"torn")
        assert await late.index.search(place, known[7], 1) == [digest(7)]


async def test_rows_that_are_gone_are_not_read(redis_url: str) -> None:
    known = vectors(20)
    async with AsyncExitStack() as stack:
        one, late = [
            await over(stack, process_index(cache), cache, redis_url) for cache in (plain(redis_url), plain(redis_url))
        ]
        place = await one.place()
        for number, vector in enumerate(known):
            await one.store(place, number, vector)
        with redis.Redis.from_url(redis_url) as client:
            client.delete(*[place.entry_key(digest(number)) for number in range(10)])
        found = await late.index.search(place, known[3], 20)
        assert set(found) == set(map(digest, range(10, 20)))


async def test_scopes_asked_longest_ago_leave_the_memory(redis_url: str) -> None:
    known = vectors(50)
    async with AsyncExitStack() as stack:
        cache = plain(redis_url)
        index = process_index(cache, memory_bytes=60_000)
        indexed = await over(stack, index, cache, redis_url)
        places = [await indexed.place(Scope("acme", f"agent-{number}")) for number in range(6)]
        for place in places:
            for number, vector in enumerate(known):
                await indexed.store(place, number, vector)
            assert len(await index.search(place, known[0], 8)) == 8
            await settled(index)
        assert index.memory_bytes <= 60_000
        assert places[5].name in index._followed
        assert places[0].name not in index._followed
        assert await index.search(places[0], known[4], 1) == [digest(4)]


class Probed(Cache):
    """A server that knows some commands."""

    def __init__(self, url: str, known: dict[str, Any]) -> None:
        super().__init__(RedisSettings(url=SecretStr(url), command_timeout=5.0, connect_timeout=5.0))
        assert self._client is not None

        async def execute(*command: Any, **options: Any) -> Any:
            if command[0] not in known:
                raise redis.ResponseError(f"unknown command '{command[0]}', with args beginning with: ")
            if isinstance(known[command[0]], Exception):
                raise known[command[0]]
            return known[command[0]]

        self._client.execute_command = execute  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("known", "chosen"),
    [
        ({"FT._LIST": [], "VCARD": 0}, "search"),
        ({"VCARD": 0}, "vector_set"),
        ({"VCARD": None}, "vector_set"),
        ({}, "process"),
        ({"FT._LIST": redis.exceptions.NoPermissionError("this user has no permissions")}, "process"),
    ],
)
async def test_the_server_is_asked_what_it_can_do(redis_url: str, known: dict[str, Any], chosen: str) -> None:
    cache = Probed(redis_url, known)
    index = ChosenIndex(cache, process=process_index(cache), longest_life=LIFE)
    assert index.name == ""
    assert (await index._index()).name == chosen
    assert index.name == chosen
    await cache.close()


async def test_a_server_that_does_not_say_is_asked_again(redis_url: str) -> None:
    known: dict[str, Any] = {"FT._LIST": redis.ResponseError("LOADING the dataset")}
    cache = Probed(redis_url, known)
    index = ChosenIndex(cache, process=process_index(cache), longest_life=LIFE)
    with pytest.raises(CacheDown):
        await index._index()
    known["FT._LIST"] = []
    assert (await index._index()).name == "search"
    await cache.close()


def test_a_vector_goes_out_as_little_endian_floats() -> None:
    assert unit(np.array([3.0, 4.0], dtype=np.float32)).astype("<f4").tobytes() == struct.pack("<2f", 0.6, 0.8)
