"""gRPC in and out of the semantic cache."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

import grpc.aio

from mneme.common.v1 import common_pb2
from mneme.errors.v1 import errors_pb2
from mneme.runtime import call, ids
from mneme.runtime.auth import SuiteKeys
from mneme.runtime.component import Component, Runtime
from mneme.runtime.errors import Error, invalid
from mneme.runtime.idempotency import once
from mneme.runtime.redis import CacheDown
from mneme.semantic_cache.addresses import Address, Scope
from mneme.semantic_cache.answering import Answering
from mneme.semantic_cache.bounds import wrong_upper_bound
from mneme.semantic_cache.gate import Gate
from mneme.semantic_cache.keeping import Keeping
from mneme.semantic_cache.meaning import Considered, Meaning, basis_of
from mneme.semantic_cache.offering import Offering
from mneme.semantic_cache.query import Query
from mneme.semantic_cache.reading import Reader, seconds
from mneme.semantic_cache.reuse import Reuse
from mneme.semantic_cache.sampling import Sampler
from mneme.semantic_cache.statistics import Statistics
from mneme.semantic_cache.store import (
    Counted,
    EntryStore,
    JudgedStore,
    Purged,
    Settled,
    Stratum,
    Subject,
    WorthStore,
)
from mneme.semantic_cache.store.index import ChosenIndex, ProcessIndex
from mneme.semantic_cache.unchanged import KnowledgeCheck
from mneme.semantic_cache.v1 import semantic_cache_pb2 as pb
from mneme.semantic_cache.v1 import semantic_cache_pb2_grpc as pb_grpc
from mneme.semantic_cache.vectors import Embedder
from mneme.semantic_cache.verdicts import Verdicts, sample_id
from mneme.semantic_cache.verifying import OpenAiVerifier

Context = grpc.aio.ServicerContext[Any, Any]

_SCHEMA = "semantic_cache"
_KEYS = "mneme:query"
_TAKEN = 10
_HOLD_SECONDS = 60.0


class SemanticCacheComponent(pb_grpc.SemanticCacheServiceServicer):
    """The service `mneme.semantic_cache.v1.SemanticCacheService`."""

    def __init__(
        self,
        *,
        answering: Answering,
        reader: Reader,
        entries: EntryStore,
        judged: JudgedStore,
        verdicts: Verdicts,
        sampler: Sampler,
        reuse: Reuse,
        gate: Gate,
        embedder: Embedder,
        index: ChosenIndex,
        statistics: Statistics,
        verifier: OpenAiVerifier | None,
        runtime: Runtime,
    ) -> None:
        """Args:
        answering: Look-ups and leases.
        reader: Reads requests.
        entries: What is in Redis.
        judged: What is in PostgreSQL.
        verdicts: Records what is said of answers.
        sampler: Keeps pairs to be judged.
        reuse: Reports uses.
        gate: Closed strata.
        embedder: Knows the space.
        index: Finds neighbours.
        statistics: Counts by tenant and agent.
        verifier: Judges pairs before their answer is served; None for none.
        runtime: Settings, and whether Redis answers.
        """
        self._answering = answering
        self._reader = reader
        self._entries = entries
        self._judged = judged
        self._verdicts = verdicts
        self._sampler = sampler
        self._reuse = reuse
        self._gate = gate
        self._embedder = embedder
        self._index = index
        self._statistics = statistics
        self._verifier = verifier
        self._cache = runtime.cache
        self._has_redis = bool(runtime.settings.redis.url.get_secret_value())
        self._settings = runtime.settings.semantic_cache

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the servicer to the server."""
        pb_grpc.add_SemanticCacheServiceServicer_to_server(self, server)

    async def start(self) -> None:
        """Begins to keep and judge samples, and to report uses."""
        self._sampler.start()
        self._reuse.start()

    async def drain(self) -> None:
        """Lets those who wait for another caller's answer go on without it."""
        await self._answering.close()

    async def stop(self) -> None:
        """Ends what runs in the background."""
        await self._sampler.stop()
        await self._reuse.stop()
        await self._index.close()
        await self._gate.close()
        await self._embedder.close()
        if self._verifier is not None:
            await self._verifier.close()

    async def ready(self) -> None:
        """Returns when PostgreSQL answers; without Redis every look-up is a miss, which is service enough."""
        await self._judged.ping()

    async def Lookup(self, request: pb.LookupRequest, context: Context) -> pb.LookupResponse:
        """Looks a question up."""
        query = self._reader.query(request.key, request.max_age if request.HasField("max_age") else None)
        outcome = await self._answering.look_up(query)
        if isinstance(outcome, pb.Hit):
            self._reader.hide_origin(query.address.scope, outcome.entry)
            return pb.LookupResponse(hit=outcome)
        return pb.LookupResponse(miss=outcome)

    async def Acquire(self, request: pb.AcquireRequest, context: Context) -> pb.AcquireResponse:
        """Looks a question up, or gives the right to answer it."""
        query = self._reader.query(request.key, request.max_age if request.HasField("max_age") else None)
        wait = seconds(request.max_wait, "max_wait") if request.HasField("max_wait") else 0.0
        lease = self._settings.lease_seconds
        if request.HasField("lease_time"):
            lease = min(seconds(request.lease_time, "lease_time"), self._settings.lease_seconds_max)
        outcome = await self._answering.acquire(query, wait=wait, lease_seconds=lease)
        if isinstance(outcome, pb.Hit):
            return pb.AcquireResponse(hit=outcome)
        if isinstance(outcome, pb.Lease):
            return pb.AcquireResponse(lease=outcome)
        return pb.AcquireResponse(miss=outcome)

    async def Commit(self, request: pb.CommitRequest, context: Context) -> pb.CommitResponse:
        """Stores the answer of an acquired question."""
        query, life = self._reader.query(request.key), self._life(request)
        entry_id = ids.derived("entry", call.tenant(), request.lease_token)
        stored = self._reader.stored(query, request.key, request.entry, entry_id, life)
        if request.unfit or not self._small_enough(request.entry):
            await self._answering.abort(query, request.lease_token)
            return pb.CommitResponse()
        kept = await self._answering.commit(query, request.lease_token, stored)
        if kept and await self._forgotten(query.address.scope, stored.entry):
            await self._remove(query.address, entry_id)
            kept = False
        return self._committed(query, entry_id, kept=kept)

    async def Abort(self, request: pb.AbortRequest, context: Context) -> pb.AbortResponse:
        """Gives an acquired question up."""
        await self._answering.abort(self._reader.query(request.key), request.lease_token)
        return pb.AbortResponse()

    async def Put(self, request: pb.PutRequest, context: Context) -> pb.PutResponse:
        """Stores an answer without a lease."""
        query, life = self._reader.query(request.key), self._life(request)
        self._reader.check_self_contained(query)
        if not self._small_enough(request.entry):
            limit = self._settings.answer_bytes_max
            raise invalid("entry.answer", f"at most {limit} bytes are stored", errors_pb2.REASON_TEXT_TOO_LONG)
        if request.unfit:
            return pb.PutResponse()
        entry_id = ids.derived("entry", call.tenant(), request.request_id)
        stored = self._reader.stored(query, request.key, request.entry, entry_id, life)

        async def run() -> pb.PutResponse:
            kept = await self._answering.put(query, stored)
            if kept and await self._forgotten(query.address.scope, stored.entry):
                await self._remove(query.address, entry_id)
                kept = False
            done = self._committed(query, entry_id, kept=kept)
            return pb.PutResponse(stored=done.stored, entry_id=done.entry_id)

        async with self._judged.transaction(call.tenant()) as tx:
            return await once(tx, _SCHEMA, request, pb.PutResponse, run)

    async def Invalidate(self, request: pb.InvalidateRequest, context: Context) -> pb.InvalidateResponse:
        """Removes entries."""
        target = request.WhichOneof("target")
        if target is None:
            raise invalid("target", "one of scope, entry_id, author is needed")
        tenant = call.tenant()
        try:
            if target == "scope":
                scope = self._reader.scope(request.scope)
                await self._entries.empty(scope)
                return pb.InvalidateResponse()
            if target == "entry_id":
                address = await self._entries.find(tenant, request.entry_id)
                if address is None or not self._reader.may_touch(address.scope):
                    return pb.InvalidateResponse()
                removed = await self._entries.remove(address, request.entry_id)
                return pb.InvalidateResponse(removed_count=int(removed))
            call.acting_user(request.author)
            purged = await self._entries.remove_owned(tenant, "author", request.author)
        except CacheDown as down:
            raise _redis_down() from down
        return pb.InvalidateResponse(removed_count=purged.removed)

    async def Feedback(self, request: pb.FeedbackRequest, context: Context) -> pb.FeedbackResponse:
        """Keeps a verdict, and removes an entry that was wrong."""
        tenant, wrong = call.tenant(), request.verdict == pb.VERDICT_WRONG
        try:
            address = await self._entries.find(tenant, request.entry_id)
        except CacheDown:
            address = None
        if address is not None and not self._reader.may_touch(address.scope):
            address = None
        question_hmac = self._reader.question_hmac(request.question)
        pair = await self._verdicts.sample(tenant, request.entry_id, address, request.question, question_hmac)
        actor = call.current().principal.actor
        sample = replace(pair, sample_id=sample_id(tenant, request.request_id), wrong=wrong, actor=actor)
        counted: list[Counted] = []

        async with self._judged.transaction(tenant) as tx:

            async def run() -> pb.FeedbackResponse:
                counted.extend(filter(None, [await self._verdicts.record(tx, tenant, sample)]))
                removed = wrong and address is not None and await self._remove(address, request.entry_id)
                return pb.FeedbackResponse(removed=removed)

            response = await once(tx, _SCHEMA, request, pb.FeedbackResponse, run)
        for one in counted:
            self._verdicts.learn(tenant, one)
        return response

    async def TakeSamples(self, request: pb.TakeSamplesRequest, context: Context) -> pb.TakeSamplesResponse:
        """Gives pairs to be judged."""
        tenant = call.tenant()
        hold = seconds(request.hold_time, "hold_time") if request.HasField("hold_time") else _HOLD_SECONDS
        taken = await self._judged.take(tenant, limit=request.limit or _TAKEN, hold=hold)
        response = pb.TakeSamplesResponse()
        for one in taken:
            sample = one.sample
            made = response.samples.add(
                sample_id=sample.sample_id,
                asked_question=sample.asked_question,
                stored_question=sample.stored_question,
                answer=await self._sampler.answer(tenant, sample.entry_id),
                entry_id=sample.entry_id,
                agent_id=sample.agent_id,
                stratum=sample.stratum,
                score=sample.score,
                served=sample.served,
            )
            made.create_time.FromDatetime(one.create_time)
        return response

    async def JudgeSample(self, request: pb.JudgeSampleRequest, context: Context) -> pb.JudgeSampleResponse:
        """Keeps the verdict on a pair, and removes an entry that was wrong."""
        tenant, wrong = call.tenant(), request.verdict == pb.VERDICT_WRONG
        actor = call.current().principal.actor
        done: list[Settled] = []

        async with self._judged.transaction(tenant) as tx:

            async def run() -> pb.JudgeSampleResponse:
                settled = await self._verdicts.settle(tx, tenant, request.sample_id, wrong=wrong, actor=actor)
                if settled is None:
                    return pb.JudgeSampleResponse()
                done.append(settled)
                closed = settled.counted is not None and settled.counted.closed
                return pb.JudgeSampleResponse(counted=settled.counted is not None, closed=closed)

            response = await once(tx, _SCHEMA, request, pb.JudgeSampleResponse, run)
        for settled in done:
            self._verdicts.learn(tenant, settled.counted)
            if wrong:
                await self._verdicts.remove_by_id(tenant, settled.entry_id)
        return response

    async def OpenStratum(self, request: pb.OpenStratumRequest, context: Context) -> pb.OpenStratumResponse:
        """Opens a stratum that closed itself, and lets it count anew."""
        tenant = call.tenant()

        async with self._judged.transaction(tenant) as tx:

            async def run() -> pb.OpenStratumResponse:
                opened = await self._judged.open_stratum(tx, tenant, request.stratum)
                return pb.OpenStratumResponse(opened=opened)

            response = await once(tx, _SCHEMA, request, pb.OpenStratumResponse, run)
        if response.opened:
            self._gate.learn(tenant, request.stratum, closed=False, changed=True)
        return response

    async def Explain(self, request: pb.ExplainRequest, context: Context) -> pb.ExplainResponse:
        """Shows what a look-up would do and why."""
        query = self._reader.query(request.key)
        scope = query.address.scope
        seen = await self._answering.inspect(query)
        response = pb.ExplainResponse(normalised_question=query.normalised)
        if isinstance(seen.outcome, pb.Hit):
            response.hit.CopyFrom(seen.outcome)
            self._reader.hide_origin(scope, response.hit.entry)
        else:
            response.miss.CopyFrom(seen.outcome)
        exact = [] if seen.exact is None else [Considered(query.address, seen.exact, pb.TIER_EXACT, 1.0)]
        for one in exact:
            one.changed = basis_of(one.stored).changed(query.basis)
        for one in (*exact, *seen.considered):
            candidate = response.candidates.add(tier=one.tier, score=one.score, entry=one.stored.entry)
            candidate.entry.ClearField("answer")
            self._reader.hide_origin(scope, candidate.entry)
            told = bool(candidate.entry.question)
            candidate.guards.extend(
                pb.GuardVerdict(guard=verdict.guard, passed=verdict.passed, detail=verdict.detail if told else "")
                for verdict in one.verdicts
            )
            candidate.changed_scopes.extend(one.changed)
        return response

    async def GetStats(self, request: pb.GetStatsRequest, context: Context) -> pb.GetStatsResponse:
        """Returns counts of this replica since it started, and the bound on wrong hits of all replicas."""
        tenant = call.tenant()
        counts = self._statistics.total(tenant, request.agent_id)
        strata = await self._judged.strata(tenant, request.agent_id)
        judged, wrong = sum(one.judged for one in strata), sum(one.wrong for one in strata)
        hits = counts.exact_hits + counts.semantic_hits
        usable = await self._embedder.space() is not None and await self._gate.closed(tenant) is not None
        return pb.GetStatsResponse(
            lookup_count=counts.lookups,
            exact_hit_count=counts.exact_hits,
            semantic_hit_count=counts.semantic_hits,
            misses=[
                pb.MissCount(reason=pb.MissReason.ValueType(reason), guard=guard, count=count)
                for (reason, guard), count in sorted(counts.misses.items())
            ],
            stored_count=counts.stored,
            saved_token_count=counts.saved_tokens,
            saved_seconds=counts.saved_seconds,
            strata=list(map(_stratum_stats, strata)),
            available=self._cache.available,
            hit_rate=hits / counts.lookups if counts.lookups else 0.0,
            precision=1 - wrong / judged if judged else 0.0,
            precision_lower_bound=1 - wrong_upper_bound(judged, wrong),
            wrong_limit=self._settings.wrong_limit,
            index=self._index.name,
            semantic_available=usable,
        )

    async def PurgeData(self, request: pb.PurgeDataRequest, context: Context) -> pb.PurgeDataResponse:
        """Removes all entries and samples of an agent or user, after a tombstone that refuses late writes."""
        tenant, subject = call.tenant(), _subject(request.subject)
        await self._judged.bury(tenant, subject, request.operation_id)
        entries = await self._purge_entries(tenant, subject)

        async with self._judged.transaction(tenant) as tx:

            async def run() -> pb.PurgeDataResponse:
                counts = {_KEYS: (entries.removed, entries.remaining)}
                counts |= await self._judged.purge(tx, tenant, subject)
                return pb.PurgeDataResponse(
                    counts=[
                        common_pb2.PurgeCount(store=store, removed=removed, remaining=remaining)
                        for store, (removed, remaining) in counts.items()
                    ]
                )

            return await once(tx, _SCHEMA, request, pb.PurgeDataResponse, run)

    async def _purge_entries(self, tenant: str, subject: Subject) -> Purged:
        """Removes entries; a Redis that is not configured has none."""
        kinds = ("agent",) if subject.kind == "agent" else ("user", "author")
        total = Purged(0, 0)
        try:
            if subject.kind == "agent":
                await self._entries.empty(Scope(tenant, subject.subject_id))
            for kind in kinds:
                purged = await self._entries.remove_owned(tenant, kind, subject.subject_id)
                total = Purged(total.removed + purged.removed, total.remaining + purged.remaining)
        except CacheDown as down:
            if self._has_redis:
                raise _redis_down() from down
        return total

    def _life(self, request: pb.CommitRequest | pb.PutRequest) -> float:
        longest = self._settings.entry_seconds
        if not request.HasField("time_to_live"):
            return longest
        return min(seconds(request.time_to_live, "time_to_live"), longest)

    def _small_enough(self, entry: pb.CacheEntry) -> bool:
        return len(entry.answer.encode()) <= self._settings.answer_bytes_max

    def _committed(self, query: Query, entry_id: str, *, kept: bool) -> pb.CommitResponse:
        if not kept:
            return pb.CommitResponse()
        self._statistics.of(query.address.scope.tenant, query.address.scope.agent_id).stored += 1
        return pb.CommitResponse(stored=True, entry_id=entry_id)

    async def _forgotten(self, scope: Scope, entry: pb.CacheEntry) -> bool:
        """Whether the entry's agent or users were purged; asked after the write, so that no purge slips between.

        While PostgreSQL does not tell, they count as purged: an answer that is not cached costs a model call.
        """
        users = (scope.user_id, entry.author)
        return await _or_true(self._judged.forgotten(scope.tenant, agent_id=scope.agent_id, users=users))

    async def _remove(self, address: Address, entry_id: str) -> bool:
        try:
            return await self._entries.remove(address, entry_id)
        except CacheDown:
            return False


async def _or_true(answer: Awaitable[bool]) -> bool:
    try:
        return await answer
    except Error as error:
        if error.reason != errors_pb2.REASON_STORE_UNAVAILABLE:
            raise
        return True


def _subject(subject: common_pb2.PurgeSubject) -> Subject:
    kind = subject.WhichOneof("subject")
    if kind == "agent_id" and subject.agent_id:
        return Subject("agent", subject.agent_id)
    if kind == "user_id" and subject.user_id:
        return Subject("user", subject.user_id)
    raise invalid("subject", "an agent_id or a user_id is needed; entries are not kept by conversation")


def _stratum_stats(stratum: Stratum) -> pb.StratumStats:
    return pb.StratumStats(
        stratum=stratum.name,
        judged_count=stratum.judged,
        wrong_count=stratum.wrong,
        wrong_upper_bound=wrong_upper_bound(stratum.judged, stratum.wrong),
        closed=stratum.closed,
    )


def _redis_down() -> Error:
    return Error(errors_pb2.REASON_STORE_UNAVAILABLE, "the cache does not answer", metadata={"store": "redis"})


def build(runtime: Runtime) -> Component:
    """Returns the service."""
    settings, metrics, judged = runtime.settings.semantic_cache, runtime.metrics, JudgedStore(runtime.database)
    secret = SuiteKeys.load(runtime.settings.auth).derive("query cache")
    reader = Reader(secret, jitter=settings.entry_jitter, refresh_fraction=settings.refresh_fraction)
    entries = EntryStore(
        runtime.cache,
        longest_life=settings.entry_seconds,
        longest_lease=settings.lease_seconds_max,
        concurrency=settings.redis_concurrency,
    )
    index = _index(runtime)
    embedder = Embedder(runtime.peers, threshold=settings.threshold, timeout=settings.embed_timeout)
    patience = runtime.settings.redis.command_timeout
    gate = Gate(judged, metrics, interval=settings.strata_seconds, patience=patience)
    knowledge = KnowledgeCheck(runtime.peers, timeout=settings.check_timeout)
    verifier = _verifier(runtime)
    meaning = Meaning(entries, index, embedder, gate, knowledge, candidates=settings.candidates, verifier=verifier)
    worth = WorthStore(runtime.cache, longest_life=settings.entry_seconds, tenant_bytes=settings.tenant_bytes)
    sampler = Sampler(judged, entries, metrics, rate=settings.sample_rate, most=settings.samples_max)
    reuse, statistics = Reuse(worth), Statistics()
    answering = Answering(
        entries,
        meaning,
        Keeping(entries, worth, meaning, metrics),
        Offering(sampler, reader.question_hmac),
        reuse,
        statistics,
        metrics,
    )
    return SemanticCacheComponent(
        answering=answering,
        reader=reader,
        entries=entries,
        judged=judged,
        verdicts=Verdicts(
            judged, entries, embedder, gate, metrics, wrong_limit=settings.wrong_limit, verified=verifier is not None
        ),
        sampler=sampler,
        reuse=reuse,
        gate=gate,
        embedder=embedder,
        index=index,
        statistics=statistics,
        verifier=verifier,
        runtime=runtime,
    )


def _verifier(runtime: Runtime) -> OpenAiVerifier | None:
    own = runtime.settings.semantic_cache
    if not own.verifier_model:
        return None
    return OpenAiVerifier(runtime.settings.models, own.verifier_model, timeout=own.verifier_timeout)


def _index(runtime: Runtime) -> ChosenIndex:
    settings = runtime.settings.semantic_cache
    process = ProcessIndex(
        runtime.cache,
        exact_limit=settings.exact_entries,
        memory_bytes=settings.index_bytes,
        longest_life=settings.entry_seconds,
        patience=runtime.settings.redis.command_timeout,
    )
    return ChosenIndex(runtime.cache, process=process, longest_life=settings.entry_seconds)
