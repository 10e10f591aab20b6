"""The active vector space and the vectors of questions, from the embedding service; nothing when it does not answer."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass

import grpc.aio
import numpy as np
import structlog

from mneme.embedding.v1 import embedding_pb2
from mneme.runtime import call
from mneme.runtime.peers import Peers
from mneme.semantic_cache.addresses import space_hash
from mneme.semantic_cache.neighbours import Vectors

_SPACE_SECONDS = 60.0
_RETRY_SECONDS = 1.0
_REMEMBERED = 1000

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Space:
    """A space whose cosines mean something."""

    space_id: str
    dimensions: int
    threshold: float
    """Cosine from which two questions may have the same answer."""

    @property
    def hash(self) -> str:
        """16 hex digits, made of the id."""
        return space_hash(self.space_id).hex()


class Embedder:
    """Asks for vectors, and remembers those of the last 1,000 questions: look-up and commit need the same one."""

    def __init__(self, peers: Peers, *, threshold: float | None, timeout: float) -> None:
        """Args:
        peers: The embedding service.
        threshold: In place of the calibrated one; None for that.
        timeout: Longest wait for a vector, in seconds.
        """
        self._peers = peers
        self._threshold = threshold
        self._timeout = timeout
        self._space: Space | None = None
        self._ask_again = 0.0
        self._vectors: OrderedDict[tuple[str, str], Vectors] = OrderedDict()

    async def space(self) -> Space | None:
        """Returns the active space; None while it is unknown or not calibrated."""
        now = time.monotonic()
        if now < self._ask_again:
            return self._space
        # Set first: the others who come meanwhile go on with what is known.
        self._ask_again = now + _RETRY_SECONDS
        try:
            answer = await self._peers.embedding.GetSpace(embedding_pb2.GetSpaceRequest(), timeout=self._left())
        except grpc.aio.AioRpcError as error:
            log.info("cache.space_unknown", code=error.code().name)
            return self._space
        found = answer.space
        threshold = found.same_question_threshold if self._threshold is None else self._threshold
        self._ask_again = now + _SPACE_SECONDS
        self._space = Space(found.space_id, found.dimensions, threshold) if found.calibrated else None
        return self._space

    async def embed(self, space: Space, question: str) -> Vectors | None:
        """Returns a question's vector, float32[dimensions]; None when it does not come in time."""
        key = (space.space_id, question)
        known = self._vectors.get(key)
        if known is not None:
            self._vectors.move_to_end(key)
            return known
        request = embedding_pb2.EmbedRequest(
            texts=[question], input_type=embedding_pb2.INPUT_TYPE_QUERY, space_id=space.space_id
        )
        try:
            answer = await self._peers.embedding.Embed(request, timeout=self._left())
        except grpc.aio.AioRpcError as error:
            log.info("cache.question_not_embedded", code=error.code().name)
            return None
        vector = np.asarray(answer.embeddings[0].values, dtype=np.float32)
        self._vectors[key] = vector
        if len(self._vectors) > _REMEMBERED:
            self._vectors.popitem(last=False)
        return vector

    def _left(self) -> float:
        left = call.remaining()
        return self._timeout if left is None else min(self._timeout, left)
