"""ForgetUser: after it, nothing that the user said or caused is left anywhere, and nothing new is accepted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import zlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import psycopg
import pytest
import redis.asyncio
from google.protobuf.struct_pb2 import Struct
from psycopg import sql

from mneme.archival.v1 import archival_pb2
from mneme.archival.v1.archival_pb2_grpc import ArchivalServiceStub
from mneme.common.v1 import common_pb2
from mneme.core_memory.v1 import core_memory_pb2
from mneme.core_memory.v1.core_memory_pb2_grpc import CoreMemoryServiceStub
from mneme.errors.v1 import errors_pb2
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.orchestrator.v1.orchestrator_pb2_grpc import AgentServiceStub
from mneme.recall.v1 import recall_pb2
from mneme.recall.v1.recall_pb2_grpc import RecallServiceStub
from mneme.runtime import ids
from mneme.runtime.errors import Error
from mneme.semantic_cache.v1 import semantic_cache_pb2
from mneme.semantic_cache.v1.semantic_cache_pb2_grpc import SemanticCacheServiceStub
from tests.contract.orchestrator.scripted import (
    ScriptedModel,
    Talk,
    calls,
    kinds,
    open_talk,
    refused,
    request_id,
    says,
    until,
)
from tests.support.suite import Suite

MARKER = "quillfeather"
KEPT = "marblewing"


@pytest.fixture
async def shared(scripted_suite: Suite) -> Talk:
    """Ann's conversation with an agent that serves everybody, and answers repeated questions from the cache."""
    made = await open_talk(scripted_suite, agent=pb.Agent(cache_policy=pb.CACHE_POLICY_PER_USER))
    return await _talk_of(made, "ann")


async def _talk_of(talk: Talk, user: str) -> Talk:
    name = f"{MARKER if user == 'ann' else KEPT} of {user}"
    metadata = Struct()
    metadata["note"] = name
    opened = await talk.suite.stub(AgentServiceStub, user=user).CreateConversation(
        pb.CreateConversationRequest(
            request_id=request_id(), agent_id=talk.agent_id, display_name=name, metadata=metadata
        )
    )
    return Talk(talk.suite, talk.agent_id, opened.conversation.conversation_id, user)


async def _live(model: ScriptedModel, talk: Talk, word: str) -> None:
    """Leaves the word wherever a user's words can get: messages, blocks, passages, cache, timers, dead letters."""
    suite, agents = talk.suite, talk.agents
    model.answers = [
        calls(
            ("core_memory_append", {"label": "human", "content": f"Likes {word}.", "request_heartbeat": True}),
            ("core_memory_append", {"label": "persona", "content": f"{word} amuses me.", "request_heartbeat": True}),
            ("archival_memory_insert", {"content": f"{word} was seen.", "request_heartbeat": True}),
        ),
        says(f"noted: {word}"),
    ]
    await talk.send(f"Remember {word}!")
    question = f"What is a {word}?"
    await talk.send(question)
    hit = next(e.cache_hit for e in await talk.send(question) if e.WhichOneof("event") == "cache_hit")
    cache = suite.stub(SemanticCacheServiceStub, user=talk.user)
    await cache.Feedback(
        semantic_cache_pb2.FeedbackRequest(
            request_id=request_id(),
            entry_id=hit.entry_id,
            verdict=semantic_cache_pb2.VERDICT_RIGHT,
            question=question,
        )
    )
    schedule = pb.Schedule()
    schedule.at.FromJsonString("2099-01-01T00:00:00Z")
    await agents.ScheduleEvent(
        pb.ScheduleEventRequest(
            request_id=request_id(), conversation_id=talk.conversation_id, text=f"ask for {word}", schedule=schedule
        )
    )
    model.answers = [Error(errors_pb2.REASON_PROVIDER_REFUSED, f"no {word} please")]
    assert kinds(await talk.send(f"{word} kills you"))[-1] == "failed"
    await _store_directly(talk, word)


async def _store_directly(talk: Talk, word: str) -> None:
    suite = talk.suite
    owner = archival_pb2.PassageOwner(agent_id=talk.agent_id)
    await suite.stub(ArchivalServiceStub).InsertPassage(
        archival_pb2.InsertPassageRequest(
            request_id=request_id(),
            owner=owner,
            passage=archival_pb2.Passage(
                text=f"{word} in the archive",
                user_id=talk.user,
                tags=[word],
                provenance=common_pb2.Provenance(reason=f"because {word}"),
            ),
        )
    )
    await suite.stub(RecallServiceStub).AppendMessages(
        recall_pb2.AppendMessagesRequest(
            request_id=request_id(),
            agent_id=talk.agent_id,
            conversation_id=ids.new("conversation"),
            user_id=talk.user,
            messages=[recall_pb2.Message(role=recall_pb2.ROLE_USER, text=f"{word} from elsewhere")],
        )
    )


async def _forget(suite: Suite, user: str, *, as_user: str = "") -> pb.Operation:
    stub = suite.stub(AgentServiceStub, user=as_user)
    operation = (await stub.ForgetUser(pb.ForgetUserRequest(request_id=request_id(), user_id=user))).operation
    assert operation.state == pb.OPERATION_STATE_DONE
    return operation


async def _indexed(owner_url: str) -> None:
    """Returns when no background work could still carry a word from one table to another."""

    async def idle() -> bool:
        async with await psycopg.AsyncConnection.connect(owner_url) as owner:
            queues = ("recall.index_queue", "archival.index_queue")
            found = [
                await (await owner.execute(sql.SQL("SELECT count(*) FROM {}").format(_table(one)))).fetchone()
                for one in queues
            ]
        return all(row == (0,) for row in found)

    await until(idle)


def _table(name: str) -> sql.Identifier:
    return sql.Identifier(*name.split("."))


async def _tables_with(owner_url: str, word: str) -> set[str]:
    """Tables of all schemas in which a row of tenant `acme` holds the word, as text or as bytes."""
    found = set()
    async with await psycopg.AsyncConnection.connect(owner_url) as owner:
        await owner.execute("SELECT set_config('app.tenant', 'acme', false)")
        names = await (
            await owner.execute(
                "SELECT schemaname, tablename FROM pg_tables"
                " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
            )
        ).fetchall()
        for schema, table in names:
            row = await (
                await owner.execute(
                    sql.SQL("SELECT count(*) FROM {} AS t WHERE t::text ILIKE %s OR t::text ILIKE %s").format(
                        sql.Identifier(schema, table)
                    ),
                    (f"%{word}%", f"%{word.encode().hex()}%"),
                )
            ).fetchone()
            if row != (0,):
                found.add(f"{schema}.{table}")
    return found


async def _redis_values(redis_url: str) -> AsyncIterator[tuple[bytes, Any]]:
    """Every key of the database with its whole value."""
    async with redis.asyncio.Redis.from_url(redis_url, decode_responses=False) as client:
        async for key in client.scan_iter():
            kind: Any = await client.type(key)
            read: dict[bytes, Any] = {
                b"string": lambda key=key: client.get(key),
                b"hash": lambda key=key: client.hgetall(key),
                b"set": lambda key=key: client.smembers(key),
                b"zset": lambda key=key: client.zrange(key, 0, -1),
                b"list": lambda key=key: client.lrange(key, 0, -1),
                b"stream": lambda key=key: client.xrange(key),
            }
            yield key, await read[kind]()


async def _redis_keys_with(redis_url: str, word: str) -> list[bytes]:
    return [key async for key, value in _redis_values(redis_url) if word.encode() in key + _readable(value)]


def _readable(value: Any) -> bytes:
    """All bytes in a value of Redis, and what they hold compressed."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if not isinstance(value, bytes):
        return b" ".join(_readable(one) for one in value) if hasattr(value, "__iter__") else str(value).encode()
    found = [value]
    for start in (match.start() for match in re.finditer(b"x", value)):
        with contextlib.suppress(zlib.error):
            found.append(zlib.decompressobj().decompress(value[start:]))
    return b" ".join(found)


async def test_nothing_of_a_forgotten_user_is_left(
    model: ScriptedModel, shared: Talk, owner_url: str, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "mneme")
    bob = await _talk_of(shared, "bob")
    own = await open_talk(shared.suite, user="ann", agent=pb.Agent(instructions=f"You look after {MARKER}."))
    await _live(model, shared, MARKER)
    await own.send(f"My own agent knows {MARKER}")
    await _live(model, bob, KEPT)
    await _indexed(owner_url)
    before = await _tables_with(owner_url, MARKER)
    assert {schema.split(".")[0] for schema in before} >= {"orchestrator", "core_memory", "recall", "archival"}
    assert await _redis_keys_with(redis_url, MARKER)

    operation = await _forget(shared.suite, "ann")

    assert all(count.remaining == 0 for step in operation.steps for count in step.counts), operation
    assert await _tables_with(owner_url, MARKER) == set()
    assert await _redis_keys_with(redis_url, MARKER) == []
    assert MARKER not in caplog.text
    kept = await _tables_with(owner_url, KEPT)
    assert {"recall.messages", "archival.agent_passages", "core_memory.block", "orchestrator.timer"} <= kept
    assert kinds(await bob.send("Are you still there?"))[-1] == "completed"
    gone = await refused(own.agents.GetAgent(pb.GetAgentRequest(agent_id=own.agent_id)))
    assert gone.reason == errors_pb2.REASON_NOT_FOUND


async def test_what_comes_late_for_a_forgotten_user_is_refused(model: ScriptedModel, shared: Talk) -> None:
    await shared.send("hello")
    await _forget(shared.suite, "ann", as_user="ann")
    suite, operator = shared.suite, shared.suite.stub(AgentServiceStub)
    late: list[Any] = [
        operator.CreateAgent(pb.CreateAgentRequest(request_id=request_id(), agent=pb.Agent(user_id="ann"))),
        operator.CreateConversation(
            pb.CreateConversationRequest(request_id=request_id(), agent_id=shared.agent_id, user_id="ann")
        ),
        operator.UpdateAgent(
            pb.UpdateAgentRequest(request_id=request_id(), agent_id=shared.agent_id, agent=pb.Agent(user_id="ann"))
        ),
        suite.stub(ArchivalServiceStub).InsertPassage(
            archival_pb2.InsertPassageRequest(
                request_id=request_id(),
                owner=archival_pb2.PassageOwner(agent_id=shared.agent_id),
                passage=archival_pb2.Passage(text="late", user_id="ann"),
            )
        ),
        suite.stub(RecallServiceStub).AppendMessages(
            recall_pb2.AppendMessagesRequest(
                request_id=request_id(),
                agent_id=shared.agent_id,
                conversation_id=ids.new("conversation"),
                user_id="ann",
                messages=[recall_pb2.Message(role=recall_pb2.ROLE_USER, text="late")],
            )
        ),
        suite.stub(CoreMemoryServiceStub).AppendText(
            core_memory_pb2.AppendTextRequest(
                request_id=request_id(),
                ref=core_memory_pb2.BlockRef(
                    agent_label=core_memory_pb2.AgentLabel(agent_id=shared.agent_id, label="human", user_id="ann")
                ),
                text="late",
            )
        ),
    ]
    for call in late:
        assert (await refused(call)).reason == errors_pb2.REASON_DELETED
    unknown = await refused(
        shared.agents.SendMessage(
            pb.SendMessageRequest(request_id=request_id(), conversation_id=shared.conversation_id, text="late")
        ).read()
    )
    assert unknown.reason == errors_pb2.REASON_NOT_FOUND


async def test_a_user_is_forgotten_while_speaking(
    model: ScriptedModel, shared: Talk, owner_url: str, redis_url: str
) -> None:
    held = asyncio.Event()
    begun = asyncio.Event()

    async def answer() -> Any:
        begun.set()
        await held.wait()
        return says(f"about {MARKER}")

    model.script = lambda _: answer()
    sending = [asyncio.create_task(shared.send(f"{MARKER} number {number}")) for number in range(5)]
    await begun.wait()
    forgetting = asyncio.create_task(_forget(shared.suite, "ann"))
    await asyncio.wait([forgetting])
    held.set()
    await asyncio.gather(*sending, return_exceptions=True)

    assert await _tables_with(owner_url, MARKER) == set()
    assert await _redis_keys_with(redis_url, MARKER) == []


async def test_an_agent_that_serves_others_too_stays(scripted_suite: Suite, model: ScriptedModel) -> None:
    ann = await open_talk(scripted_suite, user="ann")
    operator = scripted_suite.stub(AgentServiceStub)
    opened = await operator.CreateConversation(
        pb.CreateConversationRequest(request_id=request_id(), agent_id=ann.agent_id, user_id="bob")
    )
    bob = Talk(scripted_suite, ann.agent_id, opened.conversation.conversation_id)
    await bob.send("I stay")
    await _forget(scripted_suite, "ann")

    agent = (await operator.GetAgent(pb.GetAgentRequest(agent_id=ann.agent_id))).agent
    assert agent.user_id == ""
    assert "completed" in kinds(await bob.send("still here?"))


async def test_forgetting_is_repeated_safely_and_only_by_who_may(model: ScriptedModel, shared: Talk) -> None:
    await shared.send("hello")
    request = pb.ForgetUserRequest(request_id=request_id(), user_id="ann")
    other = await refused(shared.suite.stub(AgentServiceStub, user="bob").ForgetUser(request))
    assert other.code == grpc.StatusCode.PERMISSION_DENIED
    stub = shared.suite.stub(AgentServiceStub)
    first = (await stub.ForgetUser(request)).operation
    again = (await stub.ForgetUser(request)).operation
    once_more = await _forget(shared.suite, "ann")

    assert again.operation_id == first.operation_id
    assert again.state == pb.OPERATION_STATE_DONE
    assert all(count.removed == 0 for step in once_more.steps for count in step.counts), once_more
