"""The active vector space and the vectors of questions, from the embedding service; nothing when it does not answer."""

from __future__ import annotations

import asyncio
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
        self._asking: asyncio.Task[None] | None = None
        self._vectors: OrderedDict[tuple[str, str], Vectors] = OrderedDict()

    async def space(self) -> Space | None:
        """Returns the active space; None while it is unknown or not calibrated."""
        if self._asking is None and time.monotonic() >= self._ask_again:
            self._asking = asyncio.get_running_loop().create_task(self._ask(), name="cache-space")
        if self._asking is not None and self._space is None:
            await asyncio.wait([self._asking], timeout=self._left())
        return self._space

    async def close(self) -> None:
        """Ends asking."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask(self) -> None:
        """Asks for the space, in the name of the caller who came first."""
        pause = _RETRY_SECONDS
        try:
            answer = await self._peers.embedding.GetSpace(embedding_pb2.GetSpaceRequest(), timeout=self._timeout)
            found, pause = answer.space, _SPACE_SECONDS
            threshold = found.same_question_threshold if self._threshold is None else self._threshold
            self._space = Space(found.space_id, found.dimensions, threshold) if found.calibrated else None
        except grpc.aio.AioRpcError as error:
            log.info("cache.space_unknown", code=error.code().name)
        finally:
            self._ask_again = time.monotonic() + pause
            self._asking = None

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
