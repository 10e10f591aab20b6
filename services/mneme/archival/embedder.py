"""Vectors from the embedding service. Its failure never fails a caller: what cannot be embedded now has no vector."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import grpc
import grpc.aio
import numpy as np
import structlog

from mneme.archival import guards
from mneme.archival.records import Embedded, Vector
from mneme.embedding.v1 import embedding_pb2
from mneme.runtime import call
from mneme.runtime.errors import from_rpc_error
from mneme.runtime.peers import Peers

MAX_TEXTS = 256
MAX_REQUEST_BYTES = 2 * 1024 * 1024

_SPACE_SECONDS = 60.0
_PAUSE_SECONDS = 1.0
_DOWN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Space:
    """The deployment's active vector space."""

    id: str
    dimensions: int


class Embedder:
    """Asks the embedding service, in this service's name."""

    def __init__(self, peers: Peers, *, timeout_seconds: float) -> None:
        """Args:
        peers: Stubs of the other services.
        timeout_seconds: Longest time a caller waits for vectors before it goes on without.
        """
        self._peers = peers
        self._timeout = timeout_seconds
        self._space: Space | None = None
        self._space_until = 0.0
        self._paused_until = 0.0

    async def query(self, text: str) -> Embedded | None:
        """Returns the vector of a question, or None when it cannot be made now."""
        made = await self._try([text], embedding_pb2.INPUT_TYPE_QUERY, embedding_pb2.PRIORITY_INTERACTIVE)
        return made[0]

    async def documents(self, texts: Sequence[str], *, bulk: bool = False) -> list[Embedded | None]:
        """Returns a vector a text, in their order; None where it cannot be made now."""
        priority = embedding_pb2.PRIORITY_BULK if bulk else embedding_pb2.PRIORITY_INTERACTIVE
        made: list[Embedded | None] = []
        for start, end in pairwise(_borders(texts)):
            part = await self._try(texts[start:end], embedding_pb2.INPUT_TYPE_DOCUMENT, priority)
            made += part
            if all(one is None for one in part):
                # It does not answer: the rest would only wait for the same failure.
                made += [None] * (len(texts) - end)
                break
        return made

    async def embed(
        self,
        texts: Sequence[str],
        input_type: embedding_pb2.InputType.ValueType,
        priority: embedding_pb2.Priority.ValueType,
    ) -> list[Embedded | None]:
        """Returns a vector a text; None for one in which the model finds nothing.

        Args:
            texts: At most 256 of together at most 2 MiB.
            input_type: Question or document.
            priority: Whether somebody waits.

        Raises:
            grpc.aio.AioRpcError: The embedding service failed.
        """
        request = embedding_pb2.EmbedRequest(
            texts=texts, input_type=input_type, priority=priority, overflow=embedding_pb2.OVERFLOW_TRUNCATE
        )
        response = await self._peers.embedding.Embed(request, timeout=self._patience())
        self._paused_until = 0.0
        if self._space is not None and self._space.id != response.space_id:
            self._space = None
        return [_usable(response.space_id, vector) for vector in response.embeddings]

    async def check(self, field: str, embedded: Embedded) -> None:
        """Returns when a vector that was handed in belongs to the active space and has its dimensions and length 1.

        While the embedding service does not answer, the vector is held against the name of its own space: rows name
        their space, and vectors of different spaces are never compared.

        Raises:
            Error: DIMENSION_MISMATCH or INVALID_FIELD.
        """
        space = await self._active_space() or _named(embedded)
        guards.check_vector(field, embedded, space_id=space.id, dimensions=space.dimensions)

    def _patience(self) -> float:
        """Returns how long to wait: never so long that no time is left to go on without a vector."""
        left = call.remaining()
        return self._timeout if left is None else min(self._timeout, left / 2)

    async def _active_space(self) -> Space | None:
        now = asyncio.get_running_loop().time()
        if self._space is not None and now < self._space_until:
            return self._space
        try:
            request = embedding_pb2.GetSpaceRequest()
            found = (await self._peers.embedding.GetSpace(request, timeout=self._patience())).space
        except grpc.aio.AioRpcError as error:
            log.warning("space_unknown", reason=from_rpc_error(error).reason_name)
            return self._space
        self._space, self._space_until = Space(found.space_id, found.dimensions), now + _SPACE_SECONDS
        return self._space

    async def _try(
        self,
        texts: Sequence[str],
        input_type: embedding_pb2.InputType.ValueType,
        priority: embedding_pb2.Priority.ValueType,
    ) -> list[Embedded | None]:
        now = asyncio.get_running_loop().time()
        if now < self._paused_until:
            # It did not answer a moment ago: not every caller has to find that out for itself.
            return [None] * len(texts)
        try:
            return await self.embed(texts, input_type, priority)
        except grpc.aio.AioRpcError as error:
            failure = from_rpc_error(error)
            log.warning("not_embedded", texts=len(texts), reason=failure.reason_name)
            if failure.code in _DOWN:
                self._paused_until = now + _PAUSE_SECONDS
            return [None] * len(texts)


def _usable(space_id: str, vector: embedding_pb2.Embedding) -> Embedded | None:
    """Returns the vector, normalised; None for one without a direction, which nothing can be compared with."""
    values: Vector = np.array(vector.values, dtype=np.float32)
    length = float(np.linalg.norm(values))
    if not np.isfinite(length) or length < 1e-6:
        return None
    return Embedded(space_id, values / length)


def _named(embedded: Embedded) -> Space:
    dimensions = embedded.space_id.rpartition("@")[2]
    return Space(embedded.space_id, int(dimensions) if dimensions.isdecimal() else len(embedded.values))


def _borders(texts: Sequence[str]) -> list[int]:
    """Returns where to cut texts into requests, from 0 to their number."""
    borders, size = [0], 0
    for index, text in enumerate(texts):
        bytes_ = len(text.encode())
        if index - borders[-1] >= MAX_TEXTS or (size and size + bytes_ > MAX_REQUEST_BYTES):
            borders.append(index)
            size = 0
        size += bytes_
    return [*borders, len(texts)] if texts else borders
