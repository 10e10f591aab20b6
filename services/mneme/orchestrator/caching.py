"""The semantic cache in front of a turn: whether a question may be looked up, under which basis, and what is kept.

The basis is read from PostgreSQL each time: the agent's blocks (RenderMemory), its passages and knowledge bases
(GetRevisions), and how many of the user's runs have asked a model, which stands for all that was said before. A
cache that is slow, down or wrong costs nothing but the saving.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import UTC, timedelta

import grpc
import structlog

from mneme.archival.v1 import archival_pb2
from mneme.common.v1 import common_pb2
from mneme.core_memory.v1 import core_memory_pb2
from mneme.orchestrator import events
from mneme.orchestrator.current import Current
from mneme.orchestrator.prompt import RENDER_VERSION
from mneme.orchestrator.store import journal as journal_store
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.semantic_cache.v1 import semantic_cache_pb2 as cache_pb

_QUESTION_CHARS = 4000
_RUNS_SCOPE = "{agent_id} runs {user_id}"

log = structlog.stdlib.get_logger("mneme.orchestrator.caching")


@dataclass(frozen=True, slots=True)
class Lease:
    """The right, and the duty, to answer a question for everyone who asks it."""

    token: str
    key: cache_pb.CacheKey
    run_count: int
    """The user's runs that had asked a model when the question was looked up."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look-up brought: an answer, a lease, or neither."""

    hit: cache_pb.Hit | None = None
    lease: Lease | None = None


class CacheGate:
    """Asks the cache on behalf of one run."""

    def __init__(self, current: Current) -> None:
        self._current = current

    def applies(self) -> bool:
        """True for a user's message to an agent that caches, the first time the run is begun."""
        work, profile = self._current.work, self._current.profile
        return (
            profile.cache_policy == pb.CACHE_POLICY_PER_USER
            and work.event.kind == pb.EVENT_KIND_USER_MESSAGE
            and not work.event.bypass_cache
            and not work.steps
            and len(work.event.text) <= _QUESTION_CHARS
        )

    async def look_up(self) -> Looked:
        """What the cache holds for the event's question; nothing when any part fails."""
        settings = self._current.deps.settings.orchestrator
        try:
            key, run_count = await self._key()
            request = cache_pb.AcquireRequest(key=key)
            request.max_wait.FromTimedelta(timedelta(seconds=settings.cache_max_wait))
            with self._current.timed("semantic_cache"):
                response = await self._current.deps.peers.semantic_cache.Acquire(
                    request, timeout=settings.cache_max_wait + settings.cache_timeout
                )
        except (grpc.aio.AioRpcError, TimeoutError) as error:
            log.info("cache_unavailable", error=type(error).__name__)
            self._missed("UNAVAILABLE")
            return Looked()
        outcome = response.WhichOneof("outcome")
        if outcome == "hit":
            self._hit(response.hit)
            return Looked(hit=response.hit)
        miss = response.lease.miss if outcome == "lease" else response.miss
        self._missed(cache_pb.MissReason.Name(miss.reason).removeprefix("MISS_REASON_"), miss.guard)
        if outcome != "lease":
            return Looked()
        return Looked(lease=Lease(response.lease.lease_token, key, run_count))

    async def settle(self, lease: Lease, answer: str | None, run_count: int) -> None:
        """Keeps the run's answer, or gives the question up.

        Args:
            answer: What the run said to the user; None when it may not be kept.
            run_count: The user's runs that have asked a model, this one included. When another run came between,
                the answer does not rest on it, and is not kept.
        """
        timeout = self._current.deps.settings.orchestrator.cache_timeout
        stub = self._current.deps.peers.semantic_cache
        try:
            if answer is None or run_count != lease.run_count + 1:
                await stub.Abort(cache_pb.AbortRequest(lease_token=lease.token, key=lease.key), timeout=timeout)
                return
            run = self._current.run
            key = cache_pb.CacheKey()
            key.CopyFrom(lease.key)
            _set_run_count(key, run.agent_id, run.user_id, run_count)
            entry = cache_pb.CacheEntry(
                answer=answer,
                run_id=run.run_id,
                model=self._current.profile.choices[0].sampling.model,
                token_count=self._current.bill.input_tokens + self._current.bill.output_tokens,
                model_seconds=self._current.times.get("model", (0, 0.0))[1],
            )
            await stub.Commit(cache_pb.CommitRequest(lease_token=lease.token, key=key, entry=entry), timeout=timeout)
        except grpc.aio.AioRpcError as error:
            log.info("cache_not_kept", code=error.code().name)

    async def _key(self) -> tuple[cache_pb.CacheKey, int]:
        run, peers = self._current.run, self._current.deps.peers
        with self._current.timed("core_memory"), self._current.timed("archival"):
            rendered, revisions, run_count = await asyncio.gather(
                peers.core_memory.RenderMemory(
                    core_memory_pb2.RenderMemoryRequest(agent_id=run.agent_id, user_id=run.user_id)
                ),
                peers.archival.GetRevisions(archival_pb2.GetRevisionsRequest(agent_id=run.agent_id)),
                self._run_count(),
            )
        basis = cache_pb.Basis(revisions=[rendered.revision, *revisions.revisions])
        key = cache_pb.CacheKey(
            scope=cache_pb.CacheScope(agent_id=run.agent_id, user_id=run.user_id),
            question=self._current.work.event.text,
            fingerprint=self._fingerprint(),
            basis=basis,
        )
        _set_run_count(key, run.agent_id, run.user_id, run_count)
        return key, run_count

    async def _run_count(self) -> int:
        run = self._current.run
        async with self._current.transaction() as tx:
            return await journal_store.model_run_count(tx, self._current.fence.tenant, run.agent_id, run.user_id)

    def _fingerprint(self) -> str:
        """Hash of all that shapes an answer besides memory."""
        profile = self._current.profile
        shape = {
            "instructions": profile.instructions,
            "models": [asdict(choice.sampling) for choice in profile.choices],
            "tools": sorted(profile.tools),
            "render": RENDER_VERSION,
        }
        return hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()

    def _hit(self, hit: cache_pb.Hit) -> None:
        age = events.now() - hit.entry.create_time.ToDatetime(UTC)
        found = pb.CacheHit(
            entry_id=hit.entry.entry_id,
            exact=hit.tier == cache_pb.TIER_EXACT,
            score=hit.score,
            question=hit.entry.question if self._current.run.user_id else "",
        )
        found.age.FromTimedelta(max(age, timedelta()))
        self._current.log.add(pb.RunEvent(cache_hit=found))

    def _missed(self, reason: str, guard: str = "") -> None:
        self._current.log.add(pb.RunEvent(cache_miss=pb.CacheMiss(reason=reason, guard=guard)))


def _set_run_count(key: cache_pb.CacheKey, agent_id: str, user_id: str, run_count: int) -> None:
    scope = _RUNS_SCOPE.format(agent_id=agent_id, user_id=user_id)
    others = [one for one in key.basis.revisions if one.scope != scope]
    del key.basis.revisions[:]
    key.basis.revisions.extend([*others, common_pb2.Revision(scope=scope, revision=run_count)])
