"""Search: by meaning, by words, by both; filters, time, supersession, outage of the embedding service."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from google.protobuf.struct_pb2 import Struct

from mneme.archival.v1 import archival_pb2 as pb
from mneme.common.v1 import common_pb2
from tests.contract.archival.conftest import (
    AGENT,
    SPACE,
    Archive,
    FakeEmbedding,
    at,
    item,
    of_agent,
    until,
    vector_of,
)
from tests.support.hosting import failure

HYBRID, SEMANTIC, LEXICAL = pb.SEARCH_MODE_HYBRID, pb.SEARCH_MODE_SEMANTIC, pb.SEARCH_MODE_LEXICAL


async def test_meaning_finds_what_words_do_not(archive: Archive) -> None:
    await archive.insert_many(["Ann is allergic to nuts", "the car is red", "order SKU-4711 was shipped"])
    assert (await archive.found("almonds sickness", mode=SEMANTIC))[0] == "Ann is allergic to nuts"
    assert await archive.found("almonds sickness", mode=LEXICAL) == []
    assert (await archive.found("almonds sickness"))[0] == "Ann is allergic to nuts"


async def test_words_find_codes_and_any_word_may_match(archive: Archive) -> None:
    await archive.insert_many(["order SKU-4711 was shipped", "order SKU-4712 was lost", "the car is red"])
    assert (await archive.found("what happened to SKU-4711?"))[0] == "order SKU-4711 was shipped"
    assert await archive.found("shipped unicorns", mode=LEXICAL) == ["order SKU-4711 was shipped"]


async def test_chinese_is_found_by_its_words(archive: Archive) -> None:
    await archive.insert_many(["小明对花生过敏", "会议在星期五举行", "他喜欢绿茶"])
    assert (await archive.found("谁对花生过敏？", mode=LEXICAL))[0] == "小明对花生过敏"
    assert (await archive.found("会议什么时候？"))[0] == "会议在星期五举行"
    assert (await archive.found("他喝什么茶", mode=LEXICAL))[0] == "他喜欢绿茶"


async def test_scores_are_cosines_and_are_explained(archive: Archive) -> None:
    await archive.insert_many(["alpha beta", "alpha gamma", "delta"])
    exact = (await archive.search("alpha beta", mode=SEMANTIC, explain=True)).results
    assert exact[0].score == pytest.approx(1.0, abs=1e-2)
    assert exact[0].score == exact[0].parts.cosine
    assert all(result.score == max(0.0, result.parts.cosine) for result in exact)
    by_vector = await archive.search(mode=SEMANTIC, vector=common_pb2.Vector(values=vector_of("delta"), space_id=SPACE))
    assert by_vector.results[0].passage.text == "delta"
    hybrid = (await archive.search("alpha beta", explain=True)).results
    parts = hybrid[0].parts
    assert all(parts.HasField(name) for name in ("cosine", "bm25", "recency", "importance", "validity"))
    plain = (await archive.search("alpha beta")).results[0].parts
    assert plain.HasField("cosine")
    assert not plain.HasField("recency")
    scores = [result.score for result in hybrid]
    assert scores == sorted(scores, reverse=True)


async def test_min_score_is_a_cosine(archive: Archive) -> None:
    await archive.insert_many(["alpha beta", "alpha gamma", "delta epsilon zeta alpha"])
    assert await archive.found("alpha beta", mode=SEMANTIC, min_score=0.9) == ["alpha beta"]
    assert len(await archive.found("alpha beta", min_score=0.9)) == 3
    assert await archive.found("alpha beta", min_score=0.9, strict_min_score=True) == ["alpha beta"]
    assert await archive.found("alpha beta", mode=LEXICAL, min_score=0.9, strict_min_score=True) == ["alpha beta"]
    assert await archive.found("nothing alike", mode=SEMANTIC, min_score=0.99) == []


@pytest.mark.parametrize("mode", [HYBRID, SEMANTIC, LEXICAL])
async def test_a_search_returns_its_full_limit(archive: Archive, mode: pb.SearchMode.ValueType) -> None:
    await archive.insert_many([f"alpha {n}" for n in range(300)])
    await archive.insert_many([f"alpha {n}" for n in range(1000)], owner=of_agent("agent-2"))
    for limit, expected in ((0, 10), (1, 1), (57, 57), (200, 200), (500, 200)):
        response = await archive.search("alpha", mode=mode, limit=limit)
        assert len(response.results) == expected
        assert all(result.passage.owner.agent_id == AGENT for result in response.results)
    assert response.total_count == (300 if mode == LEXICAL else 100)


async def test_filters_hold_together(archive: Archive) -> None:
    metadata = Struct()
    metadata.update({"team": "a", "level": 2})
    await archive.insert("alpha one", tags=["x", "y"], metadata=metadata)
    await archive.insert("alpha two", tags=["x"], kind=pb.PASSAGE_KIND_PREFERENCE)
    await archive.insert("alpha three", tags=["z"], quarantined=True)

    async def found(**fields: object) -> list[str]:
        return sorted(await archive.found("alpha", filter=pb.PassageFilter(**fields)))  # type: ignore[arg-type]

    team, nobody = Struct(), Struct()
    team.update({"team": "a"})
    nobody.update({"team": "b"})
    assert await found() == ["alpha one", "alpha two"]
    assert await found(all_tags=["x", "y"]) == ["alpha one"]
    assert await found(any_tags=["y", "z"]) == ["alpha one"]
    assert await found(any_tags=["z"], include_quarantined=True) == ["alpha three"]
    assert await found(metadata=team) == ["alpha one"]
    assert await found(metadata=nobody) == []
    assert await found(kinds=[pb.PASSAGE_KIND_PREFERENCE]) == ["alpha two"]
    assert await found(all_tags=["x"], kinds=[pb.PASSAGE_KIND_FACT]) == ["alpha one"]
    past, future = at("2020-01-01T00:00:00Z"), at("2999-01-01T00:00:00Z")
    assert await found(create_time_range=common_pb2.TimeRange(start=future)) == []
    assert len(await found(create_time_range=common_pb2.TimeRange(start=past, end=future))) == 2
    assert await found(recorded_as_of=past) == []
    backwards = found(create_time_range=common_pb2.TimeRange(start=future, end=past))
    assert (await failure(backwards)).reason_name == "INVALID_TIME_RANGE"


async def test_a_superseded_fact_stays_true_for_its_time(archive: Archive) -> None:
    old = (await archive.insert("Ann lives in Berlin", valid_from=at("2020-01-01T00:00:00Z"))).passage
    new = await archive.insert(
        "Ann lives in Paris",
        valid_from=at("2024-01-01T00:00:00Z"),
        supersedes_passage_ids=[old.passage_id],
        supersede_reason="she moved",
    )
    replaced = await archive.get(old.passage_id)
    assert (replaced.superseded_by, replaced.superseded_reason) == (new.passage.passage_id, "she moved")
    assert replaced.valid_to == at("2024-01-01T00:00:00Z")

    async def lives(**fields: object) -> list[str]:
        return await archive.found("where Ann lives", filter=pb.PassageFilter(**fields))  # type: ignore[arg-type]

    assert await lives() == ["Ann lives in Paris"]
    assert await lives(as_of=at("2022-06-01T00:00:00Z")) == ["Ann lives in Berlin"]
    assert await lives(as_of=at("2019-06-01T00:00:00Z")) == []
    for mode in (HYBRID, SEMANTIC, LEXICAL):
        both = await archive.search(
            "Ann lives in Berlin", mode=mode, explain=True, filter=pb.PassageFilter(include_superseded=True)
        )
        assert [result.passage.text for result in both.results] == ["Ann lives in Paris", "Ann lives in Berlin"]
        assert both.results[0].score >= both.results[1].score
        assert both.results[1].parts.validity < 1
    twice = archive.insert("Ann lives in Rome", supersedes_passage_ids=[old.passage_id])
    assert (await failure(twice)).metadata["superseded_by"] == new.passage.passage_id
    assert [p.text for p in await archive.list_all()] == ["Ann lives in Paris"]


async def test_a_fact_that_became_true_again_is_stored_again(archive: Archive) -> None:
    """Peers' complaint 21: a contradiction deleted the old fact and stored nothing (mem0ai/mem0/issues/4536)."""
    berlin = (await archive.insert("lives in Berlin")).passage
    paris = (await archive.insert("lives in Paris", supersedes_passage_ids=[berlin.passage_id])).passage
    back = await archive.insert("lives in Berlin", supersedes_passage_ids=[paris.passage_id])
    assert not back.duplicate
    assert [p.text for p in await archive.list_all()] == ["lives in Berlin"]
    same = await archive.insert("lives in Berlin", supersedes_passage_ids=[back.passage.passage_id])
    assert same.duplicate
    assert same.passage.superseded_by == ""


async def test_importance_moves_equals_and_diversity_parts_them(archive: Archive) -> None:
    await archive.insert("alpha beta one", importance=0.0)
    await archive.insert("alpha beta two", importance=1.0)
    assert (await archive.found("alpha beta"))[0] == "alpha beta two"
    await archive.insert("alpha theta")
    assert set((await archive.found("alpha beta"))[:2]) == {"alpha beta one", "alpha beta two"}
    assert "alpha theta" in (await archive.found("alpha beta", diversity=0.9))[:2]


async def test_a_search_needs_a_scope_and_a_query(archive: Archive) -> None:
    assert (await failure(archive.search("x", scope=pb.SearchScope()))).metadata["field"] == "scope"
    assert (await failure(archive.search("  "))).metadata["field"] == "query"
    assert (await failure(archive.search("x", limit=-1))).reason_name == "INVALID_FIELD"
    wrong = common_pb2.Vector(values=[1.0, 0.0], space_id=SPACE)
    assert (await failure(archive.search("x", vector=wrong))).reason_name == "DIMENSION_MISMATCH"
    assert await archive.found("anything", agent="agent-unknown") == []
    await archive.insert("word")
    assert await archive.found("'; DROP TABLE -- % & | ! ( ) :* word") == ["word"]


async def test_an_outage_of_embedding_costs_meaning_only_and_is_caught_up(
    archive: Archive, embedding: FakeEmbedding
) -> None:
    """Complaints 16 to 20: accepted writes that are never indexed, without a word."""
    embedding.down = True
    stored = (await archive.insert("Ann is allergic to nuts")).passage
    assert stored.index_state == common_pb2.INDEX_STATE_PENDING
    await archive.insert_many([f"filler {n}" for n in range(40)])
    found = await archive.search("allergic to what", limit=5)
    assert found.degraded
    assert found.results[0].passage.text == "Ann is allergic to nuts"
    assert (await archive.search("allergic", mode=LEXICAL)).degraded is False
    before = (await archive.revisions())[f"{AGENT} passages"]

    embedding.down = False

    async def indexed() -> bool:
        return all(p.index_state == common_pb2.INDEX_STATE_INDEXED for p in await archive.list_all())

    await until(indexed)
    assert (await archive.revisions())[f"{AGENT} passages"] > before

    async def answers() -> bool:
        return not (await archive.search("almonds sickness", mode=SEMANTIC)).degraded

    await until(answers)
    assert (await archive.found("almonds sickness", mode=SEMANTIC))[0] == "Ann is allergic to nuts"


async def test_one_text_that_cannot_be_embedded_fails_alone(archive: Archive, embedding: FakeEmbedding) -> None:
    embedding.poison = "poison"
    response = await archive.insert_many(["healthy one", "poison two", "healthy three"])
    assert response.inserted_count == 3
    wanted = {"healthy one": common_pb2.INDEX_STATE_INDEXED, "poison two": common_pb2.INDEX_STATE_FAILED}

    async def settled() -> bool:
        states = {p.text: p.index_state for p in await archive.list_all()}
        return all(states[text] == state for text, state in wanted.items())

    await until(settled)
    failed = await archive.get(response.results[1].passage_id)
    assert failed.index_error
    assert await archive.found("poison", mode=LEXICAL) == ["poison two"]
    changed = await archive.update(failed.passage_id, text="healthy now")
    assert (changed.index_state, changed.index_error) == (common_pb2.INDEX_STATE_INDEXED, "")


async def test_a_failed_text_is_tried_again(archive: Archive, embedding: FakeEmbedding, owner_url: str) -> None:
    embedding.poison = "poison"
    stored = (await archive.insert("poison no more")).passage

    async def in_state(state: common_pb2.IndexState.ValueType) -> bool:
        return (await archive.get(stored.passage_id)).index_state == state

    await until(lambda: in_state(common_pb2.INDEX_STATE_FAILED))
    failed = pb.PassageFilter(index_states=[common_pb2.INDEX_STATE_FAILED])
    [shown] = await archive.list_all(filter=failed)
    assert "refused" in shown.index_error
    before = (await archive.revisions())[f"{AGENT} passages"]
    for poison in ("poison", ""):
        embedding.poison = poison
        asked = embedding.calls
        with psycopg.connect(owner_url) as connection:
            due = "UPDATE archival.index_queue SET due_time = now() WHERE due_time > now() + interval '1 hour'"
            assert connection.execute(due).rowcount == 1, "it waits for the next day"
        await until(lambda: _asked_again(embedding, asked))  # noqa: B023 - awaited within the round
        wanted = common_pb2.INDEX_STATE_FAILED if poison else common_pb2.INDEX_STATE_INDEXED
        await until(lambda: in_state(wanted))  # noqa: B023 - awaited within the round
        if poison:
            assert (await archive.revisions())[f"{AGENT} passages"] == before, "the same failure is no news"
            await until(lambda: _waits(owner_url))
    assert await archive.list_all(filter=failed) == []


async def _asked_again(embedding: FakeEmbedding, before: int) -> bool:
    return embedding.calls > before


async def _waits(owner_url: str) -> bool:
    with psycopg.connect(owner_url) as connection:
        later = "SELECT FROM archival.index_queue WHERE due_time > now() + interval '1 hour'"
        return connection.execute(later).rowcount == 1


async def test_what_is_stored_already_costs_no_embedding(archive: Archive, embedding: FakeEmbedding) -> None:
    await archive.ingest([f"line {n}" for n in range(20)])
    made = len(embedding.texts)
    await archive.ingest([f"line {n}" for n in range(20)])
    handed_in = pb.PassageItem(
        passage=pb.Passage(text="with a vector"), vector=common_pb2.Vector(values=vector_of("v"), space_id=SPACE)
    )
    await archive.insert_many([handed_in])
    assert len(embedding.texts) == made


async def test_a_search_beside_writers_misses_nothing_committed(archive: Archive) -> None:
    await archive.insert("alpha first")

    async def write(n: int) -> None:
        await archive.insert_many([item(f"alpha {n} {k}") for k in range(10)])

    async def look() -> int:
        found = await archive.found("alpha first", limit=200)
        assert found[0] == "alpha first"
        return len(found)

    async with asyncio.TaskGroup() as tasks:
        for n in range(8):
            tasks.create_task(write(n))
            tasks.create_task(look())
    assert await look() == 81
