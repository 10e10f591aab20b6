"""Passages: stored once, read, listed, changed, deleted, replayed, kept apart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct

from mneme.archival.v1 import archival_pb2 as pb
from mneme.common.v1 import common_pb2
from tests.contract.archival.conftest import AGENT, SPACE, Archive, Call, at, item, new_id, of_agent, vector_of
from tests.support.hosting import failure


async def test_a_passage_comes_back_as_it_was_stored(archive: Archive) -> None:
    metadata = Struct()
    metadata.update({"source": "crm", "page": 3})
    response = await archive.insert(
        "Ann is allergic to nuts",
        kind=pb.PASSAGE_KIND_PREFERENCE,
        importance=0.75,
        tags=["health", "food", "health"],
        metadata=metadata,
        valid_from=at("2026-01-02T03:04:05Z"),
        document=pb.DocumentSpan(document_id="d1", start_char=10, end_char=33),
        provenance=common_pb2.Provenance(reason="she said so", source_message_ids=["message-1"]),
    )
    passage = response.passage
    assert not response.duplicate
    assert passage.passage_id.startswith("passage-")
    assert passage.owner.agent_id == AGENT
    assert passage.index_state == common_pb2.INDEX_STATE_INDEXED
    assert (passage.kind, passage.importance, list(passage.tags)) == (
        pb.PASSAGE_KIND_PREFERENCE,
        0.75,
        ["health", "food"],
    )
    assert dict(passage.metadata) == {"source": "crm", "page": 3}
    assert passage.valid_from == at("2026-01-02T03:04:05Z")
    assert passage.document.end_char == 33
    assert passage.provenance.source_message_ids == ["message-1"]
    assert passage.version == 1
    assert await archive.get(passage.passage_id) == passage
    assert await archive.list_all() == [passage]


async def test_the_same_text_is_stored_once(archive: Archive, call: Call) -> None:
    first = await archive.insert("tea is green")
    again = await archive.insert("tea is green")
    assert again.duplicate
    assert again.passage == first.passage
    other = await archive.insert("tea is green", owner=of_agent("agent-2"))
    assert not other.duplicate
    mine = await (await call(user="ann")).insert("tea is green")
    assert not mine.duplicate
    assert mine.passage.user_id == "ann"


async def test_a_fact_that_ended_is_stored_when_it_is_stated_again(archive: Archive) -> None:
    ended: dict[str, Any] = {"valid_from": at("2019-01-01T00:00:00Z"), "valid_to": at("2020-01-01T00:00:00Z")}
    past = await archive.insert("Ann works at Acme", **ended)
    now = await archive.insert("Ann works at Acme")
    assert (past.duplicate, now.duplicate) == (False, False)
    assert await archive.found("Acme") == ["Ann works at Acme"]
    assert (await archive.insert("Ann works at Acme")).passage == now.passage
    assert (await archive.insert("Ann works at Acme", **ended)).passage == past.passage
    later: dict[str, Any] = {"valid_to": at("2999-01-01T00:00:00Z")}
    assert (await archive.insert("Ann works at Acme", **later)).duplicate
    reopened = archive.update(past.passage.passage_id, update_mask=FieldMask(paths=["valid_to"]))
    assert (await failure(reopened)).reason_name == "ALREADY_EXISTS"


async def test_a_quarantined_copy_does_not_block_a_trusted_one(archive: Archive) -> None:
    aside = await archive.insert("the code is 42", quarantined=True)
    assert (await archive.insert("the code is 42", quarantined=True)).duplicate
    trusted = await archive.insert("the code is 42")
    assert not trusted.duplicate
    assert await archive.found("code") == ["the code is 42"]
    assert (await archive.insert("the code is 42", quarantined=True)).passage == trusted.passage
    release = archive.update(aside.passage.passage_id, update_mask=FieldMask(paths=["quarantined"]))
    assert (await failure(release)).reason_name == "ALREADY_EXISTS"
    batch = await archive.insert_many(
        [
            pb.PassageItem(passage=pb.Passage(text="both", quarantined=True)),
            pb.PassageItem(passage=pb.Passage(text="both")),
            pb.PassageItem(passage=pb.Passage(text="both", quarantined=True)),
        ]
    )
    assert (batch.inserted_count, batch.duplicate_count) == (2, 1)


async def test_a_merge_replaces_several(archive: Archive, call: Call) -> None:
    old = [(await archive.insert(text)).passage.passage_id for text in ("likes tea", "likes green tea", "drinks tea")]
    merged = await archive.insert("likes green tea best", supersedes_passage_ids=old[:2], supersede_reason="merged")
    assert [(await archive.get(one)).superseded_by for one in old[:2]] == [merged.passage.passage_id] * 2
    assert sorted(await archive.found("tea")) == ["drinks tea", "likes green tea best"]

    item = pb.PassageItem(passage=pb.Passage(text="drinks green tea"), supersedes_passage_ids=[old[2]])
    rival = pb.PassageItem(passage=pb.Passage(text="drinks black tea"), supersedes_passage_ids=[old[2]])
    late = pb.PassageItem(passage=pb.Passage(text="drinks milk"), supersedes_passage_ids=[old[0]])
    again = pb.PassageItem(passage=pb.Passage(text="drinks milk"))
    response = await archive.insert_many([item, rival, late, again])
    outcomes = [result.WhichOneof("outcome") for result in response.results]
    assert outcomes == ["passage_id", "error", "error", "passage_id"]
    assert (await archive.get(old[2])).superseded_by == response.results[0].passage_id
    by_words = await archive.found("drinks", mode=pb.SEARCH_MODE_LEXICAL)
    assert sorted(by_words) == ["drinks green tea", "drinks milk"]

    ann = await call(user="ann")
    theft = ann.insert("all mine", supersedes_passage_ids=[response.results[0].passage_id])
    assert (await failure(theft)).reason_name == "USER_NOT_ALLOWED"


async def test_32_identical_inserts_at_once_make_one_passage(archive: Archive) -> None:
    """Peers' complaints 22, 23: check, then insert, makes duplicates (mem0ai/mem0/issues/6515, issues/6531)."""
    responses = await asyncio.gather(*(archive.insert("one fact") for _ in range(32)))
    assert len({response.passage.passage_id for response in responses}) == 1
    assert sum(not response.duplicate for response in responses) == 1
    assert len(await archive.list_all()) == 1
    assert (await archive.revisions())[f"{AGENT} passages"] == 1
    assert len(await archive.changes()) == 1


async def test_a_retry_gets_the_first_response(archive: Archive) -> None:
    """Peers' complaint 29: a retried turn writes twice (redis-developer/adk-redis/issues/24)."""
    request_id = new_id()
    first, again = [await archive.insert("kept once", request_id=request_id) for _ in range(2)]
    assert first == again
    assert not again.duplicate
    error = await failure(archive.insert("other content", request_id=request_id))
    assert error.reason_name == "REQUEST_ID_REUSED"
    batch = [await archive.insert_many(["a", "b"], request_id="0b8f9a52-8c1b-4f0e-9d6f-3d7f5a1c2b3e") for _ in range(2)]
    assert batch[0] == batch[1]
    assert batch[1].inserted_count == 2


async def test_a_service_names_the_passage_to_repeat_its_write(call: Call) -> None:
    service = await call(service="orchestrator")
    first = await service.insert("from a step", passage_id="passage-5", user_id="ann")
    assert first.passage.passage_id == "passage-5"
    again = await service.insert("from a step", passage_id="passage-5", user_id="ann")
    assert again.duplicate
    assert again.passage.passage_id == "passage-5"
    assert (await failure(service.insert("other", passage_id="passage-5"))).reason_name == "ALREADY_EXISTS"
    user = await call()
    assert (await user.insert("named by a user", passage_id="passage-6")).passage.passage_id != "passage-6"


async def test_update_changes_what_the_mask_names(archive: Archive) -> None:
    stored = (await archive.insert("she drinks tea", importance=0.9, tags=["drink"])).passage
    changed = await archive.update(stored.passage_id, text="she drinks coffee")
    assert (changed.text, changed.version, round(changed.importance, 3)) == ("she drinks coffee", 2, 0.9)
    assert changed.index_state == common_pb2.INDEX_STATE_INDEXED
    assert await archive.found("coffee", mode=pb.SEARCH_MODE_LEXICAL) == ["she drinks coffee"]
    assert await archive.found("tea", mode=pb.SEARCH_MODE_LEXICAL) == []
    top = (await archive.search("she drinks coffee", mode=pb.SEARCH_MODE_SEMANTIC)).results[0]
    assert top.score == pytest.approx(1.0, abs=1e-2)
    cleared = await archive.update(stored.passage_id, update_mask=FieldMask(paths=["tags", "importance"]))
    assert (list(cleared.tags), cleared.importance, cleared.text) == ([], 0.5, "she drinks coffee")


async def test_update_refuses_what_cannot_be(archive: Archive) -> None:
    first = (await archive.insert("first")).passage
    await archive.insert("second")
    assert (await failure(archive.update(first.passage_id, text="second"))).reason_name == "ALREADY_EXISTS"
    unknown = archive.update(first.passage_id, update_mask=FieldMask(paths=["owner"]))
    assert (await failure(unknown)).reason_name == "INVALID_UPDATE_MASK"
    empty = archive.update(first.passage_id, update_mask=FieldMask(paths=["text"]))
    assert (await failure(empty)).metadata["field"] == "passage.text"
    assert (await failure(archive.update("passage-none", text="x"))).reason_name == "NOT_FOUND"
    recalled = archive.update(first.passage_id, text="third", provenance=common_pb2.Provenance(from_recall=True))
    assert (await failure(recalled)).metadata["field"] == "passage.provenance.from_recall"
    assert await archive.get(first.passage_id) == first


async def test_delete_removes_it_everywhere(archive: Archive) -> None:
    stored = (await archive.insert("to be forgotten")).passage
    wrong_agent = archive.delete(stored.passage_id, agent_id="agent-2")
    assert (await failure(wrong_agent)).reason_name == "NOT_FOUND"
    request_id = new_id()
    for _ in range(2):
        await archive.delete(stored.passage_id, agent_id=AGENT, request_id=request_id)
    assert (await failure(archive.get(stored.passage_id))).reason_name == "NOT_FOUND"
    assert (await failure(archive.delete(stored.passage_id))).reason_name == "NOT_FOUND"
    assert await archive.found("forgotten") == []
    assert not (await archive.insert("to be forgotten")).duplicate


async def test_recalled_text_is_no_new_fact(archive: Archive) -> None:
    """Peers' complaint 24: a hallucination stored 668 times through a recall loop (mem0ai/mem0/issues/4573)."""
    recalled = common_pb2.Provenance(from_recall=True)
    refused = await failure(archive.insert("what a search returned", provenance=recalled))
    assert refused.metadata["field"] == "passage.provenance.from_recall"
    summary = await archive.insert("in short", provenance=recalled, kind=pb.PASSAGE_KIND_SUMMARY)
    promoted = archive.update(summary.passage.passage_id, kind=pb.PASSAGE_KIND_FACT)
    assert (await failure(promoted)).reason_name == "INVALID_FIELD"


async def test_pages_follow_the_order_of_creation(archive: Archive) -> None:
    texts = [f"passage number {n}" for n in range(23)]
    await archive.insert_many(texts[:20])
    for text in texts[20:]:
        await archive.insert(text)
    assert [p.text for p in await archive.list_all(page_size=5)] == texts
    first = await archive.stub.ListPassages(pb.ListPassagesRequest(owner=of_agent(), page_size=5))
    await archive.insert("written meanwhile")
    token = first.next_page_token
    second = await archive.stub.ListPassages(pb.ListPassagesRequest(owner=of_agent(), page_size=5, page_token=token))
    assert [p.text for p in second.passages] == texts[5:10]
    foreign = pb.ListPassagesRequest(owner=of_agent("agent-2"), page_token=token)
    assert (await failure(archive.stub.ListPassages(foreign))).reason_name == "INVALID_PAGE_TOKEN"
    negative = pb.ListPassagesRequest(owner=of_agent(), page_size=-1)
    assert (await failure(archive.stub.ListPassages(negative))).reason_name == "INVALID_FIELD"


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"text": ""}, "INVALID_FIELD", "passage.text"),
        ({"text": " \n"}, "INVALID_FIELD", "passage.text"),
        ({"text": "a\0b"}, "INVALID_TEXT", "passage.text"),
        ({"text": "x" * 262145}, "TEXT_TOO_LONG", "passage.text"),
        ({"text": "x", "importance": 1.5}, "INVALID_FIELD", "passage.importance"),
        ({"text": "x", "kind": 99}, "UNKNOWN_ENUM_VALUE", "passage.kind"),
        ({"text": "x", "tags": [""]}, "INVALID_FIELD", "passage.tags[0]"),
        (
            {"text": "x", "valid_from": at("2026-02-01T00:00:00Z"), "valid_to": at("2026-01-01T00:00:00Z")},
            "INVALID_TIME_RANGE",
            "passage.valid_to",
        ),
        (
            {"text": "x", "document": pb.DocumentSpan(start_char=2, end_char=1)},
            "INVALID_FIELD",
            "passage.document.end_char",
        ),
        ({"text": "x", "vector": common_pb2.Vector(values=[1.0, 0.0], space_id=SPACE)}, "DIMENSION_MISMATCH", "vector"),
        (
            {"text": "x", "vector": common_pb2.Vector(values=vector_of("x"), space_id="other@64")},
            "DIMENSION_MISMATCH",
            "vector",
        ),
        ({"text": "x", "vector": common_pb2.Vector(values=[0.5] * 64, space_id=SPACE)}, "INVALID_FIELD", "vector"),
        ({"text": "x", "supersedes_passage_ids": ["passage-none"]}, "NOT_FOUND", ""),
        ({"text": "x", "request_id": "not a uuid"}, "INVALID_FIELD", "request_id"),
        ({"text": "x", "owner": pb.PassageOwner()}, "INVALID_FIELD", "owner"),
        ({"text": "x", "owner": pb.PassageOwner(knowledge_base_id="kb-none")}, "NOT_FOUND", ""),
    ],
)
async def test_bad_input_names_the_field(archive: Archive, fields: dict[str, object], reason: str, field: str) -> None:
    error = await failure(archive.insert(**fields))  # type: ignore[arg-type]
    assert error.reason_name == reason
    assert error.metadata.get("field", "") == field
    assert await archive.list_all() == []


async def test_big_metadata_is_refused(archive: Archive) -> None:
    metadata = Struct()
    metadata.update({"blob": "x" * 20_000})
    error = await failure(archive.insert("x", metadata=metadata))
    assert (error.reason_name, error.metadata["limit"]) == ("TEXT_TOO_LONG", "16384")
    broken = Struct()
    broken.update({"n": float("nan")})
    assert (await failure(archive.insert("x", metadata=broken))).code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_bad_item_spares_its_neighbours(archive: Archive) -> None:
    items = [
        item("good one"),
        item(""),
        item("x" * 262145),
        pb.PassageItem(passage=pb.Passage(text="y"), vector=common_pb2.Vector(values=[1.0], space_id=SPACE)),
        item("nul \0 here"),
        pb.PassageItem(),
        item("good one"),
        pb.PassageItem(
            passage=pb.Passage(text="with a vector"), vector=common_pb2.Vector(values=vector_of("z"), space_id=SPACE)
        ),
    ]
    response = await archive.insert_many(items)
    kinds = [result.WhichOneof("outcome") for result in response.results]
    assert kinds == ["passage_id", *["error"] * 5, "duplicate_of", "passage_id"]
    assert (response.inserted_count, response.duplicate_count, response.error_count) == (2, 1, 5)
    assert response.results[6].duplicate_of == response.results[0].passage_id
    fields = [result.error.field for result in response.results[1:6]]
    assert fields == ["passage.text", "passage.text", "vector", "passage.text", "passage"]
    assert [p.text for p in await archive.list_all()] == ["good one", "with a vector"]


async def test_an_ingest_stores_a_stream_and_can_be_sent_again(archive: Archive) -> None:
    texts = [f"line {n} of a long document" for n in range(700)]
    done = await archive.ingest([*texts, "", "x" * 262145])
    assert (done.inserted_count, done.duplicate_count, done.error_count) == (700, 0, 2)
    assert [error.index for error in done.errors] == [700, 701]
    again = await archive.ingest(texts)
    assert (again.inserted_count, again.duplicate_count, again.error_count) == (0, 700, 0)
    assert [p.text for p in await archive.list_all(page_size=500)] == texts


async def test_an_ingest_begins_with_its_start(archive: Archive) -> None:
    async def headless() -> AsyncIterator[pb.IngestPassagesRequest]:
        yield pb.IngestPassagesRequest(item=item("x"))

    assert (await failure(archive.send(headless()))).metadata["field"] == "start"


async def test_tenants_never_meet(call: Call) -> None:
    mine, theirs = await call(tenant="acme"), await call(tenant="umbrella")
    passage = (await mine.insert("the same text")).passage
    other = (await theirs.insert("the same text")).passage
    assert passage.passage_id != other.passage_id
    assert (await failure(theirs.get(passage.passage_id))).reason_name == "NOT_FOUND"
    assert (await failure(theirs.delete(passage.passage_id))).reason_name == "NOT_FOUND"
    assert (await failure(theirs.update(passage.passage_id, text="x"))).reason_name == "NOT_FOUND"
    assert (await failure(theirs.insert("y", supersedes_passage_ids=[passage.passage_id]))).reason_name == "NOT_FOUND"
    base = await mine.knowledge_base("shared")
    scope = pb.SearchScope(knowledge_base_ids=[base.knowledge_base_id])
    assert (await failure(theirs.search("text", scope=scope))).reason_name == "NOT_FOUND"
    for caller, own in ((mine, passage), (theirs, other)):
        assert [p.passage_id for p in await caller.list_all()] == [own.passage_id]
        assert [r.passage.passage_id for r in (await caller.search("same text")).results] == [own.passage_id]
        written = {change.resource_id for change in await caller.changes()}
        assert written - {base.knowledge_base_id} == {own.passage_id}
        assert (await caller.revisions())[f"{AGENT} passages"] == 1


async def test_users_see_their_own_and_what_all_share(call: Call) -> None:
    ann, bob, all_users = await call(user="ann"), await call(user="bob"), await call(scopes=())
    hers = (await ann.insert("ann likes figs")).passage
    shared = (await all_users.insert("everybody likes figs")).passage
    assert (await failure(bob.get(hers.passage_id))).reason_name == "NOT_FOUND"
    assert await bob.found("figs") == ["everybody likes figs"]
    assert sorted(await ann.found("figs")) == ["ann likes figs", "everybody likes figs"]
    assert await all_users.found("figs") == ["everybody likes figs"]
    on_behalf = await all_users.found("figs", filter=pb.PassageFilter(user_id="ann"))
    assert len(on_behalf) == 2
    administrator = await call(scopes=("admin",))
    assert len(await administrator.list_all()) == 2
    for refused in (
        bob.found("figs", filter=pb.PassageFilter(user_id="ann")),
        bob.insert("x", user_id="ann"),
        bob.delete(shared.passage_id),
        bob.update(shared.passage_id, text="bob's now"),
    ):
        assert (await failure(refused)).reason_name == "USER_NOT_ALLOWED"
    assert (await failure(bob.knowledge_base("bob's"))).reason_name == "CALLER_NOT_ALLOWED"
    agent = await call(service="orchestrator", user="bob")
    await agent.delete(shared.passage_id, agent_id=AGENT)
    assert (await failure(agent.delete(hers.passage_id, agent_id=AGENT))).reason_name == "NOT_FOUND"


async def test_the_audit_tells_of_every_write_and_holds_no_text(archive: Archive) -> None:
    reason = common_pb2.Provenance(reason="told so", source_message_ids=["message-9"])
    stored = (await archive.insert("a secret text", provenance=reason)).passage
    await archive.update(stored.passage_id, text="another secret")
    await archive.delete(stored.passage_id)
    changes = await archive.changes(agent_id=AGENT)
    assert [change.kind for change in changes] == [
        common_pb2.MEMORY_CHANGE_KIND_CREATED,
        common_pb2.MEMORY_CHANGE_KIND_UPDATED,
        common_pb2.MEMORY_CHANGE_KIND_DELETED,
    ]
    assert [(c.old_version, c.new_version) for c in changes] == [(0, 1), (1, 2), (2, 0)]
    assert [(c.old_chars, c.new_chars) for c in changes] == [(0, 13), (13, 14), (14, 0)]
    assert changes[0].new_sha256 == changes[1].old_sha256
    assert changes[0].provenance.source_message_ids == ["message-9"]
    assert all(change.actor for change in changes)
    assert "secret" not in str(changes)
    page = await archive.stub.ListMemoryChanges(pb.ListMemoryChangesRequest(page_size=2))
    rest = await archive.changes(page_size=2, page_token=page.next_page_token)
    assert [c.sequence for c in [*page.changes, *rest]] == [c.sequence for c in changes]


async def test_a_page_of_passages_ends_before_a_message_is_too_large(archive: Archive) -> None:
    for n in range(14):
        await archive.insert(f"{n} " + "x" * 260_000)
    first = await archive.stub.ListPassages(pb.ListPassagesRequest(owner=of_agent(), page_size=500))
    assert len(first.passages) == 12
    found = await archive.list_all(page_size=500)
    assert [passage.text.split()[0] for passage in found] == [str(n) for n in range(14)]
