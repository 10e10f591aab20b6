"""Edits of blocks through a real server: what they change, and what they leave alone when they fail."""

from __future__ import annotations

import asyncio
import itertools

from mneme.common.v1 import common_pb2
from mneme.core_memory.service import build
from mneme.core_memory.v1 import core_memory_pb2 as pb
from mneme.core_memory.v1.core_memory_pb2_grpc import CoreMemoryServiceStub
from mneme.errors.v1 import errors_pb2
from tests.contract.core_memory.conftest import AGENT, Memory, by_id, by_label, new_id
from tests.support.hosting import Hosting, failure


async def test_a_created_block_comes_back_with_its_defaults(memory: Memory) -> None:
    created = await memory.create("human", "Name: Ann", agents=(AGENT,), metadata={"source": "crm", "rank": 2})

    found = await memory.get(created.block_id)

    assert found.block == created
    assert (created.limit_chars, created.version, created.visibility) == (5000, 1, common_pb2.BLOCK_VISIBILITY_PRIVATE)
    assert created.etag
    assert dict(created.metadata) == {"source": "crm", "rank": 2}
    assert [one.agent_id for one in found.attachments] == [AGENT]
    assert found.attachment_count == 1


async def test_append_replace_and_remove_change_the_text_and_count_versions(memory: Memory) -> None:
    block = await memory.create("human", "Name: Ann", agents=(AGENT,))
    ref = by_label("human")

    appended = await memory.append(ref, "Allergic to nuts")
    replaced = await memory.replace(ref, "nuts", "peanuts")
    removed = await memory.stub.RemoveText(pb.RemoveTextRequest(request_id=new_id(), ref=ref, text="Name: Ann"))

    assert appended.previous_value == "Name: Ann"
    assert appended.block.value == "Name: Ann\nAllergic to nuts"
    assert replaced.block.value == "Name: Ann\nAllergic to peanuts"
    assert (removed.block.value, removed.block.version) == ("Allergic to peanuts", 4)
    assert removed.block.block_id == block.block_id
    assert len({appended.block.etag, replaced.block.etag, removed.block.etag, block.etag}) == 4


async def test_an_edit_over_the_limit_changes_nothing_and_names_limit_and_size(memory: Memory) -> None:
    """Peers' complaint 21: the old fact was deleted and nothing stored: mem0ai/mem0/issues/4536."""
    block = await memory.create("human", "四个汉字", limit_chars=6, agents=(AGENT,))

    error = await failure(memory.append(by_label("human"), "再加"))

    assert error.reason == errors_pb2.REASON_BLOCK_LIMIT_EXCEEDED
    assert (error.metadata["size"], error.metadata["limit"]) == ("7", "6")
    assert "archival" in error.message
    assert (await memory.get(block.block_id)).block == block
    assert len(await memory.versions(block.block_id)) == 1


async def test_a_limit_below_the_text_is_refused(memory: Memory) -> None:
    block = await memory.create("human", "12345")

    error = await failure(memory.update(by_id(block.block_id), limit_chars=4))

    assert error.reason == errors_pb2.REASON_BLOCK_LIMIT_EXCEEDED


async def test_a_text_that_is_not_there_gets_the_closest_line(memory: Memory) -> None:
    await memory.create("human", "Name: Ann\nlikes green tea\nlives in Bern", agents=(AGENT,))

    error = await failure(memory.replace(by_label("human"), "Likes tea", "Likes coffee"))

    assert error.reason == errors_pb2.REASON_TEXT_NOT_FOUND
    assert (error.metadata["closest"], error.metadata["occurrences"]) == ("likes green tea", "0")


async def test_a_text_that_is_there_twice_is_refused_with_the_count(memory: Memory) -> None:
    await memory.create("human", "tea and tea", agents=(AGENT,))

    error = await failure(memory.replace(by_label("human"), "tea", "coffee"))

    assert error.reason == errors_pb2.REASON_TEXT_NOT_FOUND
    assert error.metadata["occurrences"] == "2"


async def test_a_read_only_block_refuses_tools_and_obeys_the_operator(memory: Memory, agent: Memory) -> None:
    await memory.create("policy", "Be kind", read_only=True, agents=(AGENT,))

    for caller, by_agent in ((memory, True), (agent, True), (agent, False)):
        error = await failure(caller.append(by_label("policy"), "Be rude", by_agent=by_agent))
        assert error.reason == errors_pb2.REASON_BLOCK_READ_ONLY

    assert (await memory.append(by_label("policy"), "Be brief")).block.value == "Be kind\nBe brief"


async def test_an_update_with_an_old_etag_is_aborted(memory: Memory) -> None:
    block = await memory.create("human", "one")
    newer = await memory.update(by_id(block.block_id), value="two", etag=block.etag)

    error = await failure(memory.update(by_id(block.block_id), value="three", etag=block.etag))

    assert error.reason == errors_pb2.REASON_ETAG_MISMATCH
    assert error.code.name == "ABORTED"
    assert error.metadata["current_etag"] == newer.etag
    assert (await memory.get(block.block_id)).block.value == "two"


async def test_an_update_changes_the_masked_fields_only(memory: Memory) -> None:
    block = await memory.create("human", "text", description="old", read_only=True)
    request = pb.UpdateBlockRequest(
        request_id=new_id(), ref=by_id(block.block_id), block=pb.Block(value="ignored", label="ignored")
    )
    request.update_mask.paths.extend(["description", "read_only"])

    updated = (await memory.stub.UpdateBlock(request)).block

    assert (updated.description, updated.read_only, updated.value, updated.label) == ("", False, "text", "human")
    assert updated.version == 1
    assert updated.etag != block.etag


async def test_an_update_that_changes_nothing_makes_no_version_and_keeps_the_etag(memory: Memory) -> None:
    block = await memory.create("human", "text", agents=(AGENT,))
    revision = (await memory.render()).revision

    assert await memory.update(by_id(block.block_id), value="text") == block
    assert (await memory.render()).revision == revision


async def test_a_new_label_moves_with_the_attachments(memory: Memory) -> None:
    block = await memory.create("human", "text", agents=(AGENT,))

    await memory.update(by_id(block.block_id), label="person")

    assert (await memory.append(by_label("person"), "more")).block.block_id == block.block_id
    assert (await failure(memory.append(by_label("human"), "x"))).reason == errors_pb2.REASON_NOT_FOUND


async def test_a_label_that_an_agent_sees_already_cannot_be_taken_over(memory: Memory) -> None:
    await memory.create("human", agents=(AGENT,))
    persona = await memory.create("persona", agents=(AGENT,))

    error = await failure(memory.update(by_id(persona.block_id), label="human"))

    assert error.reason == errors_pb2.REASON_ALREADY_EXISTS
    assert (await memory.get(persona.block_id)).block.label == "persona"


async def test_writers_over_two_replicas_lose_no_append(memory: Memory, hosting: Hosting) -> None:
    """Peers' complaint 22, a check before a write that races: mem0ai/mem0/issues/6515."""
    block = await memory.create("log", limit_chars=100_000, agents=(AGENT, "agent-2"))
    lines = [f"writer {writer}" for writer in range(64)]
    async with hosting.replica("core_memory", build) as replica:
        elsewhere = Memory(await replica.stub(CoreMemoryServiceStub))
        writers = itertools.cycle((memory, elsewhere))
        await asyncio.gather(
            *(writer.append(by_label("log"), line) for writer, line in zip(writers, lines, strict=False))
        )

    stored = (await memory.get(block.block_id)).block
    assert sorted(stored.value.split("\n")) == sorted(lines)
    assert stored.version == 1 + len(lines)
    # One for the attachment, then one for each append.
    assert (await memory.render()).revision.revision == 1 + len(lines)
    assert (await memory.render("agent-2")).revision.revision == 1 + len(lines)
    changes = await memory.changes(block_id=block.block_id)
    assert [one.new_version for one in changes if one.kind == 2] == list(range(2, len(lines) + 2))


async def test_an_edit_with_an_old_etag_is_aborted(memory: Memory) -> None:
    block = await memory.create("human", "tea", agents=(AGENT,))
    ref = by_id(block.block_id)
    newer = (await memory.append(ref, "milk", etag=block.etag)).block
    remove = pb.RemoveTextRequest(request_id=new_id(), ref=ref, text="tea", etag=block.etag)

    for running in (
        memory.append(ref, "x", etag=block.etag),
        memory.replace(ref, "tea", "x", etag=block.etag),
        memory.stub.RemoveText(remove),
    ):
        error = await failure(running)
        assert (error.reason, error.metadata["current_etag"]) == (errors_pb2.REASON_ETAG_MISMATCH, newer.etag)

    remove.etag, remove.request_id = newer.etag, new_id()
    assert (await memory.stub.RemoveText(remove)).block.value == "milk"


async def test_of_racing_edits_with_one_etag_one_wins(memory: Memory) -> None:
    block = await memory.create("human", "0", agents=(AGENT,))

    outcomes = await asyncio.gather(
        *(memory.update(by_id(block.block_id), value=f"{n}", etag=block.etag) for n in range(1, 9)),
        return_exceptions=True,
    )

    won = [one for one in outcomes if not isinstance(one, BaseException)]
    assert [one.value for one in won] == [(await memory.get(block.block_id)).block.value]
    assert len(await memory.versions(block.block_id)) == 2


async def test_a_deleted_block_is_gone_from_its_agents_and_stays_in_the_audit(memory: Memory) -> None:
    block = await memory.create("human", "text", agents=(AGENT,))

    await memory.stub.DeleteBlock(pb.DeleteBlockRequest(request_id=new_id(), block_id=block.block_id))

    assert (await failure(memory.get(block.block_id))).reason == errors_pb2.REASON_NOT_FOUND
    assert not (await memory.render()).blocks
    assert [one.kind for one in await memory.changes(block_id=block.block_id)] == [1, 5, 3]


async def test_a_page_of_blocks_or_versions_ends_before_a_message_is_too_large(memory: Memory) -> None:
    large = "字" * 100_000
    made = [await memory.create(f"l{n}", large, limit_chars=100_000) for n in range(12)]
    request = pb.ListBlocksRequest(page_size=500)
    found: list[str] = []
    page_count = 0
    while not page_count or request.page_token:
        page = await memory.stub.ListBlocks(request)
        assert page.ByteSize() < 4 * 1024 * 1024
        found += [one.block_id for one in page.blocks]
        request.page_token = page.next_page_token
        page_count += 1
    assert found == [one.block_id for one in made]
    assert page_count == 2

    for n in range(12):
        await memory.update(by_id(made[0].block_id), value=f"{n:02}{large[2:]}")
    first = await memory.stub.ListVersions(pb.ListVersionsRequest(block_id=made[0].block_id))
    rest = await memory.stub.ListVersions(
        pb.ListVersionsRequest(block_id=made[0].block_id, page_token=first.next_page_token)
    )
    assert [one.version for one in (*first.versions, *rest.versions)] == list(range(13, 0, -1))
    assert not rest.next_page_token


async def test_the_first_hundred_attachments_of_a_block_are_shown(memory: Memory) -> None:
    policy = await memory.create("policy", "Be kind.")
    for n in range(103):
        await memory.attach(policy.block_id, f"agent-{n:03}")
    found = await memory.get(policy.block_id)
    assert [one.agent_id for one in found.attachments] == [f"agent-{n:03}" for n in range(100)]
    assert found.attachment_count == 103
