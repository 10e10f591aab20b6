"""The second look at an entry whose knowledge bases moved: whether what was written since could change the answer."""

from __future__ import annotations

import asyncio

import grpc.aio
import structlog

from mneme.archival.v1 import archival_pb2
from mneme.common.v1 import common_pb2
from mneme.runtime.peers import Peers
from mneme.semantic_cache.basis import Basis
from mneme.semantic_cache.store import Stored
from mneme.semantic_cache.v1 import semantic_cache_pb2 as pb
from mneme.semantic_cache.vectors import Space

log = structlog.stdlib.get_logger(__name__)


class KnowledgeCheck:
    """Asks the archive about each knowledge base that an answer was made from."""

    def __init__(self, peers: Peers, *, timeout: float) -> None:
        """Args:
        peers: The archive.
        timeout: Longest time of it, in seconds.
        """
        self._peers = peers
        self._timeout = timeout

    @staticmethod
    def applies(stored: Stored, asked: Basis, own: Basis) -> bool:
        """Returns whether all that changed is knowledge bases which the entry says how it used."""
        used = {use.knowledge_base_id for use in stored.entry.knowledge}
        return stored.embedded is not None and used.issuperset(own.changed(asked))

    async def holds(self, stored: Stored, asked: Basis, own: Basis, space: Space) -> bool:
        """Returns whether the answer is what it would be on the basis asked with; False when nobody can tell.

        Args:
            stored: The entry, to which this applies.
            asked: Revisions that the caller read.
            own: Revisions that the entry rests on.
            space: The active space.
        """
        assert stored.embedded is not None
        changed = set(own.changed(asked))
        uses = [use for use in stored.entry.knowledge if use.knowledge_base_id in changed]
        before, now = dict(own.revisions), dict(asked.revisions)
        ids = [use.knowledge_base_id for use in uses]
        if stored.embedded.space != space.hash or any(id_ not in before or id_ not in now for id_ in ids):
            return False
        vector = common_pb2.Vector(values=stored.embedded.values.tolist(), space_id=space.space_id)
        requests = [_request(use, before[use.knowledge_base_id], vector) for use in uses]
        try:
            answers = await asyncio.gather(
                *(self._peers.archival.CheckUnchanged(request, timeout=self._timeout) for request in requests)
            )
        except grpc.aio.AioRpcError as error:
            log.info("cache.knowledge_unchecked", code=error.code().name)
            return False
        return all(answer.unchanged and answer.revision >= now[id_] for answer, id_ in zip(answers, ids, strict=True))


def _request(use: pb.KnowledgeUse, since: int, vector: common_pb2.Vector) -> archival_pb2.CheckUnchangedRequest:
    return archival_pb2.CheckUnchangedRequest(
        knowledge_base_id=use.knowledge_base_id,
        since_revision=since,
        passage_ids=use.passage_ids,
        vector=vector,
        kth_score=use.kth_score,
    )
