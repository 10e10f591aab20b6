"""What a tenant's entries are worth, so that the least worthy go when they take more than the tenant's quota.

Worth is (tokens saved x uses) / bytes. Optimal eviction is NP-hard, frequency a strong base (arXiv 2603.03301).
It is kept apart from the entries, in the tenant's own slot: it may be off by what ended or was removed meanwhile, which
costs an entry its place a little early, never an answer its truth.
"""

from __future__ import annotations

import time
from typing import Any

import redis.asyncio

from mneme.runtime.redis import Cache
from mneme.semantic_cache.addresses import worth_key

_FAMILIES = ("worth", "ends", "sizes", "total")

_KEEP = """
local total = tonumber(redis.call('GET', KEYS[4]) or '0')
local function forget(member)
  total = total - tonumber(redis.call('HGET', KEYS[3], member) or '0')
  redis.call('HDEL', KEYS[3], member)
  redis.call('ZREM', KEYS[2], member)
  redis.call('ZREM', KEYS[1], member)
end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[2], 'LIMIT', 0, 200)) do forget(member) end
forget(ARGV[1])
redis.call('ZADD', KEYS[1], ARGV[5], ARGV[1])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
redis.call('HSET', KEYS[3], ARGV[1], ARGV[4])
total = total + tonumber(ARGV[4])
local evicted = {}
while total > tonumber(ARGV[6]) do
  local least = redis.call('ZRANGE', KEYS[1], 0, 0)[1]
  if not least then total = 0 break end
  forget(least)
  evicted[#evicted + 1] = least
end
redis.call('SET', KEYS[4], total)
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[7]) end
return evicted
"""


class WorthStore:
    """Bytes and worth of the entries of all tenants."""

    def __init__(self, cache: Cache, *, longest_life: float, tenant_bytes: int) -> None:
        """Args:
        cache: The client.
        longest_life: Longest life of an entry, in seconds.
        tenant_bytes: Most bytes of one tenant's entries.
        """
        self._cache = cache
        self._life_ms = int(longest_life * 1000)
        self._tenant_bytes = tenant_bytes

    async def keep(self, tenant: str, entry_id: str, *, ends: float, size: int, worth: float) -> list[str]:
        """Counts an entry that was stored; returns the ids of those that must go for it, maybe its own.

        Args:
            tenant: Whose it is.
            entry_id: Its id.
            ends: When it ends, in Unix seconds.
            size: Bytes it takes.
            worth: Tokens saved by one use, by byte.

        Raises:
            CacheDown: Redis does not answer.
        """
        keys = [worth_key(tenant, family) for family in _FAMILIES]
        arguments = (entry_id, time.time(), ends, size, worth, self._tenant_bytes, self._life_ms)

        async def command(client: redis.asyncio.Redis) -> Any:
            return await client.eval(_KEEP, len(keys), *keys, *arguments)

        return [member.decode() for member in await self._cache.run(command)]

    async def used(self, tenant: str, gains: dict[str, float]) -> None:
        """Raises the worth of entries, by id, that were served; those that are gone stay gone. Raises CacheDown."""
        key = worth_key(tenant, _FAMILIES[0])

        async def command(client: redis.asyncio.Redis) -> None:
            pipeline = client.pipeline(transaction=False)
            for entry_id, gain in gains.items():
                pipeline.zadd(key, {entry_id: gain}, xx=True, incr=True)
            await pipeline.execute()

        await self._cache.run(command)
