"""The audit: every write of archival memory, found by whom, what, where and when, without any text."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from mneme.archival.v1 import archival_pb2 as pb
from mneme.common.v1 import common_pb2
from tests.contract.archival.conftest import AGENT, Archive, Call, item, new_id, of_agent, of_base

CREATED = common_pb2.MEMORY_CHANGE_KIND_CREATED
UPDATED = common_pb2.MEMORY_CHANGE_KIND_UPDATED
DELETED = common_pb2.MEMORY_CHANGE_KIND_DELETED
RESTORED = common_pb2.MEMORY_CHANGE_KIND_RESTORED
ATTACHED = common_pb2.MEMORY_CHANGE_KIND_ATTACHED
DETACHED = common_pb2.MEMORY_CHANGE_KIND_DETACHED
SUPERSEDED = common_pb2.MEMORY_CHANGE_KIND_SUPERSEDED
QUARANTINED = common_pb2.MEMORY_CHANGE_KIND_QUARANTINED


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


async def test_every_kind_of_write_is_told_of(archive: Archive) -> None:
    why = common_pb2.Provenance(reason="because", trust_level=common_pb2.TRUST_LEVEL_USER)
    one = (await archive.insert("first text", provenance=why)).passage.passage_id
    await archive.update(one, text="second text", provenance=why)
    await archive.stub.RestorePassageVersion(
        pb.RestorePassageVersionRequest(request_id=new_id(), passage_id=one, version=1, provenance=why)
    )
    await archive.update(one, quarantined=True, provenance=why)
    two = (await archive.insert_many(["third text"])).results[0].passage_id
    replacing = pb.PassageItem(passage=pb.Passage(text="fourth text", provenance=why), supersedes_passage_ids=[two])
    await archive.ingest([replacing])
    await archive.stub.ReinstatePassage(pb.ReinstatePassageRequest(request_id=new_id(), passage_id=two, provenance=why))
    await archive.delete(two, provenance=why)

    own = await archive.changes(passage_id=one)
    assert [change.kind for change in own] == [CREATED, UPDATED, RESTORED, QUARANTINED]
    texts = ["", "first text", "second text", "first text", "first text"]
    hashes = [sha256(text) if text else "" for text in texts]
    assert [(c.old_sha256, c.new_sha256) for c in own] == list(pairwise(hashes))
    assert [(c.old_chars, c.new_chars) for c in own] == [(len(old), len(new)) for old, new in pairwise(texts)]
    assert [(c.old_version, c.new_version) for c in own] == [(n, n + 1) for n in range(4)]
    assert [c.kind for c in await archive.changes(passage_id=two)] == [CREATED, SUPERSEDED, RESTORED, DELETED]
    everything = await archive.changes(agent_id=AGENT)
    assert [change.sequence for change in everything] == sorted(change.sequence for change in everything)
    assert all(change.actor for change in everything)
    assert all(change.provenance.reason == "because" for change in own)
    assert all(change.provenance.trust_level == common_pb2.TRUST_LEVEL_USER for change in own)
    assert " text" not in str(everything)


async def test_what_becomes_of_a_knowledge_base_is_told_of(archive: Archive) -> None:
    base = (await archive.knowledge_base("shared")).knowledge_base_id
    await archive.attach(base)
    key: dict[str, Any] = {"knowledge_base_id": base}
    await archive.insert("kept here", owner=of_base(base))
    await archive.stub.UpdateKnowledgeBase(
        pb.UpdateKnowledgeBaseRequest(
            request_id=new_id(), knowledge_base=pb.KnowledgeBase(display_name="renamed"), **key
        )
    )
    await archive.stub.DetachKnowledgeBase(pb.DetachKnowledgeBaseRequest(request_id=new_id(), agent_id=AGENT, **key))
    await archive.stub.DeleteKnowledgeBase(pb.DeleteKnowledgeBaseRequest(request_id=new_id(), **key))
    found = await archive.changes(knowledge_base_id=base)
    assert [change.kind for change in found] == [CREATED, CREATED, UPDATED, DELETED, DELETED]
    assert {change.knowledge_base_id for change in found} == {base}
    assert [change.kind for change in await archive.changes(agent_id=AGENT)] == [ATTACHED, DETACHED]


async def test_changes_are_found_by_whom_what_where_and_when(call: Call) -> None:
    ann, service, other = await call(user="ann"), await call(service="orchestrator"), await call(tenant="umbrella")
    await other.insert("of another tenant")
    by_ann = (await ann.insert("ann likes figs")).passage
    between = datetime.now(UTC)
    by_service = (await service.insert("bob likes figs", user_id="bob", owner=of_agent("agent-2"))).passage
    operator = await call()

    async def found(**fields: Any) -> list[str]:
        return [change.resource_id for change in await operator.changes(**fields)]

    both = [by_ann.passage_id, by_service.passage_id]
    assert await found() == both
    assert await found(user_id="ann") == both[:1]
    assert await found(agent_id="agent-2") == both[1:]
    assert await found(passage_id=by_ann.passage_id) == both[:1]
    [first, second] = await operator.changes()
    assert first.actor != second.actor
    assert await found(actor=second.actor) == both[1:]
    moment = Timestamp()
    moment.FromDatetime(between)
    assert await found(time_range={"end": moment}) == both[:1]
    assert await found(time_range={"start": moment}) == both[1:]
    assert await found(time_range={"start": moment}, user_id="ann") == []
    moment.FromDatetime(between + timedelta(days=1))
    assert await found(time_range={"start": moment}) == []
    assert {change.resource_id for change in await ann.changes()} == {by_ann.passage_id}


async def test_a_refused_write_leaves_no_trace(archive: Archive) -> None:
    """Peers' complaint 29: a retried turn writes twice (redis-developer/adk-redis/issues/24)."""
    request_id = new_id()
    for _ in range(3):
        await archive.insert_many([item("once"), item("")], request_id=request_id)
    await archive.insert("once")
    assert [change.kind for change in await archive.changes()] == [CREATED]
    assert (await archive.revisions())[f"{AGENT} passages"] == 1
