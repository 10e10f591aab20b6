"""Deletion of agents and users: nothing of theirs is left, and nothing late brings it back."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from mneme.common.v1 import common_pb2
from mneme.core_memory.v1 import core_memory_pb2 as pb
from mneme.errors.v1 import errors_pb2
from tests.contract.core_memory.conftest import AGENT, Memory, by_id, by_label, new_id
from tests.support.hosting import failure

MARKER = "marker-7f3a"


async def purge(agent: Memory, **subject: str) -> dict[str, tuple[int, int]]:
    """Purges a subject; returns what was removed and what remains, by table."""
    request = pb.PurgeDataRequest(request_id=new_id(), subject=common_pb2.PurgeSubject(**subject))
    response = await agent.stub.PurgeData(request)
    return {count.store: (count.removed, count.remaining) for count in response.counts}


async def tables_with(owner_url: str, marker: str) -> set[str]:
    """Returns the tables of the schema in which a text still stands somewhere."""
    async with await psycopg.AsyncConnection.connect(owner_url) as connection:
        # The owner is bound by the policies as well, unless they are switched off.
        await connection.execute("SET app.tenant = 'acme'")
        cursor = await connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'core_memory'")
        found = set()
        for (table,) in await cursor.fetchall():
            query = f"""
                SELECT 1 FROM core_memory.{table} AS t
                WHERE t::text LIKE %(text)s OR t::text LIKE %(bytes)s LIMIT 1"""
            like = {"text": f"%{marker}%", "bytes": f"%{marker.encode().hex()}%"}
            if await (await connection.execute(query.encode(), like)).fetchone():
                found.add(table)
    return found


async def test_a_purged_agent_leaves_nothing_and_shared_blocks_stay(
    memory: Memory, agent: Memory, owner_url: str
) -> None:
    mine = await memory.create("human", MARKER, agents=(AGENT,))
    await memory.append(by_label("human"), MARKER, provenance=common_pb2.Provenance(reason=MARKER))
    shared = await memory.create("policy", "P", agents=(AGENT, "agent-2"))
    assert await tables_with(owner_url, MARKER) == {"block", "block_version", "change_reason", "request"}

    counts = await purge(agent, agent_id=AGENT)

    assert counts["core_memory.block"] == (1, 0)
    assert counts["core_memory.block_version"] == (2, 0)
    assert counts["core_memory.attachment"] == (2, 0)
    assert all(remaining == 0 for _, remaining in counts.values())
    assert await tables_with(owner_url, MARKER) == set()
    assert (await failure(memory.get(mine.block_id))).reason == errors_pb2.REASON_NOT_FOUND
    assert [one.agent_id for one in (await memory.get(shared.block_id)).attachments] == ["agent-2"]
    assert (await memory.changes(block_id=mine.block_id))[-1].kind == common_pb2.MEMORY_CHANGE_KIND_DELETED


async def test_a_deleted_agent_takes_no_writes_and_renders_nothing(memory: Memory, agent: Memory) -> None:
    block = await memory.create("policy", "P", agents=(AGENT, "agent-2"))
    await purge(agent, agent_id=AGENT)

    for running in (
        memory.render(),
        memory.append(by_label("policy"), "x"),
        memory.attach(block.block_id, AGENT),
        memory.create("human", agents=(AGENT,)),
    ):
        error = await failure(running)
        assert error.reason == errors_pb2.REASON_DELETED
        assert error.metadata["resource"] == AGENT
    assert (await memory.render("agent-2")).blocks


async def test_purging_again_finds_nothing(memory: Memory, agent: Memory) -> None:
    await memory.create("human", "text", agents=(AGENT,))
    await purge(agent, agent_id=AGENT)

    assert set((await purge(agent, agent_id=AGENT)).values()) == {(0, 0)}


async def test_a_forgotten_user_leaves_no_word_behind(memory: Memory, agent: Memory, owner_url: str) -> None:
    source = await memory.create("human", "Name: unknown")
    await memory.attach(source.block_id, AGENT, copy_per_user=True)
    await agent.append(by_label("human", user="ann"), MARKER, provenance=common_pb2.Provenance(reason=MARKER))
    team = await memory.create("team", "Rules first", agents=(AGENT,))
    await agent.append(by_label("team", user="ann"), f"Ann said {MARKER}")
    await agent.append(by_label("team", user="bob"), "Bob said hello")
    await agent.replace(by_label("team", user="bob"), "Ann said", "She said")
    await memory.create("notes", MARKER, user_id="ann")
    before = await memory.render(user="bob")

    counts = await purge(agent, user_id="ann")

    assert all(remaining == 0 for _, remaining in counts.values())
    assert await tables_with(owner_url, MARKER) == set()
    assert (await memory.get(team.block_id)).block.value == "Rules first\nBob said hello"
    assert (await memory.get(source.block_id)).block == source
    assert (await memory.render(user="bob")).revision.revision > before.revision.revision
    versions = await memory.versions(team.block_id)
    assert [one.version for one in versions] == [5, 4, 3, 1]
    assert "ann" not in {one.user_id for one in versions}


async def test_a_forgotten_user_takes_no_writes(memory: Memory, agent: Memory) -> None:
    await memory.create("team", "text", agents=(AGENT,))
    await purge(agent, user_id="ann")

    for running in (
        memory.render(user="ann"),
        agent.append(by_label("team", user="ann"), "late"),
        memory.create("human", "late", user_id="ann"),
    ):
        assert (await failure(running)).reason == errors_pb2.REASON_DELETED
    assert (await memory.append(by_label("team", user="bob"), "fine")).block.version == 2


async def test_writes_that_race_a_purge_end_before_it_or_are_refused(
    memory: Memory, agent: Memory, owner_url: str
) -> None:
    block = await memory.create("team", "text", agents=(AGENT, "agent-2"))

    async def write(number: int) -> None:
        await agent.append(by_label("team", user="ann"), f"{MARKER} {number}")
        await memory.create(f"label-{number}", MARKER, user_id="ann")

    outcomes = await asyncio.gather(
        *(write(number) for number in range(8)),
        purge(agent, user_id="ann"),
        *(write(number) for number in range(8, 16)),
        return_exceptions=True,
    )

    assert any(isinstance(outcome, dict) for outcome in outcomes)
    assert await tables_with(owner_url, MARKER) == set()
    assert (await memory.get(block.block_id)).block.value == "text"


async def test_only_the_orchestrator_purges_and_it_names_a_subject(memory: Memory, agent: Memory) -> None:
    with pytest.raises(AssertionError, match="CALLER_NOT_ALLOWED"):
        raise AssertionError(repr(await failure(purge(memory, agent_id=AGENT))))
    assert (await failure(purge(agent))).reason == errors_pb2.REASON_INVALID_FIELD
    assert (await failure(purge(agent, user_id=""))).reason == errors_pb2.REASON_INVALID_FIELD
    assert await purge(agent, conversation_id="conversation-1") == {}


async def test_a_purge_stays_in_its_tenant(memory: Memory, agent: Memory, other_tenant: Memory) -> None:
    theirs = await other_tenant.create("human", "globex's", agents=(AGENT,), user_id="")
    await purge(agent, agent_id=AGENT)
    await purge(agent, user_id="ann")

    assert (await other_tenant.append(by_id(theirs.block_id), "more")).block.version == 2
    assert (await other_tenant.render(user="ann")).blocks
