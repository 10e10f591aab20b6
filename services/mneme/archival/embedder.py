"""Vectors from the embedding service. Its failure never fails a caller: what cannot be embedded now has no vector."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    """A vector space of the deployment."""

    id: str
    dimensions: int


@dataclass(frozen=True, slots=True)
class Spaces:
    """The active space, and the one beside it while the deployment changes from one to the other."""

    active: Space
    beside: Space | None


class Embedder:
    """Asks the embedding service, in this service's name."""

    def __init__(self, peers: Peers, *, timeout_seconds: float) -> None:
        """Args:
        peers: Stubs of the other services.
        timeout_seconds: Longest time a caller waits for vectors before it goes on without.
        """
        self._peers = peers
        self._timeout = timeout_seconds
        self._spaces: Spaces | None = None
        self._spaces_until = 0.0
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

        A document gets its vector of the other space too, where there is one and it can be made now.

        Args:
            texts: At most 256 of together at most 2 MiB.
            input_type: Question or document.
            priority: Whether somebody waits.

        Raises:
            grpc.aio.AioRpcError: The embedding service failed.
        """
        if input_type == embedding_pb2.INPUT_TYPE_QUERY:
            return await self._ask(texts, input_type, priority)
        made, beside = await asyncio.gather(self._ask(texts, input_type, priority), self._beside(texts, priority))
        if self._spaces is not None and any(one and one.space_id != self._spaces.active.id for one in made):
            # A switch since: the other space is another one now.
            self._spaces = None
            beside = await self._beside(texts, priority)
        return [_with(one, other) for one, other in zip(made, beside, strict=True)]

    async def check(self, field: str, embedded: Embedded, *, stored: bool = False) -> None:
        """Returns when a vector that was handed in belongs to the active space and has its dimensions and length 1.

        A question may also belong to the space beside it: it is compared with the vectors of its own. While the
        embedding service does not answer, the vector is held against the name of its own space: rows name their space,
        and vectors of different spaces are never compared.

        Args:
            field: Where it stands in the request.
            embedded: The vector.
            stored: Whether it is a passage's, which all searches of the active space shall find.

        Raises:
            Error: DIMENSION_MISMATCH or INVALID_FIELD.
        """
        spaces = await self._known_spaces()
        if spaces is not None and embedded.space_id != spaces.active.id:
            # It may be the active one since a moment.
            spaces = await self._known_spaces(anew=True)
        space = _named(embedded)
        if spaces is not None:
            asked_beside = spaces.beside and not stored and embedded.space_id == spaces.beside.id
            space = spaces.beside if spaces.beside and asked_beside else spaces.active
        guards.check_vector(field, embedded, space_id=space.id, dimensions=space.dimensions)

    async def _ask(
        self,
        texts: Sequence[str],
        input_type: embedding_pb2.InputType.ValueType,
        priority: embedding_pb2.Priority.ValueType,
        space_id: str = "",
    ) -> list[Embedded | None]:
        request = embedding_pb2.EmbedRequest(
            texts=texts,
            input_type=input_type,
            priority=priority,
            overflow=embedding_pb2.OVERFLOW_TRUNCATE,
            space_id=space_id,
        )
        response = await self._peers.embedding.Embed(request, timeout=self._patience())
        self._paused_until = 0.0
        return [_usable(response.space_id, vector) for vector in response.embeddings]

    async def _beside(
        self, texts: Sequence[str], priority: embedding_pb2.Priority.ValueType
    ) -> Sequence[Embedded | None]:
        """Returns the vectors in the other space; none where there is no other, or it does not answer: re-embedding
        finds what lacks one.
        """
        spaces = await self._known_spaces()
        if spaces is None or spaces.beside is None:
            return [None] * len(texts)
        try:
            return await self._ask(texts, embedding_pb2.INPUT_TYPE_DOCUMENT, priority, spaces.beside.id)
        except grpc.aio.AioRpcError as error:
            log.warning("not_embedded_beside", texts=len(texts), reason=from_rpc_error(error).reason_name)
            self._spaces = None
            return [None] * len(texts)

    def _patience(self) -> float:
        """Returns how long to wait: never so long that no time is left to go on without a vector."""
        left = call.remaining()
        return self._timeout if left is None else min(self._timeout, left / 2)

    async def _known_spaces(self, *, anew: bool = False) -> Spaces | None:
        now = asyncio.get_running_loop().time()
        if self._spaces is not None and now < self._spaces_until and not anew:
            return self._spaces
        try:
            found = await self._peers.embedding.GetSpace(embedding_pb2.GetSpaceRequest(), timeout=self._patience())
        except grpc.aio.AioRpcError as error:
            log.warning("space_unknown", reason=from_rpc_error(error).reason_name)
            return self._spaces
        beside = Space(found.next.space_id, found.next.dimensions) if found.HasField("next") else None
        self._spaces = Spaces(Space(found.space.space_id, found.space.dimensions), beside)
        self._spaces_until = now + _SPACE_SECONDS
        return self._spaces

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


def _with(made: Embedded | None, beside: Embedded | None) -> Embedded | None:
    """Returns a vector with the other beside it, unless a switch in between made both of one space."""
    if made is None or beside is None or made.space_id == beside.space_id:
        return made
    return replace(made, beside=beside)


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
