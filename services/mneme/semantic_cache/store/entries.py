"""Entries and leases in Redis, which may lose any of them at any moment.

An entry's value begins with its scope's epoch (`rows` has the rest). The epoch is random and an entry without it is not
served, so a scope is emptied by one write, and a lost epoch can only hide entries, never bring removed ones back.

Every method raises CacheDown when Redis does not answer.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import struct
import time
import zlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import redis.asyncio

from mneme.runtime.redis import Cache, CacheDown
from mneme.semantic_cache.addresses import Address, Partition, Scope, id_key, name_hash, owned_key
from mneme.semantic_cache.neighbours import Vectors
from mneme.semantic_cache.store.rows import PART, Row, Stored, encode, id_bytes
from mneme.semantic_cache.v1 import semantic_cache_pb2 as pb

T = TypeVar("T")

_CHUNK = 200
_BULK_SECONDS = 5.0
_COMPRESSION = 1
_PENDING = "pending"
_MOST_PENDING = 128

_TAKE = """
local epoch = redis.call('GET', KEYS[2])
if not epoch then epoch = ARGV[3] redis.call('SET', KEYS[2], epoch) end
redis.call('PEXPIRE', KEYS[2], ARGV[4])
local value = redis.call('GET', KEYS[1])
if value and string.sub(value, 1, 16) == epoch and string.sub(value, 33, 48) ~= ARGV[6] then
  local handed = ARGV[7] == '1' and string.sub(value, 49, 64) == ARGV[5]
  if handed or string.sub(value, 17, 32) == ARGV[5] then return {1, value} end
end
if redis.call('SET', KEYS[3], ARGV[1] .. epoch, 'NX', 'PX', ARGV[2]) then return {2} end
return {3}
"""

_COMMIT = """
local lease = redis.call('GET', KEYS[3])
if not lease or string.sub(lease, 1, #ARGV[1]) ~= ARGV[1] then
  local value = redis.call('GET', KEYS[1])
  if value and string.sub(value, 33, 48) == ARGV[3] then return string.sub(value, 1, 16) end
  return false
end
redis.call('DEL', KEYS[3])
local epoch = string.sub(lease, #ARGV[1] + 1)
if redis.call('GET', KEYS[2]) ~= epoch then return false end
redis.call('SET', KEYS[1], epoch .. ARGV[2], 'PX', ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
return epoch
"""

_PUT = """
local epoch = redis.call('GET', KEYS[2])
if not epoch then epoch = ARGV[1] redis.call('SET', KEYS[2], epoch) end
redis.call('PEXPIRE', KEYS[2], ARGV[4])
redis.call('SET', KEYS[1], epoch .. ARGV[2], 'PX', ARGV[3])
return epoch
"""

_RELEASE = """
local lease = redis.call('GET', KEYS[1])
if lease and string.sub(lease, 1, #ARGV[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""

_REMOVE = """
if redis.call('GETRANGE', KEYS[1], 32, 47) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""

_RESTAMP = """
local head = redis.call('GETRANGE', KEYS[1], 0, 47)
local epoch = redis.call('GET', KEYS[2])
if not epoch or string.sub(head, 1, 16) ~= epoch or string.sub(head, 33, 48) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], epoch .. ARGV[2], 'KEEPTTL')
return 1
"""

_ASK = """
local count = redis.call('SCARD', KEYS[1])
if count >= tonumber(ARGV[2]) then return count end
if ARGV[4] == '0' then return count + 1 - redis.call('SISMEMBER', KEYS[1], ARGV[1]) end
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return redis.call('SCARD', KEYS[1])
"""

_ANNOUNCE = """
if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[4]) then redis.call('DEL', KEYS[1]) end
local turn = redis.call('HINCRBY', KEYS[1], '#', 1)
redis.call('HSET', KEYS[1], ARGV[1], struct.pack('>I8', turn) .. ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {turn, redis.call('HGETALL', KEYS[1])}
"""

_COUNT = """
if redis.call('GETRANGE', KEYS[1], 32, 47) == ARGV[1] then return 1 end
return 0
"""


@dataclass(frozen=True, slots=True)
class Found:
    """What stands at an address."""

    stored: Stored | None
    epoch: bytes
    """Of the scope; empty when it has no entries at all."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A question that somebody answers at this moment."""

    address: Address
    turn: int
    """Order of announcement."""
    basis_digest: bytes
    question: str
    vector: Vectors
    ends: float
    """When its lease ends by itself, in Unix seconds."""


@dataclass(frozen=True, slots=True)
class Leased:
    """The right to answer was given."""


@dataclass(frozen=True, slots=True)
class Held:
    """Somebody else has the right to answer."""


@dataclass(frozen=True, slots=True)
class Purged:
    """What a removal by owner came to."""

    removed: int
    remaining: int
    """Entries that a recount still found."""


class EntryStore:
    """Entries, leases and epochs of all scopes."""

    def __init__(self, cache: Cache, *, longest_life: float, longest_lease: float, concurrency: int) -> None:
        """Args:
        cache: The client.
        longest_life: Longest life of an entry, in seconds.
        longest_lease: Longest time of a lease, in seconds.
        concurrency: Uses of Redis at once; more wait here, where their time limit does not run yet.
        """
        self._cache = cache
        self._life_ms = int(longest_life * 1000)
        # An epoch outlives every entry and every lease that carries it.
        self._epoch_ms = int((longest_life + longest_lease) * 2000)
        self._slots = asyncio.Semaphore(concurrency)

    async def read(self, address: Address) -> Found:
        """Returns the entry of a question, unless its scope was emptied since."""

        async def command(client: redis.asyncio.Redis) -> Any:
            return await client.mget(address.entry_key, address.scope.epoch_key)

        value, epoch = await self._run(command)
        stored = Row(value).decode() if value and epoch and value[:PART] == epoch else None
        return Found(stored, epoch or b"")

    async def read_rows(self, partition: Partition, digests: Sequence[str]) -> tuple[bytes, dict[str, Row | None]]:
        """Returns the scope's epoch now, and the rows of some entries; None for one that is gone."""
        keys = [partition.scope.epoch_key, *map(partition.entry_key, digests)]

        async def command(client: redis.asyncio.Redis) -> Any:
            return await client.mget(keys)

        epoch, *values = await self._run(command)
        rows = (Row(value) if value else None for value in values)
        return epoch or b"", dict(zip(digests, rows, strict=True))

    async def take(
        self, address: Address, basis_digest: bytes, *, token: str, seconds: float, rejected: str, waited: bool
    ) -> Stored | Leased | Held:
        """Takes the right to answer, unless there is an entry on that basis now or somebody has the right.

        Args:
            address: The question.
            basis_digest: State of memory that the answer will rest on.
            token: Proves the right later.
            seconds: Until it ends by itself.
            rejected: Id of an entry that was found and will not do; empty for none.
            waited: Whether the caller waited for another's answer, and so may have that answer.
        """
        keys = (address.entry_key, address.scope.epoch_key, address.lease_key(basis_digest))
        arguments = (
            token,
            int(seconds * 1000),
            secrets.token_bytes(PART),
            self._epoch_ms,
            basis_digest,
            id_bytes(rejected) if rejected else b"",
            int(waited),
        )
        answer = await self._eval(_TAKE, keys, arguments)
        if answer[0] == 1:
            found = Row(answer[1]).decode()
            if found is None:
                raise CacheDown("an entry cannot be read")
            return found
        return Leased() if answer[0] == 2 else Held()

    async def pending(self, address: Address, basis_digest: bytes) -> bool:
        """Returns whether somebody has the right to answer."""

        async def command(client: redis.asyncio.Redis) -> Any:
            return await client.exists(address.lease_key(basis_digest))

        return bool(await self._run(command))

    async def commit(
        self, address: Address, token: str, stored: Stored, *, owners: Sequence[tuple[str, str]]
    ) -> bytes | None:
        """Stores the answer of the one who has the right, and ends the right.

        Args:
            address: The question.
            token: Proves the right.
            stored: The entry, whose `expire_time` is set.
            owners: (kind, name) of everybody by whom it can be removed.

        Returns:
            The scope's epoch; None when the right had ended, or its scope was emptied meanwhile.
        """
        keys = (address.entry_key, address.scope.epoch_key, address.lease_key(stored.acquired_digest))
        entry_id = id_bytes(stored.entry.entry_id)
        arguments = (token, encode(stored), entry_id, _life_ms(stored.entry), self._epoch_ms)
        epoch: bytes | None = await self._write(address, stored.entry.entry_id, owners, _COMMIT, keys, arguments)
        return epoch

    async def put(self, address: Address, stored: Stored, *, owners: Sequence[tuple[str, str]]) -> bytes:
        """Stores an answer without a lease; returns the scope's epoch. Arguments as for `commit`."""
        keys = (address.entry_key, address.scope.epoch_key)
        arguments = (secrets.token_bytes(PART), encode(stored), _life_ms(stored.entry), self._epoch_ms)
        epoch: bytes = await self._write(address, stored.entry.entry_id, owners, _PUT, keys, arguments)
        return epoch

    async def restamp(self, address: Address, stored: Stored) -> bool:
        """Writes an entry again that was found to hold on another basis; False when it is gone or emptied."""
        keys = (address.entry_key, address.scope.epoch_key)
        return bool(await self._eval(_RESTAMP, keys, (id_bytes(stored.entry.entry_id), encode(stored))))

    async def count_asker(self, address: Address, user: str, enough: int, *, counts: bool = True) -> int:
        """Returns how many different users asked, this one included, up to `enough`; keeps that this one did."""
        arguments = (name_hash(user), enough, self._life_ms, int(counts))
        return int(await self._eval(_ASK, (address.askers_key,), arguments))

    async def announce(self, partition: Partition, pending: Pending, seconds: float) -> tuple[int, list[Pending]]:
        """Says that a question is being answered; returns its turn, and what else is."""
        arguments = (pending.address.digest, _pack_pending(pending), int(seconds * 1000), _MOST_PENDING)
        turn, flat = await self._eval(_ANNOUNCE, (partition.key(_PENDING),), arguments)
        others = zip(flat[::2], flat[1::2], strict=True)
        try:
            found = [
                _unpack_pending(pending.address.scope, name.decode(), value) for name, value in others if name != b"#"
            ]
        except (ValueError, struct.error, zlib.error) as error:
            raise CacheDown("a pending question cannot be read") from error
        return int(turn), [other for other in found if other.turn != turn and other.ends > time.time()]

    async def withdraw(self, partition: Partition, address: Address) -> None:
        """Takes back what `announce` said."""

        async def command(client: redis.asyncio.Redis) -> Any:
            return await client.hdel(partition.key(_PENDING), address.digest)

        await self._run(command)

    async def release(self, address: Address, lease_digest: bytes, token: str) -> None:
        """Ends the right to answer, if the token still has it."""
        await self._eval(_RELEASE, (address.lease_key(lease_digest),), (token,))

    async def empty(self, scope: Scope) -> None:
        """Makes all entries of a scope unservable at once, and those that are being made now."""

        async def command(client: redis.asyncio.Redis) -> Any:
            return await client.set(scope.epoch_key, secrets.token_bytes(PART), px=self._epoch_ms)

        await self._run(command)

    async def find(self, tenant: str, entry_id: str) -> Address | None:
        """Returns where an entry lives, by its id; None when it is gone."""

        async def command(client: redis.asyncio.Redis) -> Any:
            return await client.get(id_key(tenant, entry_id))

        packed = await self._run(command)
        return unpack_address(tenant, packed)[0] if packed else None

    async def remove(self, address: Address, entry_id: str) -> bool:
        """Removes one entry; False when another or none stands in its place."""
        return bool(await self._eval(_REMOVE, (address.entry_key,), (id_bytes(entry_id),)))

    async def remove_owned(self, tenant: str, kind: str, name: str) -> Purged:
        """Removes all entries of an agent, a user or an author, and counts what is left of them."""
        key = owned_key(tenant, kind, name)

        async def listed(client: redis.asyncio.Redis) -> Any:
            return await client.zrange(key, 0, -1)

        members = [unpack_address(tenant, packed) for packed in await self._run(listed, within=_BULK_SECONDS)]
        removed = remaining = 0
        for start in range(0, len(members), _CHUNK):
            chunk = members[start : start + _CHUNK]
            removed += sum(await self._each(_REMOVE, chunk))
            remaining += sum(await self._each(_COUNT, chunk))
        if not remaining:
            await self._run(lambda client: client.delete(key))
        return Purged(removed, remaining)

    async def _each(self, script: str, members: Sequence[tuple[Address, str]]) -> list[int]:
        async def command(client: redis.asyncio.Redis) -> Any:
            pipeline = client.pipeline(transaction=False)
            for address, entry_id in members:
                pipeline.eval(script, 1, address.entry_key, id_bytes(entry_id))
            return await pipeline.execute()

        counts: list[int] = await self._run(command, within=_BULK_SECONDS)
        return counts

    async def _write(
        self,
        address: Address,
        entry_id: str,
        owners: Sequence[tuple[str, str]],
        script: str,
        keys: Sequence[str],
        arguments: Sequence[Any],
    ) -> Any:
        """Writes where the entry can be found, and then the entry: so that what is served can be removed."""
        tenant, packed = address.scope.tenant, pack_address(address, entry_id)
        now = time.time()

        async def command(client: redis.asyncio.Redis) -> Any:
            pipeline = client.pipeline(transaction=False)
            pipeline.set(id_key(tenant, entry_id), packed, px=self._life_ms)
            for kind, name in owners:
                key = owned_key(tenant, kind, name)
                pipeline.zadd(key, {packed: now + self._life_ms / 1000})
                pipeline.zremrangebyscore(key, "-inf", now)
                pipeline.pexpire(key, self._life_ms)
            pipeline.eval(script, len(keys), *keys, *arguments)
            return (await pipeline.execute())[-1]

        return await self._run(command)

    async def _eval(self, script: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        async def command(client: redis.asyncio.Redis) -> Any:
            return await client.eval(script, len(keys), *keys, *arguments)

        return await self._run(command)

    async def _run(self, command: Callable[[redis.asyncio.Redis], Awaitable[T]], *, within: float | None = None) -> T:
        async with self._slots:
            return await self._cache.run(command, within=within)


def _life_ms(entry: pb.CacheEntry) -> int:
    left = entry.expire_time.ToMilliseconds() - int(time.time() * 1000)
    return max(1, left)


def pack_address(address: Address, entry_id: str) -> bytes:
    """Returns an entry's place as bytes, which say nothing of its tenant."""
    scope = address.scope
    return json.dumps([scope.agent_id, scope.user_id, address.digest, entry_id], ensure_ascii=False).encode()


def unpack_address(tenant: str, packed: bytes) -> tuple[Address, str]:
    """Returns an entry's place and id."""
    agent_id, user_id, digest, entry_id = json.loads(packed)
    return Address(Scope(tenant, agent_id, user_id), digest), entry_id


def _pack_pending(pending: Pending) -> bytes:
    """What follows the turn, which the server puts in front."""
    vector = pending.vector.astype("<f2").tobytes()
    question = zlib.compress(pending.question.encode(), _COMPRESSION)
    return struct.pack("<dH", pending.ends, len(vector)) + pending.basis_digest + vector + question


def _unpack_pending(scope: Scope, digest: str, value: bytes) -> Pending:
    (turn,) = struct.unpack_from(">Q", value)
    ends, length = struct.unpack_from("<dH", value, 8)
    start = 18 + PART
    return Pending(
        Address(scope, digest),
        turn=turn,
        basis_digest=value[18:start],
        question=zlib.decompress(value[start + length :]).decode(),
        vector=np.frombuffer(value, dtype="<f2", count=length // 2, offset=start).astype(np.float32),
        ends=ends,
    )
