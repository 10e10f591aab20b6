"""The semantic cache in front of a turn: whether a question may be looked up, and what is kept of its answer.

A cache that is slow, down or wrong costs nothing but the saving.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import grpc
import structlog

from mneme.orchestrator import events
from mneme.orchestrator.answers import keys
from mneme.orchestrator.answers.admission import Admission
from mneme.orchestrator.answers.health import UnavailableError
from mneme.orchestrator.answers.keys import Public
from mneme.orchestrator.answers.public import Grounds
from mneme.orchestrator.answers.refresh import Refresh
from mneme.orchestrator.current import Current
from mneme.orchestrator.store import journal as journal_store
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.runtime import call
from mneme.semantic_cache.v1 import semantic_cache_pb2 as cache_pb

_QUESTION_CHARS = 4000
_OWN_WORK_SECONDS = 1.0
"""Longest time that a cache which is alive may take beside waiting, as for the vector of a question."""
_POLICIES = frozenset({pb.CACHE_POLICY_PER_USER, pb.CACHE_POLICY_SHARED})

log = structlog.stdlib.get_logger("mneme.orchestrator.answers")


@dataclass(frozen=True, slots=True)
class Lease:
    """The right, and the duty, to answer a question for everyone who asks it."""

    token: str
    key: cache_pb.CacheKey
    run_count: int = 0
    """The user's runs that had asked a model when the question was looked up; for an answer of one user."""
    asked: Public | None = None
    """Set where the answer is to be for all users."""
    next_change: datetime | None = None
    """When the state of memory that was read with the key next changes by itself: no answer is kept for longer."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look-up brought: an answer, a lease, or neither."""

    hit: cache_pb.Hit | None = None
    lease: Lease | None = None


class CacheGate:
    """Asks the cache on behalf of one run."""

    def __init__(self, current: Current) -> None:
        self._current = current
        self._refresh: Lease | None = None
        """The right to make the answer anew that was served."""

    def applies(self) -> bool:
        """True for a user's message to an agent that caches, as long as no model was asked for it."""
        work, profile = self._current.work, self._current.profile
        return (
            profile.cache_policy in _POLICIES
            and work.event.kind == pb.EVENT_KIND_USER_MESSAGE
            and not work.event.bypass_cache
            and not work.steps
            and len(work.event.text) <= _QUESTION_CHARS
        )

    async def look_up(self) -> Looked:
        """What the cache holds for the event's question; nothing when any part fails.

        Raises:
            CancelledRunError: The run was cancelled meanwhile.
        """
        async with self._current.breakable():
            try:
                if self._current.profile.cache_policy == pb.CACHE_POLICY_SHARED:
                    return await self._shared()
                return await self._own()
            except (grpc.aio.AioRpcError, UnavailableError) as error:
                log.info("cache_unavailable", error=type(error).__name__)
                self._missed("UNAVAILABLE")
                return Looked()

    async def settle(self, lease: Lease, answer: str, admission: Admission, run_count: int) -> None:
        """Keeps the answer that the run gave from what it knows of its user, or gives the question up.

        Args:
            lease: The right to answer.
            answer: What the run said to the user; empty when it did not end well.
            admission: What the answer rests on.
            run_count: The user's runs that have asked a model, this one included. When another run came between,
                the answer does not rest on it, and is not kept.
        """
        if not answer or lease.asked is not None or run_count != lease.run_count + 1:
            await self.give_up(lease)
            return
        entry = self._entry(answer, admission.passage_ids)
        entry.knowledge.extend(admission.knowledge(lease.key.basis))
        key = keys.with_run_count(lease.key, run_count)
        await self._commit(lease, key, entry, admission)

    async def keep(self, lease: Lease, answer: str, grounds: Grounds, admission: Admission) -> None:
        """Keeps an answer for all users, or gives the question up.

        Args:
            lease: The right to answer.
            answer: What was said; empty when the run did not end well.
            grounds: What it rests on.
            admission: What speaks against keeping it.
        """
        if not answer:
            await self.give_up(lease)
            return
        entry = self._entry(answer, grounds.passage_ids)
        entry.knowledge.extend(grounds.knowledge)
        await self._commit(lease, lease.key, entry, admission)

    async def give_up(self, lease: Lease) -> None:
        """Lets the next of those who wait answer."""
        # A right that is not given up makes all who wait do so to the end of their patience.
        stub, timeout = self._current.deps.peers.semantic_cache, _OWN_WORK_SECONDS
        try:
            await stub.Abort(cache_pb.AbortRequest(lease_token=lease.token, key=lease.key), timeout=timeout)
        except grpc.aio.AioRpcError as error:
            log.info("cache_not_told", code=error.code().name)

    async def refresh_served(self) -> None:
        """Has the answer that was served made anew in the background, where the cache asks for it."""
        lease, self._refresh = self._refresh, None
        if lease is None:
            return
        refresher, run_id = self._current.deps.answers.refresher, self._current.run.run_id
        if lease.asked is None or not refresher.accepts():
            await self.give_up(lease)
            return
        refresher.offer(Refresh(call.current().principal, self._current.profile, lease.asked, run_id, lease.token))

    async def _own(self) -> Looked:
        run, deps = self._current.run, self._current.deps
        with self._current.timed("core_memory"), self._current.timed("archival"):
            (key, next_change), run_count = await asyncio.gather(
                keys.own(deps.peers, self._current.profile, run.user_id, self._current.work.event.text),
                self._run_count(),
            )
        key = keys.with_run_count(key, run_count)
        return self._outcome(await self._acquire(key), Lease("", key, run_count, next_change=next_change))

    async def _shared(self) -> Looked:
        deps = self._current.deps
        with self._current.timed("core_memory"), self._current.timed("archival"):
            asked = await keys.public(deps.peers, self._current.profile, self._current.work.event.text)
        if asked.digest in deps.answers.contextual:
            self._missed("NEEDS_CONTEXT")
            return Looked()
        response = await self._acquire(asked.key)
        if response.HasField("lease") and asked.digest in deps.answers.contextual:
            # One who had the right to answer while this one waited could not: neither could those who wait still.
            await self.give_up(Lease(response.lease.lease_token, asked.key, asked=asked))
            self._missed("NEEDS_CONTEXT")
            return Looked()
        return self._outcome(response, Lease("", asked.key, asked=asked, next_change=asked.next_change))

    async def _acquire(self, key: cache_pb.CacheKey) -> cache_pb.AcquireResponse:
        deps, run = self._current.deps, self._current.run
        # One who died while answering holds the lease that a second attempt at the run would wait for.
        wait = deps.settings.orchestrator.cache_max_wait if run.begun_count <= 1 else 0.0
        request = cache_pb.AcquireRequest(key=key)
        request.max_wait.FromTimedelta(timedelta(seconds=wait))
        request.lease_time.FromTimedelta(timedelta(seconds=deps.settings.orchestrator.cache_lease))
        with self._current.timed("semantic_cache"):
            return await deps.answers.health.call(
                lambda: deps.peers.semantic_cache.Acquire(request, timeout=wait + _OWN_WORK_SECONDS)
            )

    def _outcome(self, response: cache_pb.AcquireResponse, sought: Lease) -> Looked:
        """What the cache's answer means; `sought` is the right to answer, complete but for its token."""
        outcome = response.WhichOneof("outcome")
        if outcome == "hit":
            self._hit(response.hit, sought.asked)
            if response.hit.HasField("refresh"):
                self._refresh = replace(sought, token=response.hit.refresh.lease_token)
            return Looked(hit=response.hit)
        miss = response.lease.miss if outcome == "lease" else response.miss
        reason = cache_pb.MissReason.Name(miss.reason).removeprefix("MISS_REASON_")
        self._missed(reason, miss.guard, miss.best_score)
        if miss.reason == cache_pb.MISS_REASON_STRATUM_CLOSED:
            self._current.deps.answers.judge.notice(call.tenant())
        if outcome != "lease":
            return Looked()
        return Looked(lease=replace(sought, token=response.lease.lease_token))

    async def _run_count(self) -> int:
        run = self._current.run
        async with self._current.transaction() as tx:
            return await journal_store.model_run_count(tx, self._current.fence.tenant, run.agent_id, run.user_id)

    def _entry(self, answer: str, passage_ids: list[str]) -> cache_pb.CacheEntry:
        current = self._current
        return cache_pb.CacheEntry(
            answer=answer,
            run_id=current.run.run_id,
            model=current.model,
            passage_ids=passage_ids,
            token_count=current.bill.tokens,
            model_seconds=current.times.get("model", (0, 0.0))[1],
        )

    async def _commit(
        self, lease: Lease, key: cache_pb.CacheKey, entry: cache_pb.CacheEntry, admission: Admission
    ) -> None:
        request = cache_pb.CommitRequest(lease_token=lease.token, key=key, entry=entry, unfit=admission.unfit)
        life = keys.life(lease.next_change, events.now())
        if life == timedelta():
            await self.give_up(lease)
            return
        if life is not None:
            request.time_to_live.FromTimedelta(life)
        stub, timeout = self._current.deps.peers.semantic_cache, _OWN_WORK_SECONDS
        try:
            await stub.Commit(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            log.info("cache_not_kept", code=error.code().name)

    def _hit(self, hit: cache_pb.Hit, asked: Public | None) -> None:
        answers = self._current.deps.answers
        age = events.now() - hit.entry.create_time.ToDatetime(UTC)
        found = pb.CacheHit(
            entry_id=hit.entry.entry_id,
            exact=hit.tier == cache_pb.TIER_EXACT,
            score=hit.score,
            question=hit.entry.question if asked is None and self._current.run.user_id else "",
            shared=asked is not None,
        )
        found.age.FromTimedelta(max(age, timedelta()))
        self._current.log.add(pb.RunEvent(cache_hit=found))
        if hit.tier == cache_pb.TIER_SEMANTIC:
            answers.judge.notice(call.tenant())

    def _missed(self, reason: str, guard: str = "", best_score: float = 0.0) -> None:
        miss = pb.CacheMiss(reason=reason, guard=guard, best_score=best_score)
        self._current.log.add(pb.RunEvent(cache_miss=miss))
