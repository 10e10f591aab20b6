"""What is deleted or purged leaves no word in any table: versions, words of the past and ingests included."""

from __future__ import annotations

import pytest

from mneme.archival.v1 import archival_pb2 as pb
from mneme.common.v1 import common_pb2
from tests.contract.archival.conftest import AGENT, Archive, Call, item, new_id, of_agent, of_base, traces

MARKERS = ("zanzibar", "timbuktu", "samarkand")


async def leave_traces(caller: Archive, owner: pb.PassageOwner, user: str) -> list[str]:
    """Writes the markers in every way there is; returns the passages."""
    first = await caller.insert(f"once in {MARKERS[0]}", owner=owner, user_id=user, near_limit=3)
    await caller.update(first.passage.passage_id, text=f"then in {MARKERS[1]}")
    await caller.update(first.passage.passage_id, text=f"now in {MARKERS[2]}")
    request = pb.RestorePassageVersionRequest(request_id=new_id(), passage_id=first.passage.passage_id, version=2)
    await caller.stub.RestorePassageVersion(request)
    why = common_pb2.Provenance(reason=f"told of {MARKERS[0]}")
    replacing = item(f"instead of {MARKERS[0]}")
    replacing.passage.user_id = user
    replacing.passage.provenance.CopyFrom(why)
    replacing.supersedes_passage_ids.append(first.passage.passage_id)
    bad = item(f"bad {MARKERS[0]}\0")
    await caller.ingest([replacing, bad], owner=owner)
    everything = pb.PassageFilter(include_superseded=True, user_id=user)
    return [p.passage_id for p in await caller.list_all(owner=owner, filter=everything)]


@pytest.mark.parametrize("way", ["agent", "user", "base", "passages"])
async def test_nothing_is_left(call: Call, owner_url: str, way: str) -> None:
    service = await call(service="orchestrator")
    operator = await call()
    owner = of_agent()
    if way == "base":
        owner = of_base((await operator.knowledge_base("shared")).knowledge_base_id)
    stored = await leave_traces(service, owner, "ann" if way == "user" else "")
    assert len(stored) == 2
    assert {"agent_passages", "passage_version", "lexical_term", "request"} <= set().union(
        *(traces(owner_url, marker) for marker in MARKERS)
    )
    if way == "base":
        request = pb.DeleteKnowledgeBaseRequest(request_id=new_id(), knowledge_base_id=owner.knowledge_base_id)
        await operator.stub.DeleteKnowledgeBase(request)
    elif way == "passages":
        for passage_id in stored:
            await service.delete(passage_id)
    else:
        subject = common_pb2.PurgeSubject(**({"user_id": "ann"} if way == "user" else {"agent_id": AGENT}))
        counts = (await service.stub.PurgeData(pb.PurgeDataRequest(request_id=new_id(), subject=subject))).counts
        assert all(count.remaining == 0 for count in counts)
    left = set().union(*(traces(owner_url, marker) for marker in MARKERS))
    # A deletion is not a purge: replayed responses live seven days, and the audit keeps what the writer said.
    assert left <= (set() if way in ("agent", "user") else {"request", "memory_change"})
