"""Entries and leases in Redis, which may lose any of them at any moment.

An entry's value is its scope's epoch, the digest of its basis, its id, the digest of the basis with which the right to
answer was taken (16 bytes each), and the compressed message. The epoch is random and an entry without it is not served,
so a scope is emptied by one write, and a lost epoch can only hide entries, never bring removed ones back.

Every method raises CacheDown when Redis does not answer.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
import zlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import redis.asyncio
from google.protobuf.message import DecodeError

from mneme.runtime.redis import Cache, CacheDown
from mneme.semantic_cache.addresses import Address, Scope, id_key, owned_key
from mneme.semantic_cache.v1 import semantic_cache_pb2 as pb

T = TypeVar("T")

_PART = 16
_HEADER = 4 * _PART
_CHUNK = 200
_BULK_SECONDS = 5.0
_COMPRESSION = 1

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
  if value and string.sub(value, 33, 48) == ARGV[3] then return 1 end
  return 0
end
redis.call('DEL', KEYS[3])
local epoch = string.sub(lease, #ARGV[1] + 1)
if redis.call('GET', KEYS[2]) ~= epoch then return 0 end
redis.call('SET', KEYS[1], epoch .. ARGV[2], 'PX', ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
return 1
"""

_PUT = """
local epoch = redis.call('GET', KEYS[2])
if not epoch then epoch = ARGV[1] redis.call('SET', KEYS[2], epoch) end
redis.call('PEXPIRE', KEYS[2], ARGV[4])
redis.call('SET', KEYS[1], epoch .. ARGV[2], 'PX', ARGV[3])
return 1
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

_COUNT = """
if redis.call('GETRANGE', KEYS[1], 32, 47) == ARGV[1] then return 1 end
return 0
"""


@dataclass(frozen=True, slots=True)
class Stored:
    """An entry that was found."""

    entry: pb.CacheEntry
    basis_digest: bytes
    """Digest of the basis it rests on."""
    acquired_digest: bytes
    """Digest of the basis with which the right to answer was taken: that of all who waited for the answer."""


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

    async def read(self, address: Address) -> Stored | None:
        """Returns the entry of a question; None when there is none, or its scope was emptied."""

        async def command(client: redis.asyncio.Redis) -> Any:
            return await client.mget(address.entry_key, address.scope.epoch_key)

        value, epoch = await self._run(command)
        return _decode(value) if value and epoch and value[:_PART] == epoch else None

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
            secrets.token_bytes(_PART),
            self._epoch_ms,
            basis_digest,
            _id_bytes(rejected) if rejected else b"",
            int(waited),
        )
        answer = await self._eval(_TAKE, keys, arguments)
        if answer[0] == 1:
            found = _decode(answer[1])
            if found is None:
                raise CacheDown("an entry cannot be read")
            return found
        return Leased() if answer[0] == 2 else Held()

    async def pending(self, address: Address, basis_digest: bytes) -> bool:
        """Returns whether somebody has the right to answer."""

        async def command(client: redis.asyncio.Redis) -> Any:
            return await client.exists(address.lease_key(basis_digest))

        return bool(await self._run(command))

    async def commit(self, address: Address, token: str, stored: Stored, *, owners: Sequence[tuple[str, str]]) -> bool:
        """Stores the answer of the one who has the right, and ends the right.

        Args:
            address: The question.
            token: Proves the right.
            stored: The entry, whose `expire_time` is set.
            owners: (kind, name) of everybody by whom it can be removed.

        Returns:
            False when the right had ended, or its scope was emptied meanwhile.
        """
        keys = (address.entry_key, address.scope.epoch_key, address.lease_key(stored.acquired_digest))
        value, milliseconds = _encode(stored), _life_ms(stored.entry)
        arguments = (token, value, value[_PART : 2 * _PART], milliseconds, self._epoch_ms)
        return bool(await self._write(address, stored.entry.entry_id, owners, _COMMIT, keys, arguments))

    async def put(self, address: Address, stored: Stored, *, owners: Sequence[tuple[str, str]]) -> None:
        """Stores an answer without a lease; arguments as for `commit`."""
        keys = (address.entry_key, address.scope.epoch_key)
        arguments = (secrets.token_bytes(_PART), _encode(stored), _life_ms(stored.entry), self._epoch_ms)
        await self._write(address, stored.entry.entry_id, owners, _PUT, keys, arguments)

    async def release(self, address: Address, lease_digest: bytes, token: str) -> None:
        """Ends the right to answer, if the token still has it."""
        await self._eval(_RELEASE, (address.lease_key(lease_digest),), (token,))

    async def empty(self, scope: Scope) -> None:
        """Makes all entries of a scope unservable at once, and those that are being made now."""

        async def command(client: redis.asyncio.Redis) -> Any:
            return await client.set(scope.epoch_key, secrets.token_bytes(_PART), px=self._epoch_ms)

        await self._run(command)

    async def find(self, tenant: str, entry_id: str) -> Address | None:
        """Returns where an entry lives, by its id; None when it is gone."""

        async def command(client: redis.asyncio.Redis) -> Any:
            return await client.get(id_key(tenant, entry_id))

        packed = await self._run(command)
        return _unpack_address(tenant, packed)[0] if packed else None

    async def remove(self, address: Address, entry_id: str) -> bool:
        """Removes one entry; False when another or none stands in its place."""
        return bool(await self._eval(_REMOVE, (address.entry_key,), (_id_bytes(entry_id),)))

    async def remove_owned(self, tenant: str, kind: str, name: str) -> Purged:
        """Removes all entries of an agent, a user or an author, and counts what is left of them."""
        key = owned_key(tenant, kind, name)

        async def listed(client: redis.asyncio.Redis) -> Any:
            return await client.zrange(key, 0, -1)

        members = [_unpack_address(tenant, packed) for packed in await self._run(listed, within=_BULK_SECONDS)]
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
                pipeline.eval(script, 1, address.entry_key, _id_bytes(entry_id))
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
        tenant, packed = address.scope.tenant, _pack_address(address, entry_id)
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


def _encode(stored: Stored) -> bytes:
    """The value without its epoch, which the server adds."""
    message = zlib.compress(stored.entry.SerializeToString(), _COMPRESSION)
    return stored.basis_digest + _id_bytes(stored.entry.entry_id) + stored.acquired_digest + message


def _decode(value: bytes) -> Stored | None:
    try:
        entry = pb.CacheEntry.FromString(zlib.decompress(value[_HEADER:]))
    except (zlib.error, DecodeError):
        return None
    return Stored(entry, value[_PART : 2 * _PART], value[3 * _PART : _HEADER])


def _id_bytes(entry_id: str) -> bytes:
    """The 16 bytes behind an id of ours; zeros, which no entry has, for any other text."""
    try:
        raw = bytes.fromhex(entry_id.removeprefix("entry-"))
    except ValueError:
        return bytes(_PART)
    return raw if len(raw) == _PART else bytes(_PART)


def _life_ms(entry: pb.CacheEntry) -> int:
    left = entry.expire_time.ToMilliseconds() - int(time.time() * 1000)
    return max(1, left)


def _pack_address(address: Address, entry_id: str) -> bytes:
    scope = address.scope
    return json.dumps([scope.agent_id, scope.user_id, address.digest, entry_id], ensure_ascii=False).encode()


def _unpack_address(tenant: str, packed: bytes) -> tuple[Address, str]:
    agent_id, user_id, digest, entry_id = json.loads(packed)
    return Address(Scope(tenant, agent_id, user_id), digest), entry_id
