"""The recall service: gRPC in and out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

import grpc.aio
from google.protobuf.message import Message as WireMessage

from mneme.errors.v1 import errors_pb2
from mneme.recall import highlighting, ranking, rules
from mneme.recall.convert import (
    asked_at,
    exported_message,
    filter_of,
    new_message,
    wire_hit,
    wire_message,
    wire_summary,
)
from mneme.recall.indexer import Indexer
from mneme.recall.meaning import Meanings
from mneme.recall.records import Appended, Batch, Filter, Found, Hit, Subject
from mneme.recall.retention import Keeper
from mneme.recall.store import append, export, purge, reads, retention, search, window
from mneme.recall.store.append import SCHEMA, RefusedError
from mneme.recall.store.reads import Position
from mneme.recall.v1 import recall_pb2 as pb
from mneme.recall.v1 import recall_pb2_grpc
from mneme.runtime import call, exports, idempotency, lexical, migrations, pages, reranking
from mneme.runtime.component import Component, Runtime
from mneme.runtime.db import Connection
from mneme.runtime.errors import invalid
from mneme.runtime.idempotency import MutatingRequest
from mneme.runtime.ranking import query as asked_of
from mneme.runtime.reranking import build_reranker

_PAGE_SIZE = 50
_PAGE_SIZE_MAX = 500
_LIMIT = 10
_LIMIT_MAX = 200

R = TypeVar("R", bound=WireMessage)
Context = grpc.aio.ServicerContext[WireMessage, WireMessage]


def build(runtime: Runtime) -> Component:
    """Returns the recall service on the given runtime."""
    return RecallComponent(runtime)


class RecallComponent:
    """The service with its background indexing."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._indexer = Indexer(runtime.database, runtime.peers, runtime.settings.recall)
        self._keeper = Keeper(runtime.database, runtime.metrics, runtime.settings.recall)
        self._servicer = RecallServicer(runtime, self._indexer, self._keeper)

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the servicer to a server."""
        recall_pb2_grpc.add_RecallServiceServicer_to_server(self._servicer, server)

    async def start(self) -> None:
        """Starts indexing and retention."""
        self._indexer.start()
        self._keeper.start()

    async def drain(self) -> None:
        """Ends both after the running batch."""
        await asyncio.gather(self._indexer.drain(), self._keeper.drain())

    async def stop(self) -> None:
        """Ends both at once."""
        await asyncio.gather(self._indexer.stop(), self._keeper.stop())

    async def ready(self) -> None:
        """Returns when the database answers and its schema is new enough."""
        async with self._runtime.database.work() as tx:
            await migrations.check_schema(tx, SCHEMA)


class RecallServicer(recall_pb2_grpc.RecallServiceServicer):
    """The RPCs."""

    def __init__(self, runtime: Runtime, indexer: Indexer, keeper: Keeper) -> None:
        self._database = runtime.database
        self._metrics = runtime.metrics
        self._indexer = indexer
        self._keeper = keeper
        self._meanings = Meanings(runtime.peers, timeout=runtime.settings.recall.query_embed_timeout)
        self._reranker = build_reranker(runtime.settings.models)

    async def AppendMessages(self, request: pb.AppendMessagesRequest, context: Context) -> pb.AppendMessagesResponse:
        """Appends messages; a user credential may append plain USER messages of its own user only."""
        principal = call.current().principal
        batch = Batch(
            agent_id=request.agent_id,
            conversation_id=request.conversation_id,
            user_id=call.acting_user(request.user_id),
            only_own=bool(principal.user) and not principal.service,
            expected_next_sequence=request.expected_next_sequence,
            messages=tuple(new_message(message) for message in request.messages),
        )
        rules.check_batch(batch.messages)
        if not principal.service:
            rules.check_user_batch(batch.messages)
        documents = await _documents(batch)
        try:
            response = await self._once(
                request,
                pb.AppendMessagesResponse,
                lambda tx: _appended(append.append(tx, batch, documents)),
            )
        except RefusedError:
            response = await self._once(
                request, pb.AppendMessagesResponse, lambda tx: _appended(append.settle(tx, batch))
            )
        if documents:
            self._indexer.wake()
        self._metrics.memory_writes.labels("recall", "append").inc(len(batch.messages))
        return response

    async def ListMessages(self, request: pb.ListMessagesRequest, context: Context) -> pb.ListMessagesResponse:
        """Lists messages by sequence within a conversation, by time over all."""
        wanted = filter_of(request.agent_id, request.filter)
        size = pages.page_size(request.page_size, default=_PAGE_SIZE, maximum=_PAGE_SIZE_MAX)
        after = _position(pages.decode(request))
        newest_first = request.order == pb.LIST_ORDER_NEWEST_FIRST
        async with self._database.tenant(call.tenant()) as tx:
            found = await reads.page(tx, wanted, after=after, newest_first=newest_first, limit=size + 1)
        response = pb.ListMessagesResponse(messages=pages.fitting(map(wire_message, found[:size])))
        if len(response.messages) < len(found):
            last = found[len(response.messages) - 1]
            assert last.created_at is not None
            cursor = (last.created_at.isoformat(), last.conversation_id, last.sequence)
            response.next_page_token = pages.encode(request, cursor)
        return response

    async def GetMessages(self, request: pb.GetMessagesRequest, context: Context) -> pb.GetMessagesResponse:
        """Returns messages by id."""
        async with self._database.tenant(call.tenant()) as tx:
            found = await reads.by_id(
                tx,
                agent_id=request.agent_id,
                user_id=call.acting_user(""),
                message_ids=request.message_ids,
            )
        return pb.GetMessagesResponse(messages=[wire_message(message) for message in found])

    async def SearchMessages(self, request: pb.SearchMessagesRequest, context: Context) -> pb.SearchMessagesResponse:
        """Finds messages; without an embedding service by words alone, which the response says."""
        wanted = filter_of(request.agent_id, request.filter)
        limit = min(request.limit or _LIMIT, _LIMIT_MAX)
        kind = request.WhichOneof("query") or "newest"
        with self._metrics.search_seconds.labels("recall", kind).time():
            found, hits, degraded = await self._search(request, wanted, limit)
            response = pb.SearchMessagesResponse(
                results=[wire_hit(hit) for hit in hits], total_count=found.total_count, degraded=degraded
            )
            if request.highlight:
                await _highlight(response, _words_of(request))
            if request.neighbours and hits:
                await self._add_neighbours(response, wanted, hits, request.neighbours)
        self._metrics.search_hits.labels("recall", kind).observe(len(hits))
        return response

    async def GetWindow(self, request: pb.GetWindowRequest, context: Context) -> pb.GetWindowResponse:
        """Returns what the prompt of a conversation holds."""
        async with self._database.tenant(call.tenant()) as tx:
            found = await reads.window(
                tx,
                agent_id=request.agent_id,
                conversation_id=request.conversation_id,
                user_id=call.acting_user(""),
                summary_version=request.summary_version,
            )
        return pb.GetWindowResponse(
            summary=found.summary,
            summary_version=found.summary_version,
            messages=[wire_message(message) for message in found.messages],
            next_sequence=found.next_sequence,
            evicted_count=found.evicted_count,
        )

    async def EvictMessages(self, request: pb.EvictMessagesRequest, context: Context) -> pb.EvictMessagesResponse:
        """Moves the start of a window and stores the new summary."""
        eviction = window.Eviction(
            agent_id=request.agent_id,
            conversation_id=request.conversation_id,
            first_kept_sequence=request.first_kept_sequence,
            summary=request.summary,
            expected_summary_version=request.expected_summary_version,
        )

        async def run(tx: Connection) -> pb.EvictMessagesResponse:
            version, count = await window.evict(tx, eviction)
            return pb.EvictMessagesResponse(summary_version=version, evicted_count=count)

        response = await self._once(request, pb.EvictMessagesResponse, run)
        self._metrics.evicted_messages.inc(response.evicted_count)
        return response

    async def DeleteMessages(self, request: pb.DeleteMessagesRequest, context: Context) -> pb.DeleteMessagesResponse:
        """Deletes messages by id."""

        async def run(tx: Connection) -> pb.DeleteMessagesResponse:
            count = await window.delete(
                tx,
                agent_id=request.agent_id,
                user_id=call.acting_user(""),
                message_ids=request.message_ids,
            )
            return pb.DeleteMessagesResponse(deleted_count=count)

        response = await self._once(request, pb.DeleteMessagesResponse, run)
        self._metrics.memory_writes.labels("recall", "delete").inc(response.deleted_count)
        return response

    async def SetRetention(self, request: pb.SetRetentionRequest, context: Context) -> pb.SetRetentionResponse:
        """Sets how long messages are kept, or counts what would go."""
        subject, days = _kept(request.subject), request.max_age_days

        async def run(tx: Connection) -> pb.SetRetentionResponse:
            if not request.dry_run:
                await retention.set_rule(tx, subject, days)
            count = await retention.count(tx, subject, days) if days else 0
            return pb.SetRetentionResponse(expired_count=count)

        response = await self._once(request, pb.SetRetentionResponse, run)
        self._keeper.wake()
        return response

    async def GetRetention(self, request: pb.GetRetentionRequest, context: Context) -> pb.GetRetentionResponse:
        """Returns a rule."""
        async with self._database.tenant(call.tenant()) as tx:
            days = await retention.rule(tx, _kept(request.subject))
        return pb.GetRetentionResponse(max_age_days=days)

    async def PurgeData(self, request: pb.PurgeDataRequest, context: Context) -> pb.PurgeDataResponse:
        """Removes all data of a subject, after every write that could still miss its tombstone has ended."""
        subject = _subject(request)
        async with self._database.tenant(call.tenant()) as tx:
            await purge.bury(tx, subject, request.operation_id)
        await self._database.settled()

        async def run(tx: Connection) -> pb.PurgeDataResponse:
            response = pb.PurgeDataResponse()
            for line in await purge.purge(tx, subject, request.operation_id):
                response.counts.add(store=line.store, removed=line.removed, remaining=line.remaining)
            return response

        return await self._once(request, pb.PurgeDataResponse, run)

    async def ExportData(
        self, request: pb.ExportDataRequest, context: Context
    ) -> AsyncGenerator[pb.ExportDataResponse, None]:
        """Streams all messages and summaries of an agent or a user."""
        kind, subject = exports.subject_of(request.subject)
        scope = (self._database, call.tenant(), kind, subject)
        async for messages in export.messages(*scope, rows=exports.PAGE_ROWS):
            for records in exports.portions(exports.record("message", exported_message(one)) for one in messages):
                yield pb.ExportDataResponse(records=records)
        async for summaries in export.summaries(*scope, rows=exports.PAGE_ROWS):
            for records in exports.portions(exports.record("summary", wire_summary(one)) for one in summaries):
                yield pb.ExportDataResponse(records=records)

    async def _once(
        self,
        request: MutatingRequest,
        response_type: type[R],
        run: Callable[[Connection], Awaitable[R]],
    ) -> R:
        async with self._database.tenant(call.tenant()) as tx:
            return await idempotency.once(tx, SCHEMA, request, response_type, lambda: run(tx))

    async def _search(
        self, request: pb.SearchMessagesRequest, wanted: Filter, limit: int
    ) -> tuple[Found, list[Hit], bool]:
        """Returns what was found, the best of it in order, and whether words had to stand in for meaning."""
        kind = request.WhichOneof("query")
        if kind is None or kind == "text":
            async with self._database.tenant(call.tenant()) as tx:
                if kind is None:
                    found = await search.newest(tx, wanted, limit)
                    return found, [Hit(one, 0.0) for one in found.candidates], False
                found = await search.by_words(tx, wanted, request.text.text, limit)
            return found, ranking.by_words(found.candidates, limit), False
        query = request.semantic if kind == "semantic" else request.hybrid
        given = query.vector if query.HasField("vector") else None
        if not query.text and given is None:
            raise invalid(f"{kind}.text", "must not be empty without a vector")
        moment = asked_at(request.hybrid)
        meaning = await self._meanings.of(query.text, given, field=f"{kind}.vector")
        async with self._database.tenant(call.tenant(), plan_once=True) as tx:
            if meaning is None:
                found = await search.by_words(tx, wanted, query.text, limit)
                return found, ranking.by_words(found.candidates, limit), True
            if kind == "semantic":
                found = await search.by_meaning(tx, wanted, meaning, limit)
                return found, ranking.by_meaning(found.candidates, query.min_score, limit), False
            found = await search.by_both(tx, wanted, query.text, meaning, limit)
        asked = asked_of(query.text, moment)
        depth = max(limit, self._reranker.depth) if self._reranker else limit
        hits = ranking.fused(found, asked, min_score=query.min_score, limit=depth)
        ordered = await reranking.order(self._reranker, query.text, [hit.candidate.message.text for hit in hits])
        looked_at = [
            hit if score is None else replace(hit, score=score, rerank=score)
            for hit, score in ((hits[position], score) for position, score in ordered)
        ]
        return found, looked_at[:limit], False

    async def _add_neighbours(
        self, response: pb.SearchMessagesResponse, wanted: Filter, hits: Sequence[Hit], distance: int
    ) -> None:
        messages = [hit.candidate.message for hit in hits]
        async with self._database.tenant(call.tenant()) as tx:
            neighbours = await reads.around(tx, wanted, messages, distance=distance)
        for result in response.results:
            around = neighbours[result.message.message_id]
            result.neighbours.extend(wire_message(message) for message in around)


async def _appended(run: Awaitable[Appended]) -> pb.AppendMessagesResponse:
    stored = await run
    return pb.AppendMessagesResponse(
        messages=[wire_message(message, with_text=False) for message in stored.messages],
        next_sequence=stored.next_sequence,
    )


async def _documents(batch: Batch) -> list[lexical.Document]:
    """Returns the terms of the messages to be searched; a text out of a search is found at its source."""
    sources = [
        (one.message_id, f"{one.speaker} {one.text}" if one.speaker else one.text)
        for one in batch.messages
        if one.text and not one.from_recall
    ]

    def read() -> list[lexical.Document]:
        documents = [
            lexical.document(scope=batch.agent_id, document_id=message_id, text=text) for message_id, text in sources
        ]
        return [document for document in documents if document.length]

    if sum(len(text) for _, text in sources) > lexical.THREAD_CHARS:
        return await asyncio.to_thread(read)
    return read()


def _words_of(request: pb.SearchMessagesRequest) -> str:
    kind = request.WhichOneof("query")
    return str(getattr(request, kind).text) if kind else ""


async def _highlight(response: pb.SearchMessagesResponse, words: str) -> None:
    """Adds to each result where the words stand in it."""
    texts = [result.message.text for result in response.results]
    if sum(map(len, texts)) > lexical.THREAD_CHARS:
        found = await asyncio.to_thread(highlighting.all_ranges, words, texts)
    else:
        found = highlighting.all_ranges(words, texts)
    for result, ranges in zip(response.results, found, strict=True):
        result.highlights.extend(pb.TextRange(start=start, end=end) for start, end in ranges)


def _position(cursor: Sequence[str | int] | None) -> Position | None:
    if cursor is None:
        return None
    try:
        said, conversation_id, sequence = cursor
        return datetime.fromisoformat(str(said)), str(conversation_id), int(sequence)
    except ValueError:
        problem = "was not issued for this request"
        raise invalid("page_token", problem, errors_pb2.REASON_INVALID_PAGE_TOKEN) from None


def _kept(subject: pb.RetentionSubject) -> retention.Subject:
    kind = subject.WhichOneof("subject")
    if kind is None:
        return retention.Subject("tenant", "")
    value: str = getattr(subject, kind)
    if not value:
        raise invalid(f"subject.{kind}", "must not be empty")
    return retention.Subject(kind.removesuffix("_id"), value)


def _subject(request: pb.PurgeDataRequest) -> Subject:
    kind = request.subject.WhichOneof("subject")
    value: str = getattr(request.subject, kind) if kind else ""
    if kind is None or not value:
        raise invalid("subject", "must name an agent, a user or a conversation")
    return Subject(kind.removesuffix("_id"), value)
