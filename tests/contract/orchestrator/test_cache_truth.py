"""Whatever is edited, asked and lost in between, at whichever replica: no answer is stale, and none is another user's.

The model of these tests quotes all marks that it sees in memory, so an answer tells exactly what it was made from.
"""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from dataclasses import dataclass, field

import pytest
import redis.asyncio as redis

from mneme.archival.v1 import archival_pb2
from mneme.archival.v1.archival_pb2_grpc import ArchivalServiceStub
from mneme.common.v1 import common_pb2
from mneme.core_memory.v1 import core_memory_pb2
from mneme.core_memory.v1.core_memory_pb2_grpc import CoreMemoryServiceStub
from mneme.orchestrator.models.port import ModelOutput, ModelRequest
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.settings import OrchestratorSettings
from tests.contract.orchestrator.scripted import ScriptedModel, Talk, open_talk, request_id, says, texts
from tests.contract.orchestrator.test_one_answer_for_many import through
from tests.contract.orchestrator.test_shared_answers import (
    QUESTION,
    add_block,
    add_passage,
    append,
    hit,
    is_public,
    knowledge_base,
    with_user,
)
from tests.support.suite import Serve, Suite

# Patient with a busy machine: a miss for lack of time proves nothing here.
PATIENT = OrchestratorSettings(cache_timeout=10.0, lease_renew=0.3, lease_seconds=2.0)
SEQUENCES = int(os.environ.get("SOAK_N", "4"))
SEED = int(os.environ.get("SOAK_SEED", "20"))
STEPS = 30
MOST_PASSAGES = 7
MARK = re.compile(r"\b(?:ANN|BOB|HOUSE|NOTES|KB)-\d+\b")
QUESTIONS = (QUESTION, "Which lamps can be returned?")
USERS = ("ann", "bob")


def quoting(request: ModelRequest) -> ModelOutput:
    """All marks of memory: of a public prompt those of passages too, of any other none from earlier messages."""
    seen = [part.text for part in request.system]
    if is_public(request):
        seen += [turn.text for turn in request.turns]
    return says(" ".join(sorted(set(MARK.findall("\n".join(seen))))) or "nothing")


@dataclass
class World:
    """An agent, its memory as it is, and its users' conversations."""

    policy: pb.CachePolicy.ValueType
    talks: dict[str, Talk]
    blocks: dict[str, str]
    knowledge_base_id: str
    marks: dict[str, set[str]] = field(
        default_factory=lambda: {"HOUSE": set(), "NOTES": set(), "ANN": set(), "BOB": set()}
    )
    passages: dict[str, str] = field(default_factory=dict)
    """Mark of each passage."""
    number: int = 0
    served: Counter[str] = field(default_factory=Counter)

    def mark(self, kind: str) -> str:
        """A mark that was never used."""
        self.number += 1
        return f"{kind}-{self.number}"

    def truth(self, user: str) -> set[str]:
        """What the right answer to this user quotes."""
        if self.policy == pb.CACHE_POLICY_SHARED:
            return self.marks["HOUSE"] | set(self.passages.values())
        return self.marks["HOUSE"] | self.marks["NOTES"] | self.marks[user.upper()]


async def world(suite: Suite, policy: pb.CachePolicy.ValueType) -> World:
    """A new agent with two users."""
    talk = await open_talk(suite, agent=pb.Agent(cache_policy=policy))
    blocks = {
        "HOUSE": await add_block(talk, "house", "-", common_pb2.BLOCK_VISIBILITY_SHARED),
        "NOTES": await add_block(talk, "notes", "-", common_pb2.BLOCK_VISIBILITY_PRIVATE),
    }
    return World(policy, {user: await with_user(talk, user) for user in USERS}, blocks, await knowledge_base(talk))


async def edit_block(here: World, chance: random.Random) -> None:
    kind = chance.choice(("HOUSE", "NOTES"))
    mark = here.mark(kind)
    await append(here.talks["ann"], here.blocks[kind], mark)
    here.marks[kind].add(mark)


async def edit_own_block(here: World, chance: random.Random) -> None:
    user = chance.choice(USERS)
    mark, talk = here.mark(user.upper()), here.talks[user]
    label = core_memory_pb2.AgentLabel(agent_id=talk.agent_id, label="human", user_id=user)
    await talk.suite.stub(CoreMemoryServiceStub).AppendText(
        core_memory_pb2.AppendTextRequest(
            request_id=request_id(), ref=core_memory_pb2.BlockRef(agent_label=label), text=mark
        )
    )
    here.marks[user.upper()].add(mark)


async def edit_knowledge(here: World, chance: random.Random) -> None:
    talk = here.talks["ann"]
    if here.passages and (len(here.passages) >= MOST_PASSAGES or chance.random() < 0.4):
        passage_id = chance.choice(sorted(here.passages))
        await talk.suite.stub(ArchivalServiceStub).DeletePassage(
            archival_pb2.DeletePassageRequest(request_id=request_id(), passage_id=passage_id)
        )
        del here.passages[passage_id]
        return
    mark = here.mark("KB")
    text = f"Lamps of line {mark} can be returned by a customer."
    here.passages[await add_passage(talk, here.knowledge_base_id, text)] = mark


async def play(replicas: tuple[Suite, Suite], store: redis.Redis, here: World, chance: random.Random) -> None:
    """Does one thing of all that may happen."""
    what = chance.random()
    if what < 0.1:
        await edit_block(here, chance)
    elif what < 0.2:
        await edit_own_block(here, chance)
    elif what < 0.3:
        await edit_knowledge(here, chance)
    elif what < 0.33:
        await store.flushall()
    elif what < 0.38:
        await here.talks[chance.choice(USERS)].send("I have bought another lamp.")
    else:
        user, question = chance.choice(USERS), chance.choice(QUESTIONS)
        events = await through(chance.choice(replicas), here.talks[user]).send(question)
        assert set(MARK.findall(texts(events)[0])) == here.truth(user), question
        here.served["hit" if hit(events) else "miss"] += 1


async def play_all(serve: Serve, redis_url: str, sequences: int) -> None:
    replicas = (await serve(data_dir=None, orchestrator=PATIENT), await serve(data_dir=None, orchestrator=PATIENT))
    served: Counter[tuple[int, str]] = Counter()
    async with redis.Redis.from_url(redis_url) as store:
        for sequence in range(sequences):
            chance = random.Random(SEED + sequence)
            policy = (pb.CACHE_POLICY_SHARED, pb.CACHE_POLICY_PER_USER)[sequence % 2]
            here = await world(replicas[0], policy)
            for _ in range(STEPS):
                await play(replicas, store, here, chance)
            served.update({(policy, kind): count for kind, count in here.served.items()})
    for policy in (pb.CACHE_POLICY_SHARED, pb.CACHE_POLICY_PER_USER):
        assert served[policy, "hit"], "a cache that never serves is never stale"
        assert served[policy, "miss"]


async def test_no_answer_is_ever_stale_or_another_users(model: ScriptedModel, serve: Serve, redis_url: str) -> None:
    model.script = quoting
    await play_all(serve, redis_url, 2)


@pytest.mark.soak
async def test_no_answer_is_ever_stale_or_another_users_for_long(
    model: ScriptedModel, serve: Serve, redis_url: str
) -> None:
    model.script = quoting
    await play_all(serve, redis_url, SEQUENCES)
