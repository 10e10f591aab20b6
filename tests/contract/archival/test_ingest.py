"""Ingests: items settled one by one, a durable place to go on from, many at once, servers and clients that go away."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import grpc
import pytest

from mneme.archival.service import build
from mneme.archival.v1 import archival_pb2 as pb
from mneme.client import Client, SyncClient
from mneme.common.v1 import common_pb2
from mneme.runtime.dev_credentials import mint_dev_token
from mneme.settings import ArchivalSettings, PeersSettings, ServerSettings
from tests.contract.archival.conftest import (
    Archive,
    Call,
    FakeEmbedding,
    item,
    new_id,
    of_agent,
    of_base,
    serving,
    until,
)
from tests.support.hosting import Hosting, Replica, failure


async def stream(
    items: Iterable[pb.PassageItem | str],
    *,
    request_id: str,
    first_index: int = 0,
    owner: pb.PassageOwner | None = None,
    hold: asyncio.Event | None = None,
) -> AsyncIterator[pb.IngestPassagesRequest]:
    """Yields the messages of a stream, which stays open while `hold` is not set."""
    start = pb.IngestStart(request_id=request_id, owner=owner or of_agent(), first_index=first_index)
    yield pb.IngestPassagesRequest(start=start)
    for one in items:
        yield pb.IngestPassagesRequest(item=item(one))
    if hold is not None:
        await hold.wait()


async def progress(archive: Archive, request_id: str) -> pb.GetIngestResponse:
    return await archive.stub.GetIngest(pb.GetIngestRequest(request_id=request_id))


async def cut_after(archive: Archive, items: list[str], request_id: str) -> int:
    """Sends items, cuts the stream once the first batch is settled; returns where the server is then."""
    hold = asyncio.Event()
    call = archive.stub.IngestPassages(stream(items, request_id=request_id, hold=hold))

    async def settled() -> bool:
        try:
            return (await progress(archive, request_id)).next_index >= len(items) // 256 * 256
        except grpc.aio.AioRpcError:
            return False

    await until(settled)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    return (await progress(archive, request_id)).next_index


async def test_a_bad_item_in_the_middle_of_a_stream_spares_its_neighbours(archive: Archive) -> None:
    """Peers' complaint 16: success is reported, then the item is dropped (getzep/graphiti/issues/1707)."""
    request_id, texts = new_id(), [f"fact {n}" for n in range(300)]
    sent = [*texts[:150], "", *texts[150:], "fact 7"]
    done = await archive.send(stream(sent, request_id=request_id))
    assert (done.inserted_count, done.duplicate_count, done.error_count, done.next_index) == (300, 1, 1, 302)
    assert [(one.index, one.error.field) for one in done.errors] == [(150, "passage.text")]
    known = await progress(archive, request_id)
    assert (known.inserted_count, known.duplicate_count, known.error_count) == (300, 1, 1)
    assert list(known.errors) == list(done.errors)
    assert (known.next_index, known.passage_count, known.owner) == (302, 300, of_agent())
    assert [p.text for p in await archive.list_all(page_size=500)] == texts


async def test_a_place_behind_every_document_spares_its_neighbours(archive: Archive) -> None:
    """A place that no column can hold once made the whole stream fail."""
    far = pb.PassageItem(
        passage=pb.Passage(text="far", document=pb.DocumentSpan(document_id="d", start_char=2**63 - 5))
    )
    request_id = new_id()
    response = await archive.stub.IngestPassages(stream(["before", far, "after"], request_id=request_id))
    assert (response.inserted_count, response.error_count) == (2, 1)
    assert response.errors[0].error.field.endswith("passage.document.start_char")


async def test_a_cut_ingest_goes_on_where_it_was(archive: Archive, embedding: FakeEmbedding) -> None:
    """Peers' complaint 20: what is sent is kept or not, by chance (memodb-io/memobase/issues/109)."""
    request_id, texts = new_id(), [f"line {n} of the book" for n in range(700)]
    place = await cut_after(archive, texts[:300], request_id)
    assert 256 <= place < 700
    done = await archive.send(stream(texts[place:], request_id=request_id, first_index=place))
    assert (done.inserted_count, done.duplicate_count, done.error_count, done.next_index) == (700, 0, 0, 700)
    assert [p.text for p in await archive.list_all(page_size=500)] == texts
    again = await archive.send(stream(texts[600:], request_id=request_id, first_index=600))
    assert again == done, "items before the place are skipped"
    assert len(embedding.texts) == 700, "nothing that was settled is embedded again"


async def test_a_cut_ingest_can_be_sent_again_whole(archive: Archive) -> None:
    request_id, texts = new_id(), [f"page {n}" for n in range(300)]
    place = await cut_after(archive, texts, request_id)
    done = await archive.send(stream(texts, request_id=request_id))
    assert (done.inserted_count, done.duplicate_count, done.next_index) == (300 - place, place, 300)
    assert [p.text for p in await archive.list_all(page_size=500)] == texts


async def test_an_ingest_is_not_continued_wrongly(archive: Archive, call: Call) -> None:
    request_id = new_id()
    assert (await failure(progress(archive, request_id))).reason_name == "NOT_FOUND"
    early = archive.send(stream(["x"], request_id=request_id, first_index=5))
    assert (await failure(early)).reason_name == "NOT_FOUND"
    await archive.send(stream(["a", "b"], request_id=request_id))
    gap = await failure(archive.send(stream(["d"], request_id=request_id, first_index=3)))
    assert (gap.reason_name, gap.metadata["next_index"]) == ("INVALID_STATE", "2")
    other = archive.send(stream(["c"], request_id=request_id, owner=of_agent("agent-2"), first_index=2))
    assert (await failure(other)).reason_name == "REQUEST_ID_REUSED"
    assert (await failure(progress(await call(user="ann"), request_id))).reason_name == "NOT_FOUND"
    assert (await failure(progress(await call(tenant="umbrella"), request_id))).reason_name == "NOT_FOUND"
    unknown = archive.send(stream([], request_id=new_id(), owner=of_base("kb-none")))
    assert (await failure(unknown)).reason_name == "NOT_FOUND"


@pytest.mark.parametrize("late", [1, 256])
async def test_a_stream_that_was_taken_over_stores_nothing_more(archive: Archive, late: int) -> None:
    """A full batch is refused at once, though nothing more comes and the stream stays open."""
    request_id, going_on, never = new_id(), asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[pb.IngestPassagesRequest]:
        async for message in stream([f"old {n}" for n in range(256)], request_id=request_id):
            yield message
        await going_on.wait()
        for number in range(late):
            yield pb.IngestPassagesRequest(item=item(f"{number} from a zombie"))
        if late == 256:
            await never.wait()

    old = asyncio.ensure_future(archive.send(slow()))

    async def first_batch() -> bool:
        return len(await archive.list_all(page_size=500)) == 256

    await until(first_batch)
    done = await archive.send(stream(["new"], request_id=request_id, first_index=256))
    assert (done.inserted_count, done.next_index) == (257, 257)
    going_on.set()
    assert (await failure(old)).metadata["state"] == "TAKEN_OVER"
    assert await archive.found("zombie", mode=pb.SEARCH_MODE_LEXICAL) == []
    assert (await progress(archive, request_id)).next_index == 257


async def test_ten_ingests_at_once_into_one_knowledge_base(archive: Archive) -> None:
    """Peers' complaints 22 and 23: writers at once make duplicates (mem0ai/mem0/issues/6515, issues/6531)."""
    base = (await archive.knowledge_base("shared")).knowledge_base_id
    # Half of each writer's items are everybody's.
    texts = [[f"common {n}" for n in range(40)] + [f"own {writer} {n}" for n in range(40)] for writer in range(10)]
    done = await asyncio.gather(*(archive.ingest(own, owner=of_base(base)) for own in texts))
    assert sum(one.inserted_count for one in done) == 40 + 400
    assert sum(one.duplicate_count for one in done) == 9 * 40
    found = await archive.list_all(owner=of_base(base), page_size=500)
    assert len(found) == len({p.text for p in found}) == 440
    kept = await archive.stub.GetKnowledgeBase(pb.GetKnowledgeBaseRequest(knowledge_base_id=base))
    assert kept.knowledge_base.passage_count == 440


async def test_an_ingest_during_an_outage_tells_what_still_waits(archive: Archive, embedding: FakeEmbedding) -> None:
    """Peers' complaint 18: the scheduler runs and processes nothing (MemTensor/MemOS/issues/1395)."""
    embedding.down = True
    request_id = new_id()
    await archive.send(stream(["one tea", "two teas"], request_id=request_id))
    assert (await progress(archive, request_id)).pending_count == 2
    waiting = pb.PassageFilter(index_states=[common_pb2.INDEX_STATE_PENDING])
    assert len(await archive.list_all(filter=waiting)) == 2
    embedding.down = False

    async def indexed() -> bool:
        return (await progress(archive, request_id)).pending_count == 0

    await until(indexed)
    assert await archive.list_all(filter=waiting) == []


def client_options(replica: Replica) -> dict[str, Any]:
    return {"address": replica.server.address, "token": mint_dev_token(replica.data_dir, "acme", "")}


async def test_the_client_ingests_in_one_call(archive: Archive, replica: Replica) -> None:
    seen: list[int] = []
    texts = [f"item {n}" for n in range(1100)]
    async with Client.connect(**client_options(replica)) as client:
        done = await client.ingest(of_agent(), iter(texts), progress=lambda so_far: seen.append(so_far.next_index))
        empty = await client.ingest(of_agent(), [])
    assert (done.inserted_count, seen) == (1100, [1024, 1100])
    assert empty.next_index == 0
    assert len(await archive.list_all(page_size=500)) == 1100


async def test_the_client_goes_on_with_an_ingest_of_an_earlier_run(archive: Archive, replica: Replica) -> None:
    request_id, texts = new_id(), [f"item {n}" for n in range(20)]
    await archive.send(stream(texts[:12], request_id=request_id))

    def ingest() -> pb.IngestPassagesResponse:
        with SyncClient.connect(**client_options(replica)) as client:
            return client.ingest(of_agent(), texts, request_id=request_id, resume=True)

    done = await asyncio.to_thread(ingest)
    assert (done.inserted_count, done.duplicate_count, done.next_index) == (20, 0, 20)


async def test_an_ingest_survives_a_restart_of_the_server(hosting: Hosting, embedding: FakeEmbedding) -> None:
    """Peers' complaint 17: what a worker held is gone when it dies (MemTensor/MemOS/issues/1417)."""
    reached, restarted = threading.Event(), threading.Event()

    def texts() -> Iterator[str]:
        for n in range(1100):
            if n == 1024:
                reached.set()
                restarted.wait(30)
            yield f"sentence {n}"

    async with serving(embedding) as address:
        sections = {
            "peers": PeersSettings(embedding=address, max_attempts=1),
            "archival": ArchivalSettings(index_poll_interval=0.05),
        }
        async with hosting.replica("archival", build, **sections) as first:
            options = client_options(first)
            client = SyncClient.connect(**options)
            running = asyncio.create_task(asyncio.to_thread(client.ingest, of_agent(), texts()))
            await asyncio.to_thread(reached.wait, 30)
        port = int(options["address"].rpartition(":")[2])
        own = hosting.settings.server.model_dump() | {"port": port}
        async with hosting.replica("archival", build, **sections, server=ServerSettings(**own)):
            restarted.set()
            done = await running
        client.close()
    assert (done.inserted_count, done.duplicate_count, done.next_index) == (1100, 0, 1100)
