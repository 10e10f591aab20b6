"""Storing passages in bulk, folding them into an index, and single calls beside the same SQL by hand."""

from __future__ import annotations

import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import psycopg
from pgvector.psycopg import register_vector_async
from pydantic import SecretStr

from benchmarks import recorded
from benchmarks.baseline import Baseline
from benchmarks.memory import DIMENSIONS, WARM_UP, Memory, halfvec, running
from benchmarks.passages import Passages
from benchmarks.recorded import Call, Stubs
from benchmarks.report import Bar, Row
from mneme import maintenance
from mneme.archival.v1 import archival_pb2 as pb
from mneme.client.client import new_request_id
from mneme.common.v1 import common_pb2
from mneme.core_memory.v1 import core_memory_pb2
from mneme.recall.v1 import recall_pb2

PREFIXES = ("ingest", "fold_in", "rpc_ratio_")

SERVICES = ("embedding", "archival", "recall", "core_memory")
_INGESTED, _FOLDED = 8_000, 1_000
_PROMOTED = 4_000
_CALLS = 100
_STORED = 1_000
_AGENT = "agent-calls"
_BATCH = 200

_TABLE = f"""
CREATE SCHEMA IF NOT EXISTS benchmarks;
CREATE TABLE benchmarks.passages (id text PRIMARY KEY, text text NOT NULL, embedding halfvec({DIMENSIONS}) NOT NULL)
"""
_INDEX = (
    "CREATE INDEX ON benchmarks.passages USING hnsw (embedding halfvec_cosine_ops) WITH (m = 16, ef_construction = 64)"
)
_INSERT = """
INSERT INTO benchmarks.passages (id, text, embedding) SELECT * FROM unnest(%s::text[], %s::text[], %b::halfvec[])
"""


async def measure() -> list[Row]:
    """The rows of this part."""
    async with running([SERVICES]) as memory:
        passages = Passages(DIMENSIONS, memory.space_id)
        rows = [await _ingest(memory, passages), await _fold_in(memory, passages)]
        calls = await _calls(memory, passages)
        return [*rows, *await _ratios(memory, calls)]


async def _ingest(memory: Memory, passages: Passages) -> Row:
    """Passages a second from the first sent until the last is found, beside bare inserts of the same rows."""
    items = passages.items(_INGESTED)
    owner = pb.PassageOwner(agent_id="agent-ingest")
    await memory.client.ingest(owner, passages.items(500))
    began = time.perf_counter()
    stored = await memory.client.ingest(owner, items)
    found = await memory.client.archival.SearchPassages(
        pb.SearchPassagesRequest(
            scope=pb.SearchScope(agent_id=owner.agent_id),
            mode=pb.SEARCH_MODE_SEMANTIC,
            vector=items[-1].vector,
            limit=1,
        )
    )
    rate = _INGESTED / (time.perf_counter() - began)
    assert stored.inserted_count == _INGESTED
    assert found.results[0].passage.text == items[-1].passage.text
    async with _owner(memory) as connection:
        await connection.execute(_TABLE)
        began = time.perf_counter()
        await _insert_by_hand(connection, items, "ingest", batch=500)
        by_hand = _INGESTED / (time.perf_counter() - began)
    return Row("ingest", rate, "passages/s", by_hand, Bar(2_000, at_least=True))


async def _fold_in(memory: Memory, passages: Passages) -> Row:
    """Milliseconds a row that goes into the index of a scope, beside inserts into a bare table under such an index."""
    owner = pb.PassageOwner(agent_id="agent-fold")
    first, more = passages.items(_PROMOTED), passages.items(_FOLDED)
    await memory.client.ingest(owner, first)
    await maintenance.once(memory.settings)
    await memory.client.ingest(owner, more)
    began = time.perf_counter()
    done = await maintenance.once(memory.settings)
    folding = 1000 * (time.perf_counter() - began) / _FOLDED
    assert done.folded == _FOLDED
    async with _owner(memory) as connection:
        await connection.execute("TRUNCATE benchmarks.passages")
        await _insert_by_hand(connection, first, "first", batch=500)
        await connection.execute(_INDEX.encode())
        began = time.perf_counter()
        await _insert_by_hand(connection, more, "more", batch=_BATCH)
        by_hand = 1000 * (time.perf_counter() - began) / _FOLDED
    return Row("fold_in", folding, "ms/row", by_hand)


@asynccontextmanager
async def _owner(memory: Memory) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    url = memory.settings.database.owner_url.get_secret_value()
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await register_vector_async(connection)
        yield connection


async def _insert_by_hand(
    connection: psycopg.AsyncConnection[Any], items: Sequence[pb.PassageItem], name: str, *, batch: int
) -> None:
    for start in range(0, len(items), batch):
        part = items[start : start + batch]
        ids = [f"{name}-{start + number}" for number in range(len(part))]
        vectors = [halfvec(item.vector.values) for item in part]
        await connection.execute(_INSERT, (ids, [item.passage.text for item in part], vectors))


async def _calls(memory: Memory, passages: Passages) -> dict[str, list[Call]]:
    """What is there before the calls, and the calls of each method."""
    items = passages.items(_STORED)
    ids: list[str] = []
    for start in range(0, _STORED, _BATCH):
        stored = await memory.client.archival.InsertPassages(
            pb.InsertPassagesRequest(
                request_id=new_request_id(), owner=pb.PassageOwner(agent_id=_AGENT), items=items[start : start + _BATCH]
            )
        )
        ids += [result.passage_id for result in stored.results]
    for label in ("human", "persona", "plans"):
        block = core_memory_pb2.Block(label=label, value="What is known of it, in some forty words. " * 5)
        await memory.client.core_memory.CreateBlock(
            core_memory_pb2.CreateBlockRequest(
                request_id=new_request_id(),
                block=block,
                attachments=[core_memory_pb2.BlockAttachment(agent_id=_AGENT)],
            )
        )
    count = WARM_UP + _CALLS
    questions = passages.questions((items * (count // len(items) + 1))[:count])
    return {
        "InsertPassage": [_insert(item) for item in passages.items(count)],
        "SearchPassages": [_search(question.text, question.vector, memory.space_id) for question in questions],
        "GetPassage": [_get(passage_id) for passage_id in ids[:count]],
        "RenderMemory": [_render] * count,
        "AppendMessages": [_append(number) for number in range(count)],
    }


def _insert(item: pb.PassageItem) -> Call:
    request = pb.InsertPassageRequest(
        request_id=new_request_id(), owner=pb.PassageOwner(agent_id=_AGENT), passage=item.passage, vector=item.vector
    )
    return lambda stubs: stubs.archival(lambda stub: stub.InsertPassage, request)


def _search(text: str, vector: Sequence[float], space_id: str) -> Call:
    request = pb.SearchPassagesRequest(
        scope=pb.SearchScope(agent_id=_AGENT),
        query=text,
        vector=common_pb2.Vector(values=vector, space_id=space_id),
        limit=10,
    )
    return lambda stubs: stubs.archival(lambda stub: stub.SearchPassages, request)


def _get(passage_id: str) -> Call:
    request = pb.GetPassageRequest(passage_id=passage_id)
    return lambda stubs: stubs.archival(lambda stub: stub.GetPassage, request)


def _render(stubs: Stubs) -> Awaitable[Any]:
    request = core_memory_pb2.RenderMemoryRequest(agent_id=_AGENT)
    return stubs.core_memory(lambda stub: stub.RenderMemory, request)


def _append(number: int) -> Call:
    text = f"Please keep in mind that Maria likes the window seat on train {number}."
    messages = [
        recall_pb2.Message(role=recall_pb2.ROLE_USER, text=text),
        recall_pb2.Message(role=recall_pb2.ROLE_ASSISTANT, text="I will remember the seat."),
    ]
    request = recall_pb2.AppendMessagesRequest(
        request_id=new_request_id(), agent_id=_AGENT, conversation_id="conversation-calls", messages=messages
    )
    return lambda stubs: stubs.recall(lambda stub: stub.AppendMessages, request)


async def _ratios(memory: Memory, calls: dict[str, list[Call]]) -> list[Row]:
    """Each method's median beside a bare echo and the statements that it runs, sent by hand to a copy of the data."""
    async with AsyncExitStack() as stack:
        urls = await recorded.copies(memory, 2)
        settings = memory.settings.model_copy(
            update={
                "database": memory.settings.database.model_copy(update={"url": SecretStr(urls[0])}),
                # Elsewhere, so that its own statements are not among those of the calls.
                "peers": memory.settings.peers.model_copy(update={"embedding": memory.deployment.address}),
            }
        )
        scripts = await recorded.statements(settings, SERVICES[1:], calls)
        echo = await stack.enter_async_context(Baseline.open(memory.settings))
        stubs = await stack.enter_async_context(Stubs.open(memory.deployment.address, memory.settings))
        connection = await stack.enter_async_context(recorded.plain(urls[1]))
        return [await _ratio(name, stubs, of, echo, connection, scripts[name]) for name, of in calls.items()]


async def _ratio(
    name: str,
    stubs: Stubs,
    calls: Sequence[Call],
    echo: Baseline,
    connection: psycopg.AsyncConnection[Any],
    script: Sequence[Sequence[recorded.Statement]],
) -> Row:
    """One method's row. The three take turns, so that what else the machine does at that time slows all of them."""
    timed, by_hand = [], []
    for call, statements in zip(calls, script, strict=True):
        timed.append(await _milliseconds(call(stubs)))
        by_hand.append(await echo.do(1, 0) + await _milliseconds(recorded.replay(connection, statements)))
    return Row(
        f"rpc_ratio_{name}",
        statistics.median(timed[WARM_UP:]),
        "ms",
        statistics.median(by_hand[WARM_UP:]),
        Bar(2, of="ratio"),
    )


async def _milliseconds(work: Awaitable[object]) -> float:
    began = time.perf_counter()
    await work
    return 1000 * (time.perf_counter() - began)
