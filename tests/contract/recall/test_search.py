"""Search by words, by meaning and by both, in English and Chinese, with embedding up and down."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from mneme.common.v1 import common_pb2
from mneme.recall.v1 import recall_pb2 as pb
from tests.contract.recall.conftest import (
    DIMENSIONS,
    SPACE,
    Embedding,
    Writer,
    asks,
    assistant,
    eventually,
    given_vector,
    result,
    texts,
    user,
    vector_of,
)
from tests.support.hosting import failure


async def test_words_are_found_at_once_in_any_form(writer: Writer) -> None:
    await writer.append(
        user("My name is Ann and I am allergic to nuts"),
        assistant("I will remember the allergy"),
        user("The order is SKU-4711 for 1,200 dollars"),
        user("我对坚果过敏，喜欢喝绿茶"),
        user("下周三去上海出差"),
    )
    assert texts(await writer.words("Ann's NUT names"))[0] == "My name is Ann and I am allergic to nuts"
    assert texts(await writer.words("What allergies are there?")) == ["I will remember the allergy"]
    assert texts(await writer.words("sku-4711"))[0].startswith("The order")
    assert texts(await writer.words("1200 dollar"))[0].startswith("The order")
    assert texts(await writer.words("我不能吃什么坚果？"))[0].startswith("我对坚果过敏")
    assert texts(await writer.words("我喝什么茶"))[0].startswith("我对坚果过敏")
    assert texts(await writer.words("什么时候去上海"))[0] == "下周三去上海出差"
    nothing = await writer.words("zebra")
    assert (texts(nothing), nothing.total_count, nothing.degraded) == ([], 0, False)


async def test_rare_words_count_more_and_long_texts_less(writer: Writer) -> None:
    await writer.append(
        *(user(f"the meeting about budget number {n}") for n in range(20)),
        user("the meeting about the giraffe"),
        user("giraffe " + "and many other animals of the zoo " * 30),
    )
    found = await writer.words("meeting giraffe", limit=3)
    assert texts(found)[0] == "the meeting about the giraffe"
    assert found.total_count == 22
    assert len(found.results) == 3
    scores = [one.score for one in found.results]
    assert scores == sorted(scores, reverse=True)
    assert all(one.parts.HasField("bm25") and not one.parts.HasField("cosine") for one in found.results)


async def test_each_agent_has_word_statistics_of_its_own(writer: Writer) -> None:
    await writer.append(user("giraffe"), user("zebra"))
    other = Writer(writer.stub, agent_id="agent-2")
    await other.append(*(user(f"giraffe {n}") for n in range(50)))
    before = (await writer.words("giraffe")).results[0].score
    await other.append(user("giraffe"))
    assert (await writer.words("giraffe")).results[0].score == before
    assert (await writer.words("giraffe")).total_count == 1


async def test_meaning_is_found_without_a_common_word(writer: Writer, embedding: Embedding) -> None:
    await writer.append(user("I love nuts"), user("the engine is loud"), user("she has a guitar"), user("!!!"))
    await writer.indexed()
    assert "user: I love nuts" in embedding.fake.texts

    found = await writer.search(semantic=pb.SemanticQuery(text="what food?", min_score=0.3))
    assert texts(found) == ["I love nuts"]
    assert found.total_count == 3
    assert found.results[0].score == pytest.approx(found.results[0].parts.cosine)
    assert not found.results[0].parts.HasField("bm25")
    assert texts(await writer.search(semantic=pb.SemanticQuery(vector=given_vector("music"), min_score=0.3))) == [
        "she has a guitar"
    ]
    states = [message.index_state for message in (await writer.window()).messages]
    assert states == [common_pb2.INDEX_STATE_INDEXED] * 3 + [common_pb2.INDEX_STATE_SKIPPED]


async def test_both_ways_complete_each_other(writer: Writer) -> None:
    await writer.append(
        user("I love nuts"), user("order SKU-4711 shipped"), user("a food without the code"), user("the engine is loud")
    )
    await writer.indexed()
    found = await writer.search(hybrid=pb.HybridQuery(text="food SKU-4711", min_score=0.2))
    assert texts(found)[0] == "order SKU-4711 shipped"
    assert set(texts(found)) == {"order SKU-4711 shipped", "a food without the code", "I love nuts"}
    by_text = {one.message.text: one for one in found.results}
    assert by_text["a food without the code"].parts.HasField("bm25")
    assert by_text["a food without the code"].parts.HasField("cosine")
    assert not by_text["I love nuts"].parts.HasField("bm25")
    given = await writer.search(hybrid=pb.HybridQuery(text="food", vector=given_vector("food")))
    assert texts(given)[0] in {"a food without the code", "I love nuts"}


async def test_an_outage_of_embedding_degrades_and_heals(writer: Writer, embedding: Embedding) -> None:
    embedding.fake.down = True
    await writer.append(user("I love nuts"))
    queries: list[dict[str, Any]] = [
        {"semantic": pb.SemanticQuery(text="nuts")},
        {"hybrid": pb.HybridQuery(text="nuts")},
    ]
    for query in queries:
        found = await writer.search(**query)
        assert (texts(found), found.degraded) == (["I love nuts"], True)
    assert (await writer.window()).messages[0].index_state == common_pb2.INDEX_STATE_PENDING

    embedding.fake.down = False
    await writer.indexed()
    found = await writer.search(semantic=pb.SemanticQuery(text="food"))
    assert (texts(found), found.degraded) == (["I love nuts"], False)


async def test_a_text_that_embedding_refuses_holds_up_no_other(writer: Writer, embedding: Embedding) -> None:
    embedding.fake.refused = "poison"
    await writer.append(user("poison"), *(user(f"food {n}") for n in range(5)))

    async def others_indexed() -> bool:
        states = [message.index_state for message in (await writer.window()).messages]
        return states == [common_pb2.INDEX_STATE_FAILED] + [common_pb2.INDEX_STATE_INDEXED] * 5

    await eventually(others_indexed)


async def test_a_vector_of_another_space_is_refused(writer: Writer) -> None:
    short = common_pb2.Vector(values=[1.0, 0.0], space_id=SPACE)
    elsewhere = common_pb2.Vector(values=vector_of("food"), space_id=f"other@{DIMENSIONS}")
    for vector in (short, elsewhere):
        for query in (
            {"semantic": pb.SemanticQuery(vector=vector)},
            {"hybrid": pb.HybridQuery(text="x", vector=vector)},
        ):
            error = await failure(writer.search(**query))
            assert error.reason_name == "DIMENSION_MISMATCH"
            assert error.metadata["expected"] == str(DIMENSIONS)
    for nowhere in ([0.0] * DIMENSIONS, [float("nan")] * DIMENSIONS, []):
        vector = common_pb2.Vector(values=nowhere, space_id=SPACE)
        error = await failure(writer.search(semantic=pb.SemanticQuery(vector=vector)))
        assert error.violations[0].field.startswith("semantic.vector")


@pytest.mark.parametrize("scale", [1e37, 1e-30])
async def test_only_the_direction_of_a_given_vector_counts(writer: Writer, scale: float) -> None:
    await writer.append(user("music"), user("food"))
    await writer.indexed()
    scaled = common_pb2.Vector(values=[value * scale for value in vector_of("music")], space_id=SPACE)
    found = await writer.search(semantic=pb.SemanticQuery(vector=scaled, min_score=0.3))
    plain = await writer.search(semantic=pb.SemanticQuery(vector=given_vector("music"), min_score=0.3))
    assert texts(found) == ["music"]
    assert found.results[0].score == pytest.approx(plain.results[0].score, abs=0.001)


async def test_filters_hold_for_every_kind_of_search(writer: Writer) -> None:
    old = Timestamp()
    old.FromDatetime(datetime(2020, 5, 1, tzinfo=UTC))
    await writer.append(user("food one", create_time=old), assistant("food two"), user("food three", hidden=True))
    other = Writer(writer.stub, user_id="bob")
    await other.append(user("food four"))
    await writer.indexed()
    start = Timestamp(seconds=old.seconds)
    end = Timestamp(seconds=old.seconds + 1)
    cases = [
        (pb.MessageFilter(), {"food one", "food two", "food four"}),
        (pb.MessageFilter(include_hidden=True), {"food one", "food two", "food three", "food four"}),
        (pb.MessageFilter(conversation_id=writer.conversation_id), {"food one", "food two"}),
        (pb.MessageFilter(user_id="bob"), {"food four"}),
        (pb.MessageFilter(roles=[pb.ROLE_ASSISTANT]), {"food two"}),
        (pb.MessageFilter(time_range=common_pb2.TimeRange(start=start, end=end)), {"food one"}),
        (pb.MessageFilter(time_range=common_pb2.TimeRange(start=start, end=start)), set()),
        (pb.MessageFilter(conversation_id=writer.conversation_id, before_sequence=2), {"food one"}),
    ]
    queries: list[dict[str, Any]] = [
        {},
        {"text": pb.TextQuery(text="food")},
        {"semantic": pb.SemanticQuery(text="food")},
        {"hybrid": pb.HybridQuery(text="food")},
    ]
    for wanted, expected in cases:
        assert {message.text for message in await writer.list(filter=wanted)} == expected
        for query in queries:
            found = await writer.search(**query, filter=wanted)
            assert set(texts(found)) == expected, (wanted, query)
            assert found.total_count == len(expected)


async def test_without_a_query_the_newest_come(writer: Writer) -> None:
    await writer.append(*(user(f"number {n}") for n in range(5)))
    found = await writer.search(limit=2)
    assert texts(found) == ["number 4", "number 3"]
    assert found.total_count == 5


async def test_neighbours_come_from_the_same_conversation(writer: Writer) -> None:
    await writer.append(*(user(f"number {n}", hidden=n == 3) for n in range(6)), user("giraffe"))
    await Writer(writer.stub).append(user("elsewhere"))
    await writer.append(user("after"))
    found = await writer.words("giraffe", neighbours=4)
    assert [message.text for message in found.results[0].neighbours] == ["number 2", "number 4", "number 5", "after"]


async def test_text_out_of_a_search_is_not_found_again(writer: Writer, embedding: Embedding) -> None:
    """Peers' complaint 24: one hallucination 668 times through a recall loop: mem0ai/mem0/issues/4573."""
    echo = result("call-1", "I love nuts")
    echo.provenance.from_recall = True
    await writer.append(user("I love nuts"), asks("call-1"), echo)
    await writer.indexed()
    assert (await writer.words("nuts")).total_count == 1
    assert (await writer.window()).messages[2].index_state == common_pb2.INDEX_STATE_SKIPPED
    assert "tool: I love nuts" not in embedding.fake.texts


async def test_bad_searches_are_refused(writer: Writer) -> None:
    later, sooner = Timestamp(seconds=2), Timestamp(seconds=1)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"limit": -1}, "limit"),
        ({"neighbours": 11}, "neighbours"),
        ({"text": pb.TextQuery()}, "text.text"),
        ({"semantic": pb.SemanticQuery()}, "semantic.text"),
        ({"semantic": pb.SemanticQuery(text="x", min_score=2)}, "semantic.min_score"),
        ({"filter": pb.MessageFilter(before_sequence=3)}, "filter.before_sequence"),
        ({"filter": pb.MessageFilter(time_range=common_pb2.TimeRange(start=later, end=sooner))}, "filter.time_range"),
    ]
    for fields, field in cases:
        assert (await failure(writer.search(**fields))).violations[0].field == field


async def test_a_short_answer_is_found_by_the_words_of_its_question(writer: Writer) -> None:
    await writer.append(
        *(assistant(f"the guitar lesson number {n} went well") for n in range(5)),
        assistant("What is the name of your guitar teacher?"),
        user("It is Rosalind"),
        user("the weather is fine"),
    )
    await writer.indexed()
    found = texts(await writer.search(hybrid=pb.HybridQuery(text="name of the guitar teacher"), limit=3))
    assert set(found[:2]) == {"What is the name of your guitar teacher?", "It is Rosalind"}


async def test_an_update_ranks_above_what_it_updates_and_a_time_above_others(writer: Writer) -> None:
    """Peers' complaint 28: the older fact stays; the newer one only comes first."""
    may, june = Timestamp(seconds=1_683_460_000), Timestamp(seconds=1_686_140_000)
    await writer.append(
        user("The quota of the weather service is 500 calls a day", create_time=may),
        user("The quota of the weather service has now been raised to 900 calls", create_time=june),
    )
    await writer.indexed()
    now = await writer.search(hybrid=pb.HybridQuery(text="What is the quota of the weather service?"))
    assert [text[-9:] for text in texts(now)] == ["900 calls", "lls a day"]
    was = pb.HybridQuery(
        text="the quota of the weather service in May 2023", time_zone="Asia/Shanghai", asked_time=june
    )
    assert texts(await writer.search(hybrid=was))[0].endswith("500 calls a day")
    error = await failure(writer.search(hybrid=pb.HybridQuery(text="x", time_zone="Mars/Olympus")))
    assert (error.reason_name, error.metadata["field"]) == ("INVALID_FIELD", "hybrid.time_zone")
