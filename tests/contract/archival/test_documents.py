"""Documents: cut into pieces that know their place, replaced piece by piece, unique by an index of the database."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import psycopg
import pytest

from mneme.archival.v1 import archival_pb2 as pb
from mneme.common.v1 import common_pb2
from tests.contract.archival.conftest import AGENT, SPACE, Archive, Call, item, vector_of

PARAGRAPHS = [f"Paragraph {n} tells of subject {n}. It has a second sentence about {n * n}." for n in range(12)]


def document(text: str, *, document_id: str = "handbook", replace: bool = False, **chunking: int) -> pb.PassageItem:
    """Returns an item that is cut, by default into pieces of a paragraph or two."""
    passage = pb.Passage(text=text, kind=pb.PASSAGE_KIND_DOCUMENT, document=pb.DocumentSpan(document_id=document_id))
    options = pb.Chunking(**(chunking or {"max_chars": 150, "overlap_chars": 0}))
    return pb.PassageItem(passage=passage, chunking=options, replace_document=replace)


async def pieces(archive: Archive, document_id: str = "handbook") -> list[pb.Passage]:
    found = await archive.list_all(filter=pb.PassageFilter(document_ids=[document_id]))
    return sorted(found, key=lambda p: p.document.start_char)


async def test_a_long_text_becomes_pieces_that_know_their_place(archive: Archive) -> None:
    text = "\n\n".join(PARAGRAPHS)
    response = await archive.insert_many(["before", document(text), "after"])
    assert (response.inserted_count, response.passage_count) == (3, 2 + len(response.results[1].piece_ids))
    found = await pieces(archive)
    assert [p.passage_id for p in found] == list(response.results[1].piece_ids)
    assert response.results[1].passage_id == found[0].passage_id
    assert all(text[p.document.start_char : p.document.end_char] == p.text for p in found)
    assert all(p.kind == pb.PASSAGE_KIND_DOCUMENT for p in found)
    assert await archive.found("subject 7", limit=1) == [next(p.text for p in found if "subject 7." in p.text)]
    again = await archive.insert_many([document(text)])
    assert (again.duplicate_count, again.passage_count) == (1, 0)
    assert list(again.results[0].piece_ids) == list(response.results[1].piece_ids)


async def test_a_text_over_the_limit_is_cut_unasked(archive: Archive) -> None:
    text = " ".join(f"Sentence number {n} of a long report." for n in range(300))
    response = await archive.insert_many([item(text)])
    stored = [await archive.get(one) for one in response.results[0].piece_ids]
    assert len(stored) > 4
    assert all(len(p.text) <= 1600 for p in stored)
    assert len({p.document.document_id for p in stored}) == 1
    assert all(before.document.end_char > after.document.start_char for before, after in pairwise(stored))
    given = common_pb2.Vector(values=vector_of("report"), space_id=SPACE)
    whole = await archive.insert_many([pb.PassageItem(passage=pb.Passage(text=text + "!"), vector=given)])
    assert whole.passage_count == 1, "a text with its vector stays whole"


async def test_a_section_stands_where_it_begins(archive: Archive) -> None:
    text = "\n\n".join(PARAGRAPHS)
    half = text.index("Paragraph 6")
    for start, section in ((0, text[:half]), (half, text[half:])):
        one = document(section)
        one.passage.document.start_char = start
        await archive.insert_many([one])
    found = await pieces(archive)
    assert all(text[p.document.start_char : p.document.end_char] == p.text for p in found)
    assert found[-1].document.end_char == len(text)


async def test_a_new_text_of_a_document_changes_only_what_changed(archive: Archive) -> None:
    """Peers' complaint 28: invalidation retires facts that are still true (getzep/graphiti/issues/1728)."""
    await archive.insert_many(
        [document("\n\n".join(PARAGRAPHS)), document("\n\n".join(PARAGRAPHS[:4]), document_id="other")]
    )
    before, other = await pieces(archive), await pieces(archive, "other")
    changed = ["A new beginning, of another length.", *PARAGRAPHS[:5], "Rewritten.", *PARAGRAPHS[6:]]
    text = "\n\n".join(changed)
    response = await archive.insert_many([document(text, replace=True)])
    after = await pieces(archive)
    assert all(text[p.document.start_char : p.document.end_char] == p.text for p in after)
    covered = {n for p in after for n in range(p.document.start_char, p.document.end_char)}
    assert all(text[n].isspace() for n in range(len(text)) if n not in covered)
    gone = {p.passage_id for p in before} - {p.passage_id for p in after}
    assert set(response.results[0].superseded_passage_ids) == gone
    kept = {p.passage_id: p for p in before if p.passage_id not in gone}
    assert len(kept) == len(before) - 2, "only the piece at the insertion and the rewritten one are cut anew"
    for old in [p for p in before if p.passage_id in gone]:
        ended = await archive.get(old.passage_id)
        assert ended.superseded_by in {p.passage_id for p in after}
        assert ended.superseded_reason == "the document has a new text"
    assert await pieces(archive, "other") == other
    moved = [p for p in after if p.passage_id in kept and p.document != kept[p.passage_id].document]
    assert moved
    assert all(p.version == 2 for p in moved)
    same = await archive.insert_many([document(text, replace=True)])
    assert (same.duplicate_count, list(same.results[0].superseded_passage_ids)) == (1, [])
    assert await pieces(archive) == after


async def test_two_new_texts_in_one_batch_come_one_after_the_other(archive: Archive) -> None:
    first, second = document("First text.", replace=True), document("Second text.", replace=True)
    response = await archive.insert_many([first, "between", second])
    assert [p.text for p in await pieces(archive)] == ["Second text."]
    assert list(response.results[2].superseded_passage_ids) == [response.results[0].passage_id]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (document("x", max_chars=50), "chunking.max_chars"),
        (document("x", max_chars=200, overlap_chars=101), "chunking.overlap_chars"),
        (document("x", document_id="", replace=True), "passage.document.document_id"),
        (
            pb.PassageItem(passage=pb.Passage(text="x"), chunking=pb.Chunking(), supersedes_passage_ids=["passage-1"]),
            "supersedes_passage_ids",
        ),
        (
            pb.PassageItem(
                passage=pb.Passage(text="x"),
                chunking=pb.Chunking(),
                vector=common_pb2.Vector(values=vector_of("x"), space_id=SPACE),
            ),
            "vector",
        ),
    ],
)
async def test_a_wrong_cut_is_refused(archive: Archive, wrong: pb.PassageItem, field: str) -> None:
    response = await archive.insert_many(["good", wrong])
    assert response.inserted_count == 1
    assert response.results[1].error.field == field


async def test_equal_texts_are_unique_in_the_database(archive: Archive, owner_url: str) -> None:
    """Peers' complaint 22: check, then insert, is a race (mem0ai/mem0/issues/6515)."""
    await archive.insert("one fact")
    copy = """
        INSERT INTO archival.agent_passages
        SELECT (jsonb_populate_record(p, jsonb_build_object('id', 'passage-copy'))).*
        FROM archival.agent_passages p"""
    with psycopg.connect(owner_url) as connection:
        connection.execute("SELECT set_config('app.tenant', 'acme', true)")
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute(copy)


async def test_what_is_promoted_from_documents_meets_the_same_rule(archive: Archive) -> None:
    """Peers' complaint 26: the path that promotes skips deduplication (redis/agent-memory-server/issues/110)."""
    by_insert = await archive.insert("promoted fact")
    by_batch = await archive.insert_many(["promoted fact"])
    by_ingest = await archive.ingest(["promoted fact"])
    by_service = await archive.insert_many([item("promoted fact")] * 3)
    assert by_batch.results[0].duplicate_of == by_insert.passage.passage_id
    assert (by_ingest.inserted_count, by_service.duplicate_count) == (0, 3)
    assert len(await archive.list_all()) == 1


async def test_32_documents_at_once_make_one(archive: Archive, call: Call) -> None:
    """Peers' complaint 23: the same race in another language (mem0ai/mem0/issues/6531)."""
    text = "\n\n".join(PARAGRAPHS)
    done = await asyncio.gather(*(archive.insert_many([document(text)]) for _ in range(32)))
    assert sum(one.inserted_count for one in done) == 1
    assert len({tuple(one.results[0].piece_ids) for one in done}) == 1
    assert len(await pieces(archive)) == len(done[0].results[0].piece_ids)


async def test_a_deleted_passage_stays_deleted(archive: Archive, embedding: Any) -> None:
    """Peers' complaint 27: background work brings deleted memories back (redis/agent-memory-server/pull/184)."""
    embedding.down = True
    response = await archive.insert_many([document("\n\n".join(PARAGRAPHS))])
    for passage_id in response.results[0].piece_ids:
        await archive.delete(passage_id)
    embedding.down = False
    indexed = (await archive.insert("indexed after them")).passage
    assert [p.passage_id for p in await archive.list_all()] == [indexed.passage_id]
    assert (await archive.stub.GetRevisions(pb.GetRevisionsRequest(agent_id=AGENT))).revisions[0].revision > 0
