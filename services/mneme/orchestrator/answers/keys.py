"""What a question is looked up under: whose answers may be served, and the state of memory that they must rest on.

The state is read from PostgreSQL each time: blocks (RenderMemory), passages and knowledge bases (GetRevisions), and
for answers of one user how many of that user's runs have asked a model, which stands for all that was said before.
With it comes when that state next changes without a write, by a passage that begins or ceases to be true.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from mneme.archival.v1 import archival_pb2
from mneme.common.v1 import common_pb2
from mneme.core_memory.v1 import core_memory_pb2
from mneme.orchestrator.profile import Profile
from mneme.orchestrator.prompt import RENDER_VERSION
from mneme.runtime import call
from mneme.runtime.call import Principal
from mneme.runtime.peers import Peers
from mneme.semantic_cache.v1 import semantic_cache_pb2 as cache_pb

_RUNS_SCOPE = "{agent_id} runs {user_id}"
PUBLIC_VERSION = 1
"""Raised with every change of what a public prompt looks like."""


@dataclass(frozen=True, slots=True)
class Public:
    """A question for all users, with what they all may see as it was when the state of memory was read."""

    key: cache_pb.CacheKey
    rendered: core_memory_pb2.RenderMemoryResponse
    next_change: datetime | None
    """When that state next changes by itself."""

    @property
    def question(self) -> str:
        """What was asked."""
        return self.key.question

    @property
    def digest(self) -> bytes:
        """Names the question as it stands in this state of memory, without telling it."""
        text = json.dumps(
            [
                call.tenant(),
                self.key.scope.agent_id,
                self.key.fingerprint,
                sorted((one.scope, one.revision) for one in self.key.basis.revisions),
                " ".join(self.key.question.casefold().split()),
            ]
        )
        return hashlib.sha256(text.encode()).digest()


async def own(peers: Peers, profile: Profile, user_id: str, question: str) -> tuple[cache_pb.CacheKey, datetime | None]:
    """The key of a question that only the same user may be served for, and when its state next changes by itself.

    `with_run_count` completes the key.

    Raises:
        grpc.aio.AioRpcError: A service did not answer.
    """
    rendered, revisions = await asyncio.gather(
        peers.core_memory.RenderMemory(core_memory_pb2.RenderMemoryRequest(agent_id=profile.agent_id, user_id=user_id)),
        peers.archival.GetRevisions(archival_pb2.GetRevisionsRequest(agent_id=profile.agent_id)),
    )
    shape = {"tools": sorted(profile.tools), "render": RENDER_VERSION}
    key = cache_pb.CacheKey(
        scope=cache_pb.CacheScope(agent_id=profile.agent_id, user_id=user_id),
        question=question,
        fingerprint=_fingerprint(profile, shape),
        basis=cache_pb.Basis(revisions=[rendered.revision, *revisions.revisions]),
    )
    return key, _next_change(revisions)


async def public(peers: Peers, profile: Profile, question: str) -> Public:
    """The key of a question whose answer all users may be served, and the blocks that they all see.

    Raises:
        grpc.aio.AioRpcError: A service did not answer.
    """
    with for_nobody():
        rendered, revisions = await asyncio.gather(
            peers.core_memory.RenderMemory(
                core_memory_pb2.RenderMemoryRequest(agent_id=profile.agent_id, shared_only=True)
            ),
            peers.archival.GetRevisions(archival_pb2.GetRevisionsRequest(agent_id=profile.agent_id)),
        )
    attached = [one for one in revisions.revisions if _is_knowledge_base(one.scope)]
    key = cache_pb.CacheKey(
        scope=cache_pb.CacheScope(agent_id=profile.agent_id),
        question=question,
        fingerprint=_fingerprint(profile, {"public": PUBLIC_VERSION, "render": RENDER_VERSION}),
        basis=cache_pb.Basis(revisions=[rendered.shared_revision, *attached]),
        shared_after_users=profile.shared_after_users,
    )
    return Public(key, rendered, _next_change(revisions))


@contextmanager
def for_nobody() -> Iterator[None]:
    """Lets the block's calls act for no user, so that no service can answer with anything that is one user's own."""
    running = call.current()
    who = running.principal
    with call.enter(replace(running, principal=Principal(who.tenant, who.actor, "", who.service, who.scopes))):
        yield


def with_run_count(key: cache_pb.CacheKey, run_count: int) -> cache_pb.CacheKey:
    """The key with the number of the user's runs that have asked a model in its basis."""
    scope = _RUNS_SCOPE.format(agent_id=key.scope.agent_id, user_id=key.scope.user_id)
    counted = cache_pb.CacheKey()
    counted.CopyFrom(key)
    others = [one for one in key.basis.revisions if one.scope != scope]
    del counted.basis.revisions[:]
    counted.basis.revisions.extend([*others, common_pb2.Revision(scope=scope, revision=run_count)])
    return counted


def knowledge_bases(basis: cache_pb.Basis) -> list[str]:
    """The knowledge bases that a basis counts."""
    return [one.scope for one in basis.revisions if _is_knowledge_base(one.scope)]


def life(next_change: datetime | None, now: datetime) -> timedelta | None:
    """How long an answer may be kept that was made in a state of memory; None where nothing changes by itself.

    Zero when the change came before the answer: it may have been made from either state.
    """
    return None if next_change is None else max(timedelta(), next_change - now)


def _next_change(revisions: archival_pb2.GetRevisionsResponse) -> datetime | None:
    return revisions.next_change_time.ToDatetime(UTC) if revisions.HasField("next_change_time") else None


def _is_knowledge_base(scope: str) -> bool:
    return scope.startswith("kb-")


def _fingerprint(profile: Profile, shape: Mapping[str, Any]) -> str:
    """Hash of all that shapes an answer besides memory."""
    whole = {
        "instructions": profile.instructions,
        "models": [asdict(choice.sampling) for choice in profile.choices],
        **shape,
    }
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
