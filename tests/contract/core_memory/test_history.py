"""Versions, diff, restore, the audit, and repeated requests, through a real server."""

from __future__ import annotations

import asyncio
import hashlib

import psycopg
import pytest
from google.protobuf.message import Message

from mneme.common.v1 import common_pb2
from mneme.core_memory.v1 import core_memory_pb2 as pb
from mneme.errors.v1 import errors_pb2
from tests.contract.core_memory.conftest import AGENT, Memory, by_id, by_label, new_id
from tests.support.hosting import failure

KIND = common_pb2.MemoryChangeKind


async def test_every_version_is_kept_with_author_reason_and_source(memory: Memory, agent: Memory) -> None:
    block = await memory.create("human", "one", agents=(AGENT,))
    why = common_pb2.Provenance(
        reason="the user said so",
        source_message_ids=["message-1", "message-2"],
        trust_level=common_pb2.TRUST_LEVEL_USER,
        step_id="step-1",
    )
    await agent.append(by_label("human", user="ann"), "two", provenance=why)

    newest, oldest = await memory.versions(block.block_id)

    assert (newest.version, newest.value, newest.provenance) == (2, "one\ntwo", why)
    assert (newest.actor, newest.user_id) == ("tester", "ann")
    assert (newest.kind, oldest.kind) == (KIND.MEMORY_CHANGE_KIND_UPDATED, KIND.MEMORY_CHANGE_KIND_CREATED)
    assert newest.version_id.startswith("version-")
    assert (oldest.version, oldest.value) == (1, "one")


async def test_versions_are_paged_newest_first(memory: Memory) -> None:
    block = await memory.create("human", "")
    for number in range(5):
        await memory.update(by_id(block.block_id), value=str(number))
    request = pb.ListVersionsRequest(block_id=block.block_id, page_size=4)

    first = await memory.stub.ListVersions(request)
    request.page_token = first.next_page_token
    last = await memory.stub.ListVersions(request)

    assert [one.version for one in (*first.versions, *last.versions)] == [6, 5, 4, 3, 2, 1]
    assert not last.next_page_token


async def test_two_versions_are_compared_line_by_line(memory: Memory) -> None:
    block = await memory.create("human", "Name: Ann\nCity: Bern")
    await memory.replace(by_id(block.block_id), "Bern", "Basel")

    diff = await memory.stub.DiffVersions(pb.DiffVersionsRequest(block_id=block.block_id, from_version=1))
    same = await memory.stub.DiffVersions(pb.DiffVersionsRequest(block_id=block.block_id, from_version=2, to_version=2))
    error = await failure(memory.stub.DiffVersions(pb.DiffVersionsRequest(block_id=block.block_id, from_version=9)))

    assert diff.unified_diff.split("\n")[3:] == [" Name: Ann", "-City: Bern", "+City: Basel"]
    assert (getattr(diff, "from").version, diff.to.version) == (1, 2)
    assert same.unified_diff == ""
    assert error.reason == errors_pb2.REASON_NOT_FOUND


async def test_a_restored_version_is_a_new_version(memory: Memory) -> None:
    block = await memory.create("human", "one", agents=(AGENT,))
    await memory.update(by_id(block.block_id), value="two")
    request = pb.RestoreVersionRequest(request_id=new_id(), block_id=block.block_id, version=1)

    restored = (await memory.stub.RestoreVersion(request)).block

    assert (restored.value, restored.version) == ("one", 3)
    newest = (await memory.versions(block.block_id))[0]
    assert (newest.kind, newest.restored_version) == (KIND.MEMORY_CHANGE_KIND_RESTORED, 1)
    assert "one" in (await memory.render()).text


async def test_a_version_over_the_present_limit_is_not_restored(memory: Memory) -> None:
    block = await memory.create("human", "a long text")
    await memory.update(by_id(block.block_id), value="short", limit_chars=5)
    request = pb.RestoreVersionRequest(request_id=new_id(), block_id=block.block_id, version=1)

    assert (await failure(memory.stub.RestoreVersion(request))).reason == errors_pb2.REASON_BLOCK_LIMIT_EXCEEDED


async def test_the_audit_holds_hashes_and_lengths_of_every_write(memory: Memory, agent: Memory) -> None:
    block = await memory.create("human", "one", agents=(AGENT,))
    request = pb.AppendTextRequest(
        request_id=new_id(),
        ref=by_label("human", user="ann"),
        text="zwei",
        provenance=common_pb2.Provenance(reason="why"),
    )
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    await agent.stub.AppendText(request, metadata=(("traceparent", f"00-{trace}-00f067aa0ba902b7-01"),))

    created, attached, updated = await memory.changes(block_id=block.block_id)

    assert [one.kind for one in (created, attached, updated)] == [1, 5, 2]
    assert (updated.old_version, updated.new_version, updated.old_chars, updated.new_chars) == (1, 2, 3, 8)
    assert updated.old_sha256 == hashlib.sha256(b"one").hexdigest()
    assert updated.new_sha256 == hashlib.sha256(b"one\nzwei").hexdigest()
    assert (updated.actor, updated.user_id, updated.agent_id) == ("tester", "ann", AGENT)
    assert (updated.provenance.reason, updated.trace_id) == ("why", trace)
    assert created.sequence < attached.sequence < updated.sequence


async def test_the_audit_is_filtered_and_paged(memory: Memory, agent: Memory) -> None:
    block = await memory.create("human", "", agents=(AGENT,))
    await memory.create("elsewhere", "", agents=("agent-2",))
    for number in range(4):
        await agent.append(by_label("human", user="ann" if number % 2 else "bob"), str(number))

    everything = await memory.changes()
    assert len(await memory.changes(agent_id=AGENT)) == 6
    assert len(await memory.changes(user_id="ann")) == 2
    assert len(await memory.changes(actor="tester")) == 4
    middle = everything[3].create_time
    span = common_pb2.TimeRange(start=middle)
    assert {one.sequence for one in await memory.changes(time_range=span)} >= {one.sequence for one in everything[4:]}
    request = pb.ListMemoryChangesRequest(block_id=block.block_id, page_size=4)
    first = await memory.stub.ListMemoryChanges(request)
    request.page_token = first.next_page_token
    last = await memory.stub.ListMemoryChanges(request)
    assert (len(first.changes), len(last.changes), last.next_page_token) == (4, 2, "")


async def test_the_server_cannot_change_the_audit(database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        for statement in ("UPDATE core_memory.memory_change SET actor = 'x'", "DELETE FROM core_memory.memory_change"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await connection.execute(statement.encode())
            await connection.rollback()


async def test_no_row_is_seen_without_a_tenant(memory: Memory, database_url: str) -> None:
    await memory.create("human", "text", agents=(AGENT,))
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        for table in ("block", "block_version", "attachment", "revision", "memory_change", "tombstone", "request"):
            cursor = await connection.execute(f"SELECT count(*) FROM core_memory.{table}".encode())
            assert await cursor.fetchone() == (0,)


async def test_a_repeated_request_changes_nothing_more_and_gets_the_first_response(memory: Memory) -> None:
    stub = memory.stub
    block = await memory.create("human", "one")
    ref = by_id(block.block_id)
    attachment = pb.BlockAttachment(agent_id=AGENT)
    doomed = await memory.create("doomed")
    calls: list[tuple[object, Message]] = [
        (stub.CreateBlock, pb.CreateBlockRequest(request_id=new_id(), block=pb.Block(label="new"))),
        (stub.AppendText, pb.AppendTextRequest(request_id=new_id(), ref=ref, text="two")),
        (stub.ReplaceText, pb.ReplaceTextRequest(request_id=new_id(), ref=ref, old_text="two", new_text="2")),
        (stub.RemoveText, pb.RemoveTextRequest(request_id=new_id(), ref=ref, text="2")),
        (stub.UpdateBlock, pb.UpdateBlockRequest(request_id=new_id(), ref=ref, block=pb.Block(value="three"))),
        (stub.RestoreVersion, pb.RestoreVersionRequest(request_id=new_id(), block_id=block.block_id, version=1)),
        (
            stub.AttachBlock,
            pb.AttachBlockRequest(request_id=new_id(), block_id=block.block_id, attachment=attachment),
        ),
        (stub.DetachBlock, pb.DetachBlockRequest(request_id=new_id(), block_id=block.block_id, agent_id=AGENT)),
        (stub.DeleteBlock, pb.DeleteBlockRequest(request_id=new_id(), block_id=doomed.block_id)),
    ]
    for method, request in calls:
        first = await method(request)  # type: ignore[operator]
        before = await memory.changes()
        assert await method(request) == first  # type: ignore[operator]
        assert await memory.changes() == before


async def test_a_request_id_with_other_content_is_refused(memory: Memory) -> None:
    block = await memory.create("human", "one")
    once = new_id()
    await memory.append(by_id(block.block_id), "two", request_id=once)

    error = await failure(memory.append(by_id(block.block_id), "three", request_id=once))

    assert error.reason == errors_pb2.REASON_REQUEST_ID_REUSED


async def test_concurrent_twins_of_a_request_append_once(memory: Memory) -> None:
    block = await memory.create("human", "one")
    once = new_id()

    outcomes = await asyncio.gather(*(memory.append(by_id(block.block_id), "two", request_id=once) for _ in range(8)))

    assert {outcome.block.etag for outcome in outcomes} == {outcomes[0].block.etag}
    assert (await memory.get(block.block_id)).block.value == "one\ntwo"


async def test_a_failed_request_can_be_repeated_with_its_id(memory: Memory) -> None:
    once = new_id()
    await failure(memory.append(by_label("human"), "two", request_id=once))
    await memory.create("human", "one", agents=(AGENT,))

    assert (await memory.append(by_label("human"), "two", request_id=once)).block.value == "one\ntwo"
