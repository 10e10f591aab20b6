"""Archival memory over gRPC: requests in, records to the store and back."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, TypeVar

import grpc.aio
from google.protobuf.message import Message

from mneme.archival import convert, near
from mneme.archival.embedder import Embedder
from mneme.archival.indexer import Indexer, Pace
from mneme.archival.ingesting import Ingester
from mneme.archival.intake import Intake, Lengths
from mneme.archival.ranking import Weights
from mneme.archival.records import Author, Draft, Item, Owner, Passage, PassageVersion, Settled
from mneme.archival.searching import HYBRID, Search, Searcher
from mneme.archival.store import audit, export, history, ingests, knowledge_bases, passages, purge, scopes, search
from mneme.archival.v1 import archival_pb2 as pb
from mneme.archival.v1 import archival_pb2_grpc as rpc
from mneme.archival.writing import Writer, locked
from mneme.common.v1 import common_pb2
from mneme.runtime import call, exports, idempotency, ids, migrations, pages
from mneme.runtime.component import Component, Runtime
from mneme.runtime.db import Connection
from mneme.runtime.errors import Error, invalid, not_found
from mneme.runtime.reranking import build_reranker
from mneme.settings import ArchivalSettings

SCHEMA = "archival"
AGENTS_SHOWN = 100

R = TypeVar("R", bound=Message)


def build(runtime: Runtime) -> Component:
    """Returns the archival service."""
    return Archival(runtime)


class Archival:
    """The service with its background worker."""

    def __init__(self, runtime: Runtime) -> None:
        settings = runtime.settings.archival
        embedder = Embedder(runtime.peers, timeout_seconds=settings.embed_timeout)
        self._database = runtime.database
        self._indexer = Indexer(runtime.database, embedder, _pace(settings))
        self._servicer = ArchivalServicer(runtime, embedder, self._indexer)

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the servicer to the server."""
        rpc.add_ArchivalServiceServicer_to_server(self._servicer, server)

    async def start(self) -> None:
        """Starts to index what waits."""
        self._indexer.start()

    async def drain(self) -> None:
        """Lets the running batch of the indexer finish."""
        await self._indexer.drain()

    async def stop(self) -> None:
        """Ends the indexer."""
        await self._indexer.stop()

    async def ready(self) -> None:
        """Returns when the database answers and the schema is new enough."""
        async with self._database.work() as tx:
            await migrations.check_schema(tx, SCHEMA)


class ArchivalServicer(rpc.ArchivalServiceServicer):
    """Answers the calls. Each mutating one runs in one transaction together with its replay record."""

    def __init__(self, runtime: Runtime, embedder: Embedder, indexer: Indexer) -> None:
        settings = runtime.settings.archival
        self._database = runtime.database
        self._embedder = embedder
        self._indexer = indexer
        self._metrics = runtime.metrics
        self._writer = Writer(runtime.database, embedder)
        self._intake = Intake(runtime.database, embedder, Lengths(settings.chunk_over, settings.chunk_chars))
        self._ingester = Ingester(runtime.database, self._intake, self._writer, self._batch_stored)
        self._near_score = settings.near_score
        self._searcher = Searcher(
            runtime.database,
            embedder,
            weights=_weights(settings),
            depth=settings.search_depth,
            reranker=build_reranker(runtime.settings.models),
        )

    async def InsertPassage(self, request: pb.InsertPassageRequest, context: Any) -> pb.InsertPassageResponse:
        """Stores one passage, findable by words and, where its vector can be made in time, by meaning."""
        owner = convert.owner(request.owner)
        [draft] = await self._writer.embedded(owner, [await self._intake.draft(request)])
        [close] = await self._near(owner, [draft], request.near_limit)

        async def run(tx: Connection, author: Author) -> pb.InsertPassageResponse:
            [outcome] = await self._writer.store(tx, author, owner, [draft])
            if isinstance(outcome, Error):
                raise outcome
            stored = await passages.get(tx, author.tenant, outcome.passage_id)
            message = convert.passage_message(stored)
            return pb.InsertPassageResponse(passage=message, duplicate=outcome.duplicate, near=close)

        response = await self._once(request, pb.InsertPassageResponse, run)
        self._indexer.wake()
        return response

    async def InsertPassages(self, request: pb.InsertPassagesRequest, context: Any) -> pb.InsertPassagesResponse:
        """Stores the good items in one transaction and says of each what became of it."""
        owner = convert.owner(request.owner)
        items = await self._writer.items_embedded(owner, await self._intake.items(owner, request.items))
        whole = {n: item.drafts[0] for n, item in enumerate(items) if isinstance(item, Item) and not item.cut}
        close = dict(zip(whole, await self._near(owner, list(whole.values()), request.near_limit), strict=True))

        async def run(tx: Connection, author: Author) -> pb.InsertPassagesResponse:
            settled = await self._writer.settle(tx, author, owner, items)
            results = convert.item_results(settled)
            for result in results:
                told = close.get(result.index)
                if told is not None and not result.HasField("error"):
                    result.near.CopyFrom(told)
            outcomes = [result.WhichOneof("outcome") for result in results]
            return pb.InsertPassagesResponse(
                results=results,
                inserted_count=outcomes.count("passage_id"),
                duplicate_count=outcomes.count("duplicate_of"),
                error_count=outcomes.count("error"),
                passage_count=sum(not d.duplicate for s in settled if isinstance(s, Settled) for d in s.stored),
            )

        response = await self._once(request, pb.InsertPassagesResponse, run)
        self._indexer.wake()
        return response

    async def IngestPassages(
        self, request_iterator: AsyncIterator[pb.IngestPassagesRequest], context: Any
    ) -> pb.IngestPassagesResponse:
        """Stores a stream in batches, each with the progress of its ingest."""
        author = _author()
        ingest = await self._ingester.ingest(author, aiter(request_iterator))
        request_id = ingest.request_id
        async with self._database.tenant(author.tenant) as tx:
            refused = await ingests.refused(tx, author.tenant, request_id)
        return pb.IngestPassagesResponse(
            inserted_count=ingest.inserted,
            duplicate_count=ingest.duplicates,
            error_count=ingest.errors,
            errors=convert.ingest_errors(refused),
            passage_count=ingest.passages,
            next_index=ingest.next_index,
        )

    async def GetIngest(self, request: pb.GetIngestRequest, context: Any) -> pb.GetIngestResponse:
        """Tells how far an ingest has come."""
        author = _author()
        async with self._database.tenant(author.tenant) as tx:
            found = await ingests.get(tx, author.tenant, request.request_id, user=author.user_id)
            refused = await ingests.refused(tx, author.tenant, request.request_id)
            pending = await ingests.pending(tx, author.tenant, found.owner.id)
        return convert.ingest_message(found, refused, pending=pending)

    async def GetPassage(self, request: pb.GetPassageRequest, context: Any) -> pb.GetPassageResponse:
        """Returns one passage that the caller may see."""
        author = _author()
        async with self._database.tenant(author.tenant) as tx:
            found = await passages.get(tx, author.tenant, request.passage_id, user=author.user_id)
        return pb.GetPassageResponse(passage=convert.passage_message(found))

    async def ListPassages(self, request: pb.ListPassagesRequest, context: Any) -> pb.ListPassagesResponse:
        """Lists passages of one owner, oldest first."""
        owner = convert.owner(request.owner)
        size = pages.page_size(request.page_size, default=50, maximum=500)
        # A service without a user lists for export and upkeep; a conversation without one only searches.
        principal = call.current().principal
        wanted = convert.search_filter(request.filter, all_users=_sees_all() or bool(principal.service))
        tenant = principal.tenant
        async with self._database.tenant(tenant) as tx:
            if owner.knowledge_base_id:
                await scopes.require_knowledge_base(tx, tenant, owner.knowledge_base_id)
            found = await passages.page(tx, tenant, owner, wanted, after=_after(request), limit=size + 1)
        messages = pages.fitting(map(convert.passage_message, found[:size]))
        token = pages.encode(request, _cursor(found[len(messages) - 1])) if len(found) > len(messages) else ""
        return pb.ListPassagesResponse(passages=messages, next_page_token=token)

    async def UpdatePassage(self, request: pb.UpdatePassageRequest, context: Any) -> pb.UpdatePassageResponse:
        """Changes the fields that the mask names; a new text gets a new vector."""
        change = await self._writer.new_text_embedded(convert.passage_change(request))

        async def run(tx: Connection, author: Author) -> pb.UpdatePassageResponse:
            old = await locked(tx, author, request.passage_id, etag=request.etag)
            stored = await self._writer.change(tx, author, old, change)
            return pb.UpdatePassageResponse(passage=convert.passage_message(stored))

        response = await self._once(request, pb.UpdatePassageResponse, run)
        self._indexer.wake()
        return response

    async def ListPassageVersions(
        self, request: pb.ListPassageVersionsRequest, context: Any
    ) -> pb.ListPassageVersionsResponse:
        """Lists what a passage was, newest version first."""
        size = pages.page_size(request.page_size, default=50, maximum=500)
        cursor = pages.decode(request)
        author = _author()
        async with self._database.tenant(author.tenant) as tx:
            await passages.get(tx, author.tenant, request.passage_id, user=author.user_id)
            before = int(cursor[0]) if cursor else 0
            found = await history.page(tx, author.tenant, request.passage_id, before=before, limit=size + 1)
        messages = pages.fitting(map(convert.version_message, found[:size]))
        token = pages.encode(request, [messages[-1].version]) if len(found) > len(messages) else ""
        return pb.ListPassageVersionsResponse(versions=messages, next_page_token=token)

    async def RestorePassageVersion(
        self, request: pb.RestorePassageVersionRequest, context: Any
    ) -> pb.RestorePassageVersionResponse:
        """Makes an earlier version current again, as a new one."""
        seen = _author()
        async with self._database.tenant(seen.tenant) as tx:
            await passages.get(tx, seen.tenant, request.passage_id, user=seen.user_id)
            version = await history.version(tx, seen.tenant, request.passage_id, request.version)
        change = await self._writer.restored_embedded(version)

        async def run(tx: Connection, author: Author) -> pb.RestorePassageVersionResponse:
            old = await locked(tx, author, request.passage_id, etag=request.etag)
            why = convert.provenance(request.provenance)
            stored = await self._writer.restore(tx, author, old, change, why)
            return pb.RestorePassageVersionResponse(passage=convert.passage_message(stored))

        response = await self._once(request, pb.RestorePassageVersionResponse, run)
        self._indexer.wake()
        return response

    async def ReinstatePassage(self, request: pb.ReinstatePassageRequest, context: Any) -> pb.ReinstatePassageResponse:
        """Undoes a supersession."""

        async def run(tx: Connection, author: Author) -> pb.ReinstatePassageResponse:
            old = await locked(tx, author, request.passage_id, etag=request.etag)
            stored = await self._writer.reinstate(tx, author, old, convert.provenance(request.provenance))
            return pb.ReinstatePassageResponse(passage=convert.passage_message(stored))

        return await self._once(request, pb.ReinstatePassageResponse, run)

    async def DeletePassage(self, request: pb.DeletePassageRequest, context: Any) -> pb.DeletePassageResponse:
        """Deletes one passage with its versions."""

        async def run(tx: Connection, author: Author) -> pb.DeletePassageResponse:
            old = await locked(tx, author, request.passage_id, etag=request.etag)
            if request.agent_id and old.agent_id != request.agent_id:
                raise not_found(request.passage_id)
            await passages.delete(tx, author, old, convert.provenance(request.provenance))
            return pb.DeletePassageResponse()

        return await self._once(request, pb.DeletePassageResponse, run)

    async def SearchPassages(self, request: pb.SearchPassagesRequest, context: Any) -> pb.SearchPassagesResponse:
        """Finds passages, best first."""
        asked = Search(
            agent_id=request.scope.agent_id,
            knowledge_base_ids=request.scope.knowledge_base_ids,
            knowledge_bases_only=request.scope.knowledge_bases_only,
            text=request.query,
            embedded=convert.embedded(request.vector) if request.HasField("vector") else None,
            mode=request.mode or HYBRID,
            wanted=convert.search_filter(request.filter, all_users=_sees_all()),
            limit=pages.page_size(request.limit, default=10, maximum=200),
            min_score=request.min_score,
            strict=request.strict_min_score,
            diversity=request.diversity,
        )
        kind = pb.SearchMode.Name(pb.SearchMode.ValueType(asked.mode)).removeprefix("SEARCH_MODE_").lower()
        with self._metrics.search_seconds.labels(SCHEMA, kind).time():
            found = await self._searcher.search(asked)
        self._metrics.search_hits.labels(SCHEMA, kind).observe(len(found.results))
        results = [convert.result_message(p, r, explain=request.explain) for p, r in found.results]
        return pb.SearchPassagesResponse(results=results, total_count=found.total, degraded=found.degraded)

    async def CreateKnowledgeBase(
        self, request: pb.CreateKnowledgeBaseRequest, context: Any
    ) -> pb.CreateKnowledgeBaseResponse:
        """Creates a knowledge base."""
        values = convert.knowledge_base_values(request.knowledge_base)

        async def run(tx: Connection, author: Author) -> pb.CreateKnowledgeBaseResponse:
            made = await knowledge_bases.create(
                tx,
                author,
                knowledge_base_id=ids.new("kb"),
                display_name=values["display_name"],
                description=values["description"],
                metadata=values["metadata_"],
            )
            return pb.CreateKnowledgeBaseResponse(knowledge_base=convert.knowledge_base_message(made))

        return await self._once(request, pb.CreateKnowledgeBaseResponse, run)

    async def GetKnowledgeBase(self, request: pb.GetKnowledgeBaseRequest, context: Any) -> pb.GetKnowledgeBaseResponse:
        """Returns one knowledge base and the first of the agents that search it."""
        tenant, id_ = call.tenant(), request.knowledge_base_id
        async with self._database.tenant(tenant) as tx:
            found = await knowledge_bases.get(tx, tenant, id_)
            agents, count = await knowledge_bases.agents(tx, tenant, id_, limit=AGENTS_SHOWN)
        return pb.GetKnowledgeBaseResponse(
            knowledge_base=convert.knowledge_base_message(found), agent_ids=agents, agent_count=count
        )

    async def ListKnowledgeBases(
        self, request: pb.ListKnowledgeBasesRequest, context: Any
    ) -> pb.ListKnowledgeBasesResponse:
        """Lists knowledge bases, oldest first."""
        size = pages.page_size(request.page_size, default=50, maximum=500)
        tenant = call.tenant()
        async with self._database.tenant(tenant) as tx:
            found = await knowledge_bases.page(
                tx, tenant, agent_id=request.agent_id, after=_after(request), limit=size + 1
            )
        token = pages.encode(request, _cursor(found[size - 1])) if len(found) > size else ""
        messages = [convert.knowledge_base_message(one) for one in found[:size]]
        return pb.ListKnowledgeBasesResponse(knowledge_bases=messages, next_page_token=token)

    async def UpdateKnowledgeBase(
        self, request: pb.UpdateKnowledgeBaseRequest, context: Any
    ) -> pb.UpdateKnowledgeBaseResponse:
        """Changes the fields that the mask names."""
        values = convert.knowledge_base_values(request.knowledge_base, request.update_mask)

        async def run(tx: Connection, author: Author) -> pb.UpdateKnowledgeBaseResponse:
            changed = await knowledge_bases.change(tx, author, request.knowledge_base_id, values)
            return pb.UpdateKnowledgeBaseResponse(knowledge_base=convert.knowledge_base_message(changed))

        return await self._once(request, pb.UpdateKnowledgeBaseResponse, run)

    async def DeleteKnowledgeBase(
        self, request: pb.DeleteKnowledgeBaseRequest, context: Any
    ) -> pb.DeleteKnowledgeBaseResponse:
        """Deletes a knowledge base with its passages; later inserts into it are refused."""

        async def run(tx: Connection, author: Author) -> pb.DeleteKnowledgeBaseResponse:
            await knowledge_bases.delete(tx, author, request.knowledge_base_id)
            return pb.DeleteKnowledgeBaseResponse()

        return await self._once(request, pb.DeleteKnowledgeBaseResponse, run)

    async def AttachKnowledgeBase(
        self, request: pb.AttachKnowledgeBaseRequest, context: Any
    ) -> pb.AttachKnowledgeBaseResponse:
        """Lets an agent search a knowledge base."""
        agent_id, id_ = request.agent_id, request.knowledge_base_id

        async def run(tx: Connection, author: Author) -> pb.AttachKnowledgeBaseResponse:
            # The agent's scope is what its purge locks: an attachment does not outlive the agent.
            await scopes.lock(tx, author.tenant, agent_id)
            await scopes.refuse_deleted(tx, author.tenant, owners=[Owner(agent_id=agent_id)])
            await knowledge_bases.attach(tx, author, agent_id=agent_id, knowledge_base_id=id_)
            return pb.AttachKnowledgeBaseResponse()

        return await self._once(request, pb.AttachKnowledgeBaseResponse, run)

    async def DetachKnowledgeBase(
        self, request: pb.DetachKnowledgeBaseRequest, context: Any
    ) -> pb.DetachKnowledgeBaseResponse:
        """Ends an agent's access to a knowledge base."""
        agent_id, id_ = request.agent_id, request.knowledge_base_id

        async def run(tx: Connection, author: Author) -> pb.DetachKnowledgeBaseResponse:
            await knowledge_bases.detach(tx, author, agent_id=agent_id, knowledge_base_id=id_)
            return pb.DetachKnowledgeBaseResponse()

        return await self._once(request, pb.DetachKnowledgeBaseResponse, run)

    async def GetRevisions(self, request: pb.GetRevisionsRequest, context: Any) -> pb.GetRevisionsResponse:
        """Returns the revisions of everything an agent searches, and when that next changes by itself."""
        principal, agent_id = call.current().principal, request.agent_id
        async with self._database.tenant(principal.tenant) as tx:
            known, next_change = await scopes.revisions(
                tx, principal.tenant, agent_id, user_id=principal.user, all_users=_sees_all()
            )
        own = common_pb2.Revision(scope=f"{agent_id} passages", revision=known.pop(agent_id))
        shared = [common_pb2.Revision(scope=id_, revision=known[id_]) for id_ in sorted(known)]
        response = pb.GetRevisionsResponse(revisions=[own, *shared])
        if next_change is not None:
            response.next_change_time.FromDatetime(next_change)
        return response

    async def CheckUnchanged(self, request: pb.CheckUnchangedRequest, context: Any) -> pb.CheckUnchangedResponse:
        """Compares what was written since a revision with the question; in doubt the answer changed."""
        embedded = convert.embedded(request.vector) if request.HasField("vector") else None
        if embedded is not None:
            await self._embedder.check("vector", embedded)
        tenant, id_ = call.tenant(), request.knowledge_base_id
        async with self._database.tenant(tenant) as tx:
            await scopes.require_knowledge_base(tx, tenant, id_)
            unchanged, revision = await search.unchanged(
                tx,
                tenant,
                id_,
                since=request.since_revision,
                passage_ids=request.passage_ids,
                embedded=embedded,
                kth_score=request.kth_score,
            )
        return pb.CheckUnchangedResponse(unchanged=unchanged, revision=revision)

    async def ListMemoryChanges(
        self, request: pb.ListMemoryChangesRequest, context: Any
    ) -> pb.ListMemoryChangesResponse:
        """Lists the audit, oldest first."""
        size = pages.page_size(request.page_size, default=100, maximum=1000)
        wanted = convert.change_filter(request)
        cursor = pages.decode(request)
        tenant = call.tenant()
        async with self._database.tenant(tenant) as tx:
            found = await audit.page(tx, tenant, wanted, after=int(cursor[0]) if cursor else 0, limit=size + 1)
        token = pages.encode(request, [found[size - 1].sequence]) if len(found) > size else ""
        messages = [convert.change_message(change) for change in found[:size]]
        return pb.ListMemoryChangesResponse(changes=messages, next_page_token=token)

    async def PurgeData(self, request: pb.PurgeDataRequest, context: Any) -> pb.PurgeDataResponse:
        """Removes everything of a subject after its tombstone, and counts again."""
        subject = request.subject.WhichOneof("subject")
        if subject is None or not getattr(request.subject, subject):
            raise invalid("subject", "needs agent_id, user_id or conversation_id")
        work = {"agent_id": purge.agent, "user_id": purge.user, "conversation_id": purge.conversation}[subject]

        async def run(tx: Connection, author: Author) -> pb.PurgeDataResponse:
            counts = await work(tx, author.tenant, getattr(request.subject, subject), request.operation_id)
            return pb.PurgeDataResponse(counts=[convert.purge_message(count) for count in counts])

        return await self._once(request, pb.PurgeDataResponse, run)

    async def ExportData(
        self, request: pb.ExportDataRequest, context: Any
    ) -> AsyncGenerator[pb.ExportDataResponse, None]:
        """Streams all passages of an agent or a user, each followed by its earlier versions."""
        kind, subject = exports.subject_of(request.subject)
        async for page in export.passages(self._database, call.tenant(), kind, subject, rows=exports.PAGE_ROWS):
            for records in exports.portions(_records(page)):
                yield pb.ExportDataResponse(records=records)

    async def _once(
        self,
        request: idempotency.MutatingRequest,
        response_type: type[R],
        run: Callable[[Connection, Author], Awaitable[R]],
    ) -> R:
        author = _author()
        async with self._database.tenant(author.tenant) as tx:
            response = await idempotency.once(tx, SCHEMA, request, response_type, lambda: run(tx, author))
        self._metrics.memory_writes.labels(SCHEMA, request.DESCRIPTOR.name.removesuffix("Request")).inc()
        return response

    async def _near(self, owner: Owner, drafts: Sequence[Draft], limit: int) -> list[pb.NearPassages | None]:
        """Returns the near duplicates of drafts, where any are asked for."""
        if not limit:
            return [None] * len(drafts)
        found = await near.near(self._database, owner, drafts, limit=limit, least=self._near_score)
        return [convert.near_message(one) for one in found]

    def _batch_stored(self) -> None:
        self._metrics.memory_writes.labels(SCHEMA, "IngestPassages").inc()
        self._indexer.wake()


def _pace(settings: ArchivalSettings) -> Pace:
    return Pace(
        poll=settings.index_poll_interval,
        longest_pause=settings.index_backoff_max,
        lease=settings.index_lease,
        batch=settings.index_batch_size,
        attempts=settings.index_attempts,
        retry_failed=settings.index_retry_failed,
    )


def _weights(settings: ArchivalSettings) -> Weights:
    return Weights(
        words=settings.words_weight,
        recency=settings.recency_weight,
        recency_days=settings.recency_days,
        importance=settings.importance_weight,
    )


def _author() -> Author:
    principal = call.current().principal
    return Author(principal.tenant, principal.actor, principal.user, call.trace_id())


def _sees_all() -> bool:
    principal = call.current().principal
    return not principal.service and not principal.user and "admin" in principal.scopes


def _cursor(last: Any) -> list[str | int]:
    return [last.created_at.isoformat(), last.id]


def _after(request: Message) -> tuple[datetime, str] | None:
    cursor = pages.decode(request)
    return None if cursor is None else (datetime.fromisoformat(str(cursor[0])), str(cursor[1]))


def _records(page: Sequence[tuple[Passage, Sequence[PassageVersion]]]) -> Iterator[common_pb2.ExportRecord]:
    for passage, versions in page:
        yield exports.record("passage", convert.exported_message(passage))
        for version in versions:
            yield exports.record("passage_version", convert.exported_version(version))
