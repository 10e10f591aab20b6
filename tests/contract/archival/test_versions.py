"""Versions: nothing is overwritten silently, everything can be undone, and what replaced what is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from mneme.archival.v1 import archival_pb2 as pb
from mneme.common.v1 import common_pb2
from tests.contract.archival.conftest import AGENT, Archive, Call, at, new_id, of_base, vector_of
from tests.support.hosting import failure


async def versions(archive: Archive, passage_id: str, **fields: Any) -> list[pb.PassageVersion]:
    request = pb.ListPassageVersionsRequest(passage_id=passage_id, **fields)
    return list((await archive.stub.ListPassageVersions(request)).versions)


async def restore(archive: Archive, passage_id: str, version: int, **fields: Any) -> pb.Passage:
    fields.setdefault("request_id", new_id())
    request = pb.RestorePassageVersionRequest(passage_id=passage_id, version=version, **fields)
    return (await archive.stub.RestorePassageVersion(request)).passage


async def reinstate(archive: Archive, passage_id: str, **fields: Any) -> pb.Passage:
    fields.setdefault("request_id", new_id())
    request = pb.ReinstatePassageRequest(passage_id=passage_id, **fields)
    return (await archive.stub.ReinstatePassage(request)).passage


async def test_each_update_keeps_the_text_before(archive: Archive) -> None:
    told = common_pb2.Provenance(reason="she said so", source_message_ids=["message-1"])
    first = (await archive.insert("drinks tea", tags=["drink"], provenance=told)).passage
    corrected = common_pb2.Provenance(reason="she corrected it")
    second = await archive.update(first.passage_id, text="drinks coffee", provenance=corrected)
    third = await archive.update(first.passage_id, tags=["habit"])
    found = await versions(archive, first.passage_id)
    assert [one.version for one in found] == [3, 2, 1]
    assert [one.passage.text for one in found] == ["drinks coffee", "drinks coffee", "drinks tea"]
    assert [list(one.passage.tags) for one in found] == [["habit"], ["drink"], ["drink"]]
    assert [one.provenance.reason for one in found] == ["", "she corrected it", "she said so"]
    assert [one.kind for one in found] == [
        common_pb2.MEMORY_CHANGE_KIND_UPDATED,
        common_pb2.MEMORY_CHANGE_KIND_UPDATED,
        common_pb2.MEMORY_CHANGE_KIND_CREATED,
    ]
    assert all(one.actor for one in found)
    # Each ends at the instant at which the next one begins.
    assert [one.end_time for one in found[1:]] == [one.start_time for one in found[:-1]]
    assert not found[0].HasField("end_time")
    assert [found[2].passage.provenance, found[0].passage] == [told, third]
    assert found[1].passage.text == second.text
    request = pb.ListPassageVersionsRequest(passage_id=first.passage_id, page_size=2)
    page = await archive.stub.ListPassageVersions(request)
    rest = await versions(archive, first.passage_id, page_size=2, page_token=page.next_page_token)
    assert [*page.versions, *rest] == found


async def test_a_restore_is_itself_a_version(archive: Archive) -> None:
    first = (await archive.insert("drinks tea", importance=0.9, tags=["drink"])).passage
    await archive.update(first.passage_id, text="drinks coffee", importance=0.1)
    why = common_pb2.Provenance(reason="a mistake")
    restored = await restore(archive, first.passage_id, 1, provenance=why)
    assert (restored.text, round(restored.importance, 2), restored.version) == ("drinks tea", 0.9, 3)
    assert await archive.found("tea", mode=pb.SEARCH_MODE_LEXICAL) == ["drinks tea"]
    assert await archive.found("coffee", mode=pb.SEARCH_MODE_LEXICAL) == []
    top = (await archive.search("drinks tea", mode=pb.SEARCH_MODE_SEMANTIC)).results[0]
    assert top.score == pytest.approx(1.0, abs=1e-2)
    newest = (await versions(archive, first.passage_id))[0]
    assert (newest.kind, newest.provenance.reason) == (common_pb2.MEMORY_CHANGE_KIND_RESTORED, "a mistake")
    assert (await restore(archive, first.passage_id, 2)).text == "drinks coffee"
    assert (await failure(restore(archive, first.passage_id, 9))).reason_name == "NOT_FOUND"
    await archive.insert("drinks tea")
    assert (await failure(restore(archive, first.passage_id, 1))).reason_name == "ALREADY_EXISTS"


async def test_a_change_can_require_what_it_was_made_from(archive: Archive) -> None:
    seen = (await archive.insert("counter: 0")).passage
    racing = [archive.update(seen.passage_id, text=f"counter: {n}", etag=seen.etag) for n in (1, 2, 3, 4)]
    outcomes = await asyncio.gather(*racing, return_exceptions=True)
    assert sum(isinstance(one, pb.Passage) for one in outcomes) == 1
    now = await archive.get(seen.passage_id)
    for late in (
        archive.update(seen.passage_id, text="late", etag=seen.etag),
        restore(archive, seen.passage_id, 1, etag=seen.etag),
        archive.delete(seen.passage_id, etag=seen.etag),
        reinstate(archive, seen.passage_id, etag=seen.etag),
    ):
        error = await failure(late)
        assert (error.reason_name, error.metadata["current_etag"]) == ("ETAG_MISMATCH", now.etag)
    await archive.delete(seen.passage_id, etag=now.etag)


async def test_a_deletion_removes_the_versions_too(archive: Archive) -> None:
    stored = (await archive.insert("first wording")).passage
    await archive.update(stored.passage_id, text="second wording")
    await archive.delete(stored.passage_id)
    assert (await failure(versions(archive, stored.passage_id))).reason_name == "NOT_FOUND"
    assert (await failure(restore(archive, stored.passage_id, 1))).reason_name == "NOT_FOUND"
    assert [change.kind for change in await archive.changes(passage_id=stored.passage_id)] == [1, 2, 3]


async def test_a_contradiction_keeps_the_old_fact_and_stores_the_new_one(archive: Archive) -> None:
    """Peers' complaint 21: a contradiction deleted the old fact and stored nothing (mem0ai/mem0/issues/4536)."""
    old = (await archive.insert("Ann lives in Rome", valid_from=at("2020-01-01T00:00:00Z"))).passage
    new = await archive.insert(
        "Ann lives in Oslo", supersedes_passage_ids=[old.passage_id], supersede_reason="she moved"
    )
    ended = await archive.get(old.passage_id)
    assert (ended.superseded_by, ended.superseded_reason) == (new.passage.passage_id, "she moved")
    assert ended.valid_from == old.valid_from
    assert ended.valid_to.ToDatetime() >= new.passage.create_time.ToDatetime()
    assert await archive.found("Ann lives") == ["Ann lives in Oslo"]
    back_then = pb.PassageFilter(as_of=at("2021-01-01T00:00:00Z"))
    assert await archive.found("Ann lives", filter=back_then) == ["Ann lives in Rome"]
    [was] = [one for one in await versions(archive, old.passage_id) if one.version == 1]
    assert was.passage.superseded_by == ""


async def test_a_supersession_touches_only_what_it_names(archive: Archive) -> None:
    """Peers' complaint 28: invalidation retired unrelated true facts (getzep/graphiti/issues/1728)."""
    texts = [f"Ann has been to city {n}" for n in range(8)]
    stored = [(await archive.insert(text)).passage for text in texts]
    await archive.insert("Ann has been to city 3 twice", supersedes_passage_ids=[stored[3].passage_id])
    for n, passage in enumerate(stored):
        now = await archive.get(passage.passage_id)
        assert (now == passage) == (n != 3)


async def test_chains_never_close_to_a_ring(call: Call) -> None:
    service = await call(service="orchestrator")
    first = (await service.insert("one", passage_id="passage-1")).passage
    second = (await service.insert("two", supersedes_passage_ids=[first.passage_id])).passage
    third = (await service.insert("three", supersedes_passage_ids=[second.passage_id])).passage
    # The same named write again says what passage-1 says; that was replaced, so it replaces nothing.
    ring = service.insert("one", passage_id="passage-1", supersedes_passage_ids=[third.passage_id])
    error = await failure(ring)
    assert (error.reason_name, error.metadata["superseded_by"]) == ("INVALID_STATE", second.passage_id)
    chain = [(await service.get(one.passage_id)).superseded_by for one in (first, second, third)]
    assert chain == [second.passage_id, third.passage_id, ""]
    itself = await service.insert("three", supersedes_passage_ids=[third.passage_id])
    assert itself.duplicate
    assert (await service.get(third.passage_id)).superseded_by == ""
    left, right = [(await service.insert(text)).passage.passage_id for text in ("left", "right")]
    crossed = [
        pb.PassageItem(passage=pb.Passage(text="left"), supersedes_passage_ids=[right]),
        pb.PassageItem(passage=pb.Passage(text="right"), supersedes_passage_ids=[left]),
    ]
    outcomes = [result.WhichOneof("outcome") for result in (await service.insert_many(crossed)).results]
    assert outcomes == ["duplicate_of", "error"]
    assert [(await service.get(one)).superseded_by for one in (left, right)] == ["", left]


async def test_a_supersession_can_be_undone(archive: Archive) -> None:
    limited: dict[str, Any] = {"valid_from": at("2020-01-01T00:00:00Z"), "valid_to": at("2999-01-01T00:00:00Z")}
    old = (await archive.insert("the office is in Bonn", **limited)).passage
    new = (await archive.insert("the office is in Kiel", supersedes_passage_ids=[old.passage_id])).passage
    why = common_pb2.Provenance(reason="it was another office")
    back = await reinstate(archive, old.passage_id, provenance=why)
    assert (back.superseded_by, back.superseded_reason, back.version) == ("", "", 3)
    assert (back.valid_from, back.valid_to) == (old.valid_from, old.valid_to)
    assert sorted(await archive.found("office")) == ["the office is in Bonn", "the office is in Kiel"]
    assert (await failure(reinstate(archive, old.passage_id))).reason_name == "INVALID_STATE"
    assert (await archive.changes(passage_id=old.passage_id))[-1].provenance.reason == "it was another office"
    await archive.insert("the office is in Ulm", supersedes_passage_ids=[new.passage_id])
    await archive.insert("the office is in Kiel")
    assert (await failure(reinstate(archive, new.passage_id))).reason_name == "ALREADY_EXISTS"


async def test_a_restored_text_of_a_superseded_passage_does_not_make_it_true(archive: Archive) -> None:
    old = (await archive.insert("works at Acme")).passage
    await archive.update(old.passage_id, text="works at Acme Ltd")
    new = (await archive.insert("works at Umbrella", supersedes_passage_ids=[old.passage_id])).passage
    ended = await archive.get(old.passage_id)
    restored = await restore(archive, old.passage_id, 1)
    assert (restored.text, restored.superseded_by, restored.valid_to) == (
        "works at Acme",
        new.passage_id,
        ended.valid_to,
    )
    assert await archive.found("works") == ["works at Umbrella"]


async def test_another_user_sees_no_versions(call: Call) -> None:
    ann, bob = await call(user="ann"), await call(user="bob")
    hers = (await ann.insert("ann likes figs")).passage
    await ann.update(hers.passage_id, text="ann likes dates")
    for refused in (
        versions(bob, hers.passage_id),
        restore(bob, hers.passage_id, 1),
        reinstate(bob, hers.passage_id),
        versions(await call(tenant="umbrella"), hers.passage_id),
    ):
        assert (await failure(refused)).reason_name == "NOT_FOUND"
    shared = (await (await call()).insert("for all")).passage
    assert (await failure(restore(bob, shared.passage_id, 1))).reason_name == "USER_NOT_ALLOWED"


async def test_answers_are_checked_against_restores_too(archive: Archive, call: Call) -> None:
    base = (await archive.knowledge_base("shared")).knowledge_base_id
    stored = (await archive.insert("figs are sweet", owner=of_base(base))).passage
    await archive.update(stored.passage_id, text="figs are sour")
    service = await call(service="semantic_cache")

    async def unchanged(since: int) -> tuple[bool, int]:
        vector = common_pb2.Vector(values=vector_of("are figs sweet"), space_id="fake@64")
        request = pb.CheckUnchangedRequest(
            knowledge_base_id=base,
            since_revision=since,
            passage_ids=[stored.passage_id],
            vector=vector,
            kth_score=0.5,
        )
        response = await service.stub.CheckUnchanged(request)
        return response.unchanged, response.revision

    same, revision = await unchanged(2)
    assert (same, revision) == (True, 2)
    await restore(archive, stored.passage_id, 1)
    assert await unchanged(2) == (False, 3)
    unrelated = (await archive.insert("trains run late", owner=of_base(base))).passage
    assert await unchanged(3) == (True, 4)
    await archive.insert("trains run on time", owner=of_base(base), supersedes_passage_ids=[unrelated.passage_id])
    assert (await unchanged(4))[0]
    await reinstate(archive, unrelated.passage_id)
    assert (await unchanged(4))[0]
    assert (await archive.revisions()).get(f"{AGENT} passages") == 0
    cleared = await archive.update(stored.passage_id, update_mask=FieldMask(paths=["tags"]))
    assert cleared.version == 4
    assert not (await unchanged(4))[0]
