"""Purges leave nothing, and nothing late brings it back; tenants never see each other."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from mneme.common.v1 import common_pb2
from mneme.recall.v1 import recall_pb2 as pb
from mneme.recall.v1.recall_pb2_grpc import RecallServiceStub
from mneme.runtime.db import Database
from tests.contract.recall.conftest import Writer, asks, request_id, result, texts, user
from tests.support.hosting import Replica, failure

if TYPE_CHECKING:
    from mneme.recall.v1.recall_pb2_grpc import RecallServiceAsyncStub


async def _purge(stub: RecallServiceAsyncStub, **subject: str) -> dict[str, tuple[int, int]]:
    request = pb.PurgeDataRequest(
        request_id=request_id(),
        subject=common_pb2.PurgeSubject(**subject),
        operation_id="operation-1",
    )
    counts = (await stub.PurgeData(request)).counts
    return {count.store: (count.removed, count.remaining) for count in counts}


def _tables_with(owner_url: str, marker: str) -> set[str]:
    """The tables of the schema in which a text occurs; the owner sees rows of one tenant at a time."""
    found = set()
    with psycopg.connect(owner_url) as connection:
        connection.execute("SELECT set_config('app.tenant', 'acme', false)")
        query = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'recall'"
        for (table,) in connection.execute(query).fetchall():
            rows = sql.SQL(
                "SELECT count(*) FROM {table} t WHERE position(%(marker)s IN lower(t::text)) > 0"
                " OR position(%(hex)s IN t::text) > 0"
            ).format(table=sql.Identifier("recall", table))
            row = connection.execute(rows, {"marker": marker, "hex": marker.encode().hex()}).fetchone()
            if row and row[0]:
                found.add(table)
    return found


async def test_a_purged_agent_leaves_only_its_tombstone(stub: RecallServiceAsyncStub, owner_url: str) -> None:
    gone = Writer(stub, "conversation-marker", agent_id="agent-marker", user_id="marker")
    await gone.append(user("markermarker text"), asks("call-marker"), result("call-marker", "marker"))
    await gone.evict(2, "marker summary")
    kept = Writer(stub)
    await kept.append(user("hello"))
    assert {"messages", "summary", "tool_call", "lexical_term", "request"} <= _tables_with(owner_url, "marker")

    counts = await _purge(stub, agent_id="agent-marker")
    assert counts["recall.messages"] == (3, 0)
    assert counts["recall.conversation"] == (1, 0)
    assert counts["recall.summary"] == (1, 0)
    assert counts["recall.lexical_document"] == (2, 0)
    assert all(remaining == 0 for _, remaining in counts.values())
    assert _tables_with(owner_url, "marker") == {"tombstone"}
    assert (await kept.words("hello")).total_count == 1
    error = await failure(gone.append(user("back again")))
    assert (error.reason_name, error.metadata) == ("DELETED", {"resource": "agent-marker"})
    assert (await _purge(stub, agent_id="agent-marker"))["recall.messages"] == (0, 0)


async def test_a_purged_user_is_forgotten_over_all_agents(stub: RecallServiceAsyncStub, owner_url: str) -> None:
    own = Writer(stub, user_id="marker")
    await own.append(user("I am markermarker"))
    group = Writer(stub, agent_id="agent-2")
    await group.append(user("hello"))
    group.user_id = "marker"
    await group.append(user("markermarker here"))
    await group.evict(3, "hello and marker")
    counts = await _purge(stub, user_id="marker")
    assert counts["recall.messages"] == (2, 0)
    assert _tables_with(owner_url, "marker") == {"tombstone"}
    window = await group.window()
    assert (window.summary, window.evicted_count, window.next_sequence) == ("", 1, 3)
    assert (await failure(group.append(user("late")))).reason_name == "DELETED"
    own.user_id = ""
    assert (await failure(own.append(user("late")))).reason_name == "DELETED"
    group.user_id = ""
    assert (await group.append(user("others go on"))).messages[0].sequence == 3


async def test_a_purged_conversation_is_gone_alone(stub: RecallServiceAsyncStub) -> None:
    gone, kept = Writer(stub), Writer(stub)
    await gone.append(user("giraffe"))
    await kept.append(user("giraffe"))
    await _purge(stub, conversation_id=gone.conversation_id)
    assert (await kept.words("giraffe")).total_count == 1
    assert (await failure(gone.append(user("late")))).reason_name == "DELETED"
    assert await gone.window() == pb.GetWindowResponse(next_sequence=1)


async def test_a_purge_waits_for_writes_that_missed_its_tombstone(writer: Writer, database: Database) -> None:
    """A write that began before the tombstone may commit after it; its rows must not survive the purge."""
    await writer.append(user("hello"))
    async with database.tenant("acme") as late:
        await late.execute(
            "UPDATE recall.conversation SET next_sequence = next_sequence + 1"
            " WHERE tenant_id = 'acme' AND conversation_id = %s",
            [writer.conversation_id],
        )
        purging = asyncio.create_task(_purge(writer.stub, agent_id=writer.agent_id))
        assert await asyncio.wait([purging], timeout=0.3) == (set(), {purging})
        await late.execute(
            "INSERT INTO recall.messages SELECT tenant_id, 'message-late', agent_id, conversation_id, user_id, 2, role,"
            " text, content, tool_calls, tool_call_id, tool_ok, created_at, step_id, run_id, token_count, provenance,"
            " hidden, index_state, speaker, kind, space, embedding FROM recall.messages WHERE tenant_id = 'acme'"
        )
    assert (await purging)["recall.messages"] == (2, 0)


async def test_a_purge_needs_a_subject(stub: RecallServiceAsyncStub) -> None:
    for subject in (common_pb2.PurgeSubject(), common_pb2.PurgeSubject(user_id="")):
        request = pb.PurgeDataRequest(request_id=request_id(), subject=subject)
        assert (await failure(stub.PurgeData(request))).violations[0].field == "subject"


async def test_tenants_with_the_same_ids_never_meet(replica: Replica, writer: Writer) -> None:
    other = Writer(
        await replica.stub(RecallServiceStub, tenant="globex", service="orchestrator"), writer.conversation_id
    )
    same = request_id()
    stored = await writer.append(user("giraffe of acme", message_id="message-same"), request=same)
    assert (await other.window()).next_sequence == 1
    await other.append(user("giraffe of globex", message_id="message-same"), request=same)
    for mine, text in ((writer, "giraffe of acme"), (other, "giraffe of globex")):
        await mine.indexed()
        assert [message.text for message in (await mine.window()).messages] == [text]
        assert [message.text for message in await mine.list()] == [text]
        for query in (
            {},
            {"text": pb.TextQuery(text="giraffe")},
            {"semantic": pb.SemanticQuery(text="giraffe")},
            {"hybrid": pb.HybridQuery(text="giraffe")},
        ):
            found = await mine.search(**query, neighbours=2)
            assert (texts(found), found.total_count) == ([text], 1)
            assert not found.results[0].neighbours
    await other.evict(2, "summary of globex")
    request = pb.DeleteMessagesRequest(
        request_id=request_id(), agent_id=other.agent_id, message_ids=[stored.messages[0].message_id]
    )
    await other.stub.DeleteMessages(request)
    await _purge(other.stub, agent_id=other.agent_id)
    window = await writer.window()
    assert (window.summary, [message.text for message in window.messages]) == ("", ["giraffe of acme"])
    got = await writer.stub.GetMessages(pb.GetMessagesRequest(agent_id=writer.agent_id, message_ids=["message-same"]))
    assert [message.text for message in got.messages] == ["giraffe of acme"]
