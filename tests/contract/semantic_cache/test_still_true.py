"""Random interleavings of edits, look-ups, late commits and losses over two replicas serve nothing stale or foreign."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import redis

from mneme.semantic_cache.service import build
from mneme.semantic_cache.v1 import semantic_cache_pb2 as pb
from tests.contract.semantic_cache.conftest import Asker, asker, key
from tests.support.hosting import Hosting

SEQUENCES = 25
STEPS = 60
TENANTS = ("acme", "other")
USERS = ("", "ann", "bob")
QUESTIONS = ("What is the fee?", "运费是多少？")


@dataclass
class World:
    """What is true: the revision of each user's memory, which names the only right answer."""

    agent: str
    replicas: dict[str, list[Asker]]
    chance: random.Random
    revisions: dict[tuple[str, str], int] = field(default_factory=dict)
    leases: list[tuple[str, str, str, int, str]] = field(default_factory=list)
    served: int = 0

    def pick(self) -> tuple[str, str, str]:
        return self.chance.choice(TENANTS), self.chance.choice(USERS), self.chance.choice(QUESTIONS)

    def replica(self, tenant: str) -> Asker:
        return self.chance.choice(self.replicas[tenant])

    def asked(self, user: str, question: str, revision: int) -> pb.CacheKey:
        return key(question, agent=self.agent, user=user, revisions={"memory": revision})

    def now(self, tenant: str, user: str) -> int:
        return self.revisions.get((tenant, user), 0)

    def edit(self) -> None:
        tenant, user, _ = self.pick()
        self.revisions[tenant, user] = self.now(tenant, user) + 1

    def check(self, entry: pb.CacheEntry, tenant: str, user: str, question: str) -> None:
        assert entry.answer == f"{tenant}/{user}/{question}/{self.now(tenant, user)}"
        self.served += 1

    async def look_up(self) -> None:
        tenant, user, question = self.pick()
        response = await self.replica(tenant).look_up(self.asked(user, question, self.now(tenant, user)))
        if response.HasField("hit"):
            self.check(response.hit.entry, tenant, user, question)

    async def acquire(self) -> None:
        tenant, user, question = self.pick()
        revision = self.now(tenant, user)
        outcome = await self.replica(tenant).acquire(self.asked(user, question, revision))
        if outcome.HasField("hit"):
            self.check(outcome.hit.entry, tenant, user, question)
        if outcome.HasField("lease"):
            self.leases.append((tenant, user, question, revision, outcome.lease.lease_token))

    async def commit(self) -> None:
        """Some lease's answer, made from the memory at the time of the lease, however long ago."""
        if not self.leases:
            return
        tenant, user, question, revision, token = self.leases.pop(self.chance.randrange(len(self.leases)))
        answer = f"{tenant}/{user}/{question}/{revision}"
        await self.replica(tenant).commit(self.asked(user, question, revision), token, answer)

    async def invalidate(self) -> None:
        tenant, user, _ = self.pick()
        scope = pb.CacheScope(agent_id=self.agent, user_id=user)
        await self.replica(tenant).stub.Invalidate(pb.InvalidateRequest(scope=scope))


@pytest.fixture
async def replicas(hosting: Hosting) -> AsyncIterator[dict[str, list[Asker]]]:
    """Two replicas, as seen by each tenant."""
    async with hosting.replica("semantic_cache", build) as one, hosting.replica("semantic_cache", build) as two:
        yield {tenant: [await asker(replica, tenant=tenant) for replica in (one, two)] for tenant in TENANTS}


async def test_nothing_stale_or_foreign_is_ever_served(replicas: dict[str, list[Asker]], redis_url: str) -> None:
    served = 0
    with redis.Redis.from_url(redis_url) as client:
        for seed in range(SEQUENCES):
            world = World(f"agent-{seed}", replicas, random.Random(seed))
            for _ in range(STEPS):
                step = world.chance.random()
                if step < 0.40:
                    await world.look_up()
                elif step < 0.60:
                    await world.acquire()
                elif step < 0.85:
                    await world.commit()
                elif step < 0.96:
                    world.edit()
                elif step < 0.98:
                    await world.invalidate()
                else:
                    client.flushdb()
            served += world.served
    assert served > SEQUENCES
