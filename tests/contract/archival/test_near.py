"""Near duplicates are told to the writer and never merged; writing costs what it must and no more."""

from __future__ import annotations

from mneme.archival.v1 import archival_pb2 as pb
from tests.contract.archival.conftest import (
    Archive,
    Call,
    FakeEmbedding,
    item,
    new_id,
    of_agent,
    of_base,
)


async def test_paraphrases_are_reported(archive: Archive) -> None:
    """Peers' complaint 25: 15 paraphrases stored as 13, and nobody is told (mem0ai/mem0/issues/5850)."""
    first = (await archive.insert("Ann may not eat nuts today please")).passage
    await archive.insert("trains run late in winter")
    words = ["Ann", "may", "not", "eat", "nuts", "today", "please"]
    reported = []
    for n in range(len(words)):
        # The same words in another order: near by any measure, another text.
        text = " ".join(words[n + 1 :] + words[: n + 1]) + " " * (n == len(words) - 1)
        response = await archive.insert(text, near_limit=20)
        assert not response.duplicate, "nothing is merged"
        assert response.near.known
        reported.append([near.passage_id for near in response.near.passages])
        assert all(near.score >= 0.9 for near in response.near.passages)
    assert all(first.passage_id in near for near in reported)
    assert [len(near) for near in reported] == [n + 1 for n in range(len(words))]
    assert len(await archive.list_all()) == 2 + len(words)


async def test_only_what_concerns_the_writer_is_reported(
    archive: Archive, call: Call, embedding: FakeEmbedding
) -> None:
    base = (await archive.knowledge_base("shared")).knowledge_base_id
    await archive.attach(base)
    for owner in (of_agent(), of_agent("agent-2"), of_base(base)):
        await archive.insert("figs are sweet", owner=owner)
    ann, bob = await call(user="ann"), await call(user="bob")
    await ann.insert("sweet are figs")
    same = await archive.insert("figs are sweet", near_limit=5)
    assert same.duplicate
    assert list(same.near.passages) == [], "the same text is a duplicate, not a near one"
    assert len((await bob.insert("are figs sweet", near_limit=5)).near.passages) == 1
    assert len((await ann.insert("are sweet figs", near_limit=5)).near.passages) == 2
    assert len((await archive.insert("sweet figs are", near_limit=1)).near.passages) == 1
    assert not (await archive.insert("sweet figs are they")).HasField("near")
    embedding.down = True
    unknown = await archive.insert("sweet are they", near_limit=5)
    assert not unknown.near.known


async def test_a_batch_tells_of_each_item(archive: Archive) -> None:
    await archive.insert("figs are sweet")
    request = pb.InsertPassagesRequest(
        request_id=new_id(),
        owner=of_agent(),
        items=[item("sweet figs are"), item(""), item("trains run late")],
        near_limit=3,
    )
    response = await archive.stub.InsertPassages(request)
    assert [len(result.near.passages) for result in response.results] == [1, 0, 0]
    assert [result.near.known for result in response.results] == [True, False, True]
    assert await archive.stub.InsertPassages(request) == response


async def test_a_hundred_records_cost_one_call_of_the_model(archive: Archive, embedding: FakeEmbedding) -> None:
    """Peers' complaint 30: 100 records take an hour, 24,000 calls in two (getzep/graphiti/issues/1262, issues/290)."""
    texts = [f"record {n}" for n in range(100)]
    await archive.ingest(texts)
    assert embedding.calls == 1
    await archive.ingest(texts)
    await archive.insert_many(texts)
    assert embedding.calls == 1, "what is stored already costs none"


async def test_one_memory_costs_one_call_of_the_model(archive: Archive, embedding: FakeEmbedding) -> None:
    """Peers' complaint 31: adding one memory takes 4 to 20 seconds of calls (mem0ai/mem0/issues/3097, issues/2813)."""
    for n in range(5):
        await archive.insert(f"memory {n}", near_limit=5)
    assert embedding.calls == 5
