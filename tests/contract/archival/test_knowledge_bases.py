"""Knowledge bases: shared, attached, counted; revisions, checks for a cache, and purges."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta

import grpc.aio
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from mneme.archival.v1 import archival_pb2 as pb
from mneme.common.v1 import common_pb2
from tests.contract.archival.conftest import (
    AGENT,
    SPACE,
    Archive,
    Call,
    FakeEmbedding,
    new_id,
    of_agent,
    of_base,
    traces,
    vector_of,
)
from tests.support.hosting import failure


async def test_agents_search_what_is_attached(archive: Archive) -> None:
    base = await archive.knowledge_base("handbook", description="rules")
    owner = of_base(base.knowledge_base_id)
    await archive.insert("holidays are thirty days", owner=owner)
    await archive.insert("holidays make me happy")
    assert await archive.found("holidays") == ["holidays make me happy"]
    await archive.attach(base.knowledge_base_id)
    await archive.attach(base.knowledge_base_id)
    assert len(await archive.found("holidays")) == 2
    only_base = pb.SearchScope(agent_id=AGENT, knowledge_bases_only=True)
    assert await archive.found("holidays", scope=only_base) == ["holidays are thirty days"]
    without_agent = pb.SearchScope(knowledge_base_ids=[base.knowledge_base_id])
    assert await archive.found("holidays", scope=without_agent) == ["holidays are thirty days"]
    response = await archive.stub.GetKnowledgeBase(pb.GetKnowledgeBaseRequest(knowledge_base_id=base.knowledge_base_id))
    assert list(response.agent_ids) == [AGENT]
    assert response.agent_count == 1
    assert (response.knowledge_base.passage_count, response.knowledge_base.revision) == (1, 1)
    detach = pb.DetachKnowledgeBaseRequest(
        request_id=new_id(), knowledge_base_id=base.knowledge_base_id, agent_id=AGENT
    )
    await archive.stub.DetachKnowledgeBase(detach)
    assert await archive.found("holidays") == ["holidays make me happy"]
    kinds = [change.kind for change in await archive.changes(agent_id=AGENT)]
    assert kinds[-2:] == [common_pb2.MEMORY_CHANGE_KIND_ATTACHED, common_pb2.MEMORY_CHANGE_KIND_DETACHED]


async def test_names_are_unique_and_fields_change(archive: Archive, call: Call) -> None:
    base = await archive.knowledge_base("handbook")
    assert (await failure(archive.knowledge_base("handbook"))).reason_name == "ALREADY_EXISTS"
    assert (await failure(archive.knowledge_base(" "))).metadata["field"] == "knowledge_base.display_name"
    await (await call(tenant="umbrella")).knowledge_base("handbook")
    other = await archive.knowledge_base("other")
    update = pb.UpdateKnowledgeBaseRequest(
        request_id=new_id(),
        knowledge_base_id=other.knowledge_base_id,
        knowledge_base=pb.KnowledgeBase(display_name="handbook"),
    )
    assert (await failure(archive.stub.UpdateKnowledgeBase(update))).reason_name == "ALREADY_EXISTS"
    update.request_id = new_id()
    update.knowledge_base.display_name = "third"
    update.update_mask.CopyFrom(FieldMask(paths=["display_name", "description"]))
    changed = (await archive.stub.UpdateKnowledgeBase(update)).knowledge_base
    assert (changed.display_name, changed.description) == ("third", "")
    listed = await archive.stub.ListKnowledgeBases(pb.ListKnowledgeBasesRequest(page_size=1))
    rest = await archive.stub.ListKnowledgeBases(
        pb.ListKnowledgeBasesRequest(page_size=1, page_token=listed.next_page_token)
    )
    assert [one.knowledge_base_id for one in (*listed.knowledge_bases, *rest.knowledge_bases)] == [
        base.knowledge_base_id,
        other.knowledge_base_id,
    ]
    assert rest.next_page_token == ""


async def test_a_deleted_base_takes_its_passages_along(archive: Archive) -> None:
    base = await archive.knowledge_base("handbook")
    owner = of_base(base.knowledge_base_id)
    stored = (await archive.insert("rule one", owner=owner)).passage
    await archive.attach(base.knowledge_base_id)
    request = pb.DeleteKnowledgeBaseRequest(request_id=new_id(), knowledge_base_id=base.knowledge_base_id)
    for _ in range(2):
        await archive.stub.DeleteKnowledgeBase(request)
    assert (await failure(archive.get(stored.passage_id))).reason_name == "NOT_FOUND"
    assert (await failure(archive.insert("late", owner=owner))).reason_name == "DELETED"
    assert (await failure(archive.attach(base.knowledge_base_id))).reason_name == "NOT_FOUND"
    assert list(await archive.revisions()) == [f"{AGENT} passages"]
    assert await archive.found("rule") == []


async def test_revisions_count_every_write(archive: Archive) -> None:
    base = await archive.knowledge_base("handbook")
    await archive.attach(base.knowledge_base_id)
    own = f"{AGENT} passages"
    assert await archive.revisions() == {own: 0, base.knowledge_base_id: 0}
    stored = (await archive.insert("one")).passage
    await archive.insert("one")
    assert (await archive.revisions())[own] == 1
    await archive.update(stored.passage_id, importance=1.0)
    await archive.insert_many(["two", "three"])
    await archive.insert("shared", owner=of_base(base.knowledge_base_id))
    await archive.delete(stored.passage_id)
    assert await archive.revisions() == {own: 4, base.knowledge_base_id: 1}


async def test_it_is_told_when_what_is_searched_next_changes_by_itself(archive: Archive, call: Call) -> None:
    base, elsewhere = await archive.knowledge_base("handbook"), await archive.knowledge_base("elsewhere")
    await archive.attach(base.knowledge_base_id)
    now = datetime.now(UTC).replace(microsecond=0)

    def at(days: int) -> Timestamp:
        made = Timestamp()
        made.FromDatetime(now + timedelta(days=days))
        return made

    async def next_change(caller: Archive = archive) -> int | None:
        response = await caller.stub.GetRevisions(pb.GetRevisionsRequest(agent_id=AGENT))
        told = response.HasField("next_change_time")
        return (response.next_change_time.ToDatetime(UTC) - now).days if told else None

    await archive.insert("always true")
    await archive.insert("true once", valid_from=at(-9), valid_to=at(-8))
    await archive.insert("not searched", owner=of_base(elsewhere.knowledge_base_id), valid_from=at(1))
    await archive.insert("not trusted", quarantined=True, valid_from=at(2))
    assert await next_change() is None
    await archive.insert("begins", valid_from=at(7), valid_to=at(8))
    assert await next_change() == 7
    ending = (await archive.insert("ends", owner=of_base(base.knowledge_base_id), valid_to=at(5))).passage
    assert await next_change() == 5
    await archive.insert("shared begins", owner=of_base(base.knowledge_base_id), valid_from=at(4))
    assert await next_change() == 4
    await archive.update(ending.passage_id, valid_to=at(3))
    assert await next_change() == 3
    await archive.delete(ending.passage_id)
    assert await next_change() == 4
    ann, bob, operator = await call(user="ann"), await call(user="bob"), await call()
    nobody = await call(service="orchestrator")
    await archive.insert("of ann", user_id="ann", valid_from=at(2))
    assert [await next_change(one) for one in (operator, ann, bob, nobody)] == [2, 2, 4, 4]


async def test_only_writes_that_could_matter_change_an_answer(
    archive: Archive, call: Call, embedding: FakeEmbedding
) -> None:
    cache = await call(service="semantic_cache")
    base = (await archive.knowledge_base("handbook")).knowledge_base_id
    used = (await archive.insert("holidays are thirty days", owner=of_base(base))).passage
    vector = common_pb2.Vector(values=vector_of("how many holidays are there"), space_id=SPACE)

    async def unchanged(since: int, **fields: object) -> tuple[bool, int]:
        request = pb.CheckUnchangedRequest(
            knowledge_base_id=base, since_revision=since, passage_ids=[used.passage_id], vector=vector, kth_score=0.3
        )
        request.MergeFrom(pb.CheckUnchangedRequest(**fields))  # type: ignore[arg-type]
        response = await cache.stub.CheckUnchanged(request)
        return response.unchanged, response.revision

    assert await unchanged(1) == (True, 1)
    other = (await archive.insert("parking costs nothing", owner=of_base(base))).passage
    assert await unchanged(1) == (True, 2)
    await archive.delete(other.passage_id)
    assert await unchanged(1) == (True, 3)
    close = (await archive.insert("holidays are many", owner=of_base(base))).passage
    assert await unchanged(3) == (False, 4)
    await archive.update(close.passage_id, quarantined=True)
    assert await unchanged(3) == (True, 5)
    assert await unchanged(9) == (False, 5)
    embedding.down = True
    await archive.insert("not embedded yet", owner=of_base(base))
    assert (await unchanged(5))[0] is False
    await archive.update(used.passage_id, importance=0.9)
    assert (await unchanged(1))[0] is False
    user = await failure(archive.stub.CheckUnchanged(pb.CheckUnchangedRequest(knowledge_base_id=base)))
    assert user.reason_name == "CALLER_NOT_ALLOWED"


async def purge(caller: Archive, **subject: str) -> dict[str, tuple[int, int]]:
    request = pb.PurgeDataRequest(
        request_id=new_id(), subject=common_pb2.PurgeSubject(**subject), operation_id="operation-1"
    )
    response = await caller.stub.PurgeData(request)
    return {count.store: (count.removed, count.remaining) for count in response.counts}


@pytest.mark.parametrize("subject", ["agent", "user"])
async def test_a_purge_leaves_no_trace_and_refuses_late_writes(
    archive: Archive, call: Call, owner_url: str, embedding: FakeEmbedding, subject: str
) -> None:
    """Peers' complaint 27: background work resurrects deleted memories (redis/agent-memory-server/pull/184)."""
    orchestrator = await call(service="orchestrator")
    user = "user-marker" if subject == "user" else ""
    provenance = common_pb2.Provenance(reason="because of the xyzzq marker")
    first = (await archive.insert("xyzzq was here", provenance=provenance, user_id=user)).passage
    await archive.update(first.passage_id, text="xyzzq moved on")
    await archive.insert_many([pb.PassageItem(passage=pb.Passage(text="xyzzq batch", user_id=user))])
    embedding.down = True
    await archive.insert("xyzzq waits", user_id=user)
    await archive.insert("a neighbour stays", owner=of_agent("agent-2"))
    assert len(traces(owner_url, "xyzzq")) >= 5
    counts = await purge(orchestrator, **({"user_id": user} if user else {"agent_id": AGENT}))
    assert counts["archival.agent_passages"] == (3, 0)
    assert counts["archival.request"][0] == 3
    assert all(remaining == 0 for _, remaining in counts.values())
    late = archive.insert("xyzzq again", user_id=user)
    assert (await failure(late)).reason_name == "DELETED"
    embedding.down = False
    assert await archive.found("neighbour", agent="agent-2") == ["a neighbour stays"]
    assert traces(owner_url, "xyzzq") == []


async def test_nothing_that_runs_beside_a_purge_survives_it(archive: Archive, call: Call) -> None:
    orchestrator = await call(service="orchestrator")

    async def write(n: int) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError):
            await archive.insert(f"fact {n}", user_id="ann", owner=of_agent(f"agent-{n % 2}"))

    async with asyncio.TaskGroup() as tasks:
        for n in range(16):
            tasks.create_task(write(n))
        tasks.create_task(purge(orchestrator, user_id="ann"))
    await write(99)
    assert (await purge(orchestrator, user_id="ann"))["archival.agent_passages"] == (0, 0)


async def test_the_first_hundred_agents_of_a_knowledge_base_are_shown(archive: Archive) -> None:
    base = await archive.knowledge_base("handbook")
    for n in range(103):
        await archive.attach(base.knowledge_base_id, f"agent-{n:03}")
    request = pb.GetKnowledgeBaseRequest(knowledge_base_id=base.knowledge_base_id)
    response = await archive.stub.GetKnowledgeBase(request)
    assert list(response.agent_ids) == [f"agent-{n:03}" for n in range(100)]
    assert response.agent_count == 103
