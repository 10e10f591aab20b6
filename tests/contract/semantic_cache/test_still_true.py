"""Random interleavings of edits, writes to knowledge bases, look-ups, late commits, restarts and losses of Redis over
two replicas serve nothing stale or foreign.

Peers' complaint: answers outlive what they were made from (messkan/prompt-cache #8), and cross users
(BerriAI/litellm #29955).
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field

import pytest
import redis

from mneme.semantic_cache.v1 import semantic_cache_pb2 as pb
from tests.contract.semantic_cache.conftest import Asker, asker, key
from tests.contract.semantic_cache.peers import Peers, beside, with_vector
from tests.support.hosting import Replica

SEQUENCES, SEQUENCES_OF_A_SOAK_UNIT = 300, 500
STEPS = 12
RESTART_EVERY = 30
TENANTS = ("acme", "other")
USERS = ("", "ann")
QUESTIONS = {
    "How do I reset my password?": ("password", 0.99),
    "How can I reset my password?": ("password", 0.95),
    "What is the fee for 2 cards?": ("fee of 2", 0.99),
    "What is the fee for 3 cards?": ("fee of 3", 0.99),
}
"""What a question asks for, and how near its vector is to the one of its kind: those of the two fees are near too."""

Start = Callable[..., AbstractAsyncContextManager[Replica]]
Who = tuple[str, str]
"""Tenant and user."""


@dataclass
class Truth:
    """The state of what one user's answers are made from."""

    memory: int = 0
    knowledge: int = 0
    """Revision of the knowledge base."""
    content: int = 0
    """Revision at which something was written there that concerns the answers."""


@dataclass
class Leased:
    """A right to answer, with the answer made from what was true when it was given."""

    who: Who
    key: pb.CacheKey
    token: str
    answer: str


class Replicas:
    """Two replicas that are replaced by new ones now and then."""

    def __init__(self, start: Start, stack: AsyncExitStack) -> None:
        self._start = start
        self._stack = stack
        self._running: list[AsyncExitStack] = []
        self.askers: list[dict[str, Asker]] = []

    async def restart(self, number: int) -> None:
        """Replaces one, or starts the first ones."""
        own = AsyncExitStack()
        replica = await own.enter_async_context(self._start())
        askers = {tenant: await asker(replica, tenant=tenant) for tenant in TENANTS}
        self._stack.push_async_exit(own)
        if number < len(self._running):
            await self._running[number].aclose()
            self._running[number], self.askers[number] = own, askers
        else:
            self._running.append(own)
            self.askers.append(askers)


@dataclass
class World:
    """One agent, and everything that happens to it."""

    agent: str
    replicas: Replicas
    peers: Peers
    chance: random.Random
    truths: dict[Who, Truth] = field(default_factory=dict)
    leases: list[Leased] = field(default_factory=list)
    served: Counter[str] = field(default_factory=Counter)

    def pick(self) -> tuple[Who, str]:
        """Mostly one user and one kind of question, so that much happens to the same entries."""
        who = (TENANTS[0], USERS[0])
        if self.chance.random() < 0.3:
            who = (self.chance.choice(TENANTS), self.chance.choice(USERS))
        return who, self.chance.choice(list(QUESTIONS)[: self.chance.choice((2, 4))])

    def truth(self, who: Who) -> Truth:
        return self.truths.setdefault(who, Truth())

    def base(self, who: Who) -> str:
        return f"kb-{self.agent}-{'-'.join(who)}"

    def asker(self, who: Who) -> Asker:
        return self.chance.choice(self.replicas.askers)[who[0]]

    def asked(self, who: Who, question: str) -> pb.CacheKey:
        truth, (_, score) = self.truth(who), QUESTIONS[question]
        revisions = {"memory": truth.memory, self.base(who): truth.knowledge}
        asked = key(question, agent=self.agent, user=who[1], revisions=revisions)
        kind = "password" if "password" in question else "fee"
        return with_vector(asked, beside(kind, score))

    def right(self, who: Who, question: str) -> str:
        truth = self.truth(who)
        return f"{who}/{QUESTIONS[question][0]}/{truth.memory}/{truth.content}"

    def check(self, hit: pb.Hit, who: Who, question: str) -> None:
        assert hit.entry.answer == self.right(who, question)
        self.served[pb.Tier.Name(hit.tier)] += 1

    def edit(self) -> None:
        self.truth(self.pick()[0]).memory += 1

    def write(self) -> None:
        """To a knowledge base: of two writes, one concerns the answers made from it."""
        who, _ = self.pick()
        truth = self.truth(who)
        truth.knowledge += 1
        self.peers.revisions[self.base(who)] = truth.knowledge
        if self.chance.random() < 0.5:
            truth.content = truth.knowledge
            self.peers.concerned[self.base(who)] = truth.knowledge

    async def look_up(self) -> None:
        who, question = self.pick()
        response = await self.asker(who).look_up(self.asked(who, question))
        if response.HasField("hit"):
            self.check(response.hit, who, question)

    async def acquire(self) -> None:
        who, question = self.pick()
        asked = self.asked(who, question)
        outcome = await self.asker(who).acquire(asked)
        if outcome.HasField("hit"):
            self.check(outcome.hit, who, question)
        if outcome.HasField("lease"):
            self.leases.append(Leased(who, asked, outcome.lease.lease_token, self.right(who, question)))

    async def commit(self) -> None:
        """Some lease's answer, made from the memory at the time of the lease, however long ago."""
        if not self.leases:
            return
        lease = self.leases.pop(self.chance.randrange(len(self.leases)))
        used = pb.KnowledgeUse(knowledge_base_id=self.base(lease.who), passage_ids=["passage-1"], kth_score=0.5)
        entry = pb.CacheEntry(answer=lease.answer, knowledge=[used])
        request = pb.CommitRequest(lease_token=lease.token, key=lease.key, entry=entry)
        await self.asker(lease.who).stub.Commit(request)

    async def invalidate(self) -> None:
        who, _ = self.pick()
        scope = pb.CacheScope(agent_id=self.agent, user_id=who[1])
        await self.asker(who).stub.Invalidate(pb.InvalidateRequest(scope=scope))

    async def step(self, client: redis.Redis) -> None:
        number = self.chance.random()
        if number < 0.36:
            await self.look_up()
        elif number < 0.56:
            await self.acquire()
        elif number < 0.80:
            await self.commit()
        elif number < 0.87:
            self.edit()
        elif number < 0.95:
            self.write()
        elif number < 0.98:
            await self.invalidate()
        else:
            client.flushdb()


async def run(start: Start, peers: Peers, redis_url: str, sequences: int, seed: int) -> Counter[str]:
    """What was served, by tier, in so many sequences of their own seeds."""
    served: Counter[str] = Counter()
    async with AsyncExitStack() as stack:
        client = stack.enter_context(redis.Redis.from_url(redis_url))
        replicas = Replicas(start, stack)
        for number in range(2):
            await replicas.restart(number)
        for number in range(sequences):
            if number % RESTART_EVERY == RESTART_EVERY - 1:
                await replicas.restart(number // RESTART_EVERY % 2)
            world = World(f"agent-{seed + number}", replicas, peers, random.Random(seed + number))
            for _ in range(STEPS):
                await world.step(client)
            served += world.served
    served["checked"] = len(peers.checks)
    return served


@pytest.mark.timeout(300)  # ten seconds of one core, which a busy machine may not have
async def test_nothing_stale_or_foreign_is_ever_served(joined: Start, peers: Peers, redis_url: str) -> None:
    served = await run(joined, peers, redis_url, SEQUENCES, 0)
    assert served["TIER_EXACT"] > SEQUENCES / 10
    assert served["TIER_SEMANTIC"] > SEQUENCES / 30
    assert served["checked"] > SEQUENCES / 30


@pytest.mark.soak
async def test_nothing_stale_or_foreign_is_served_in_many_more_sequences(
    joined: Start, peers: Peers, redis_url: str
) -> None:
    units, seed = int(os.environ.get("SOAK_N", "20")), int(os.environ.get("SOAK_SEED", "1"))
    served = await run(joined, peers, redis_url, units * SEQUENCES_OF_A_SOAK_UNIT, seed * 1_000_000)
    print(f"seed {seed}: {units * SEQUENCES_OF_A_SOAK_UNIT} sequences, {dict(served)}")  # noqa: T201
    assert served["TIER_SEMANTIC"]
