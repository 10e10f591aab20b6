"""Asks the embedding service for the vector of a query."""

from __future__ import annotations

import asyncio
import math

import grpc.aio
import structlog

from mneme.common.v1 import common_pb2
from mneme.embedding.v1 import embedding_pb2
from mneme.errors.v1 import errors_pb2
from mneme.recall.indexer import is_direction
from mneme.recall.store.meaning import Meaning
from mneme.runtime.errors import Error, invalid
from mneme.runtime.peers import Peers

_SPACE_SECONDS = 60.0

log = structlog.stdlib.get_logger("mneme.recall.meaning")


class Meanings:
    """Turns queries into vectors, and remembers the active space for a minute."""

    def __init__(self, peers: Peers, *, timeout: float) -> None:
        """Args:
        peers: Stubs of the other services.
        timeout: Longest wait for a vector, in seconds.
        """
        self._peers = peers
        self._timeout = timeout
        self._spaces = embedding_pb2.GetSpaceResponse()
        self._spaces_until = 0.0

    async def of(self, text: str, vector: common_pb2.Vector | None, *, field: str) -> Meaning | None:
        """Returns a query's own vector, else that of its text; None when embedding does not answer in time.

        Raises:
            Error: DIMENSION_MISMATCH or INVALID_FIELD, for a given vector that cannot be compared.
        """
        try:
            return await self._given(vector, field) if vector is not None else await self._embedded(text)
        except grpc.aio.AioRpcError as error:
            log.warning("search_without_meaning", code=error.code().name)
            return None

    async def _embedded(self, text: str) -> Meaning:
        request = embedding_pb2.EmbedRequest(
            texts=[text],
            input_type=embedding_pb2.INPUT_TYPE_QUERY,
            overflow=embedding_pb2.OVERFLOW_TRUNCATE,
        )
        response = await self._peers.embedding.Embed(request, timeout=self._timeout)
        return Meaning(response.space_id, response.embeddings[0].values)

    async def _given(self, vector: common_pb2.Vector, field: str) -> Meaning:
        if not is_direction(vector.values):
            raise invalid(field, "points nowhere: a component is not a finite number, or all are 0")
        space = await self._space_of(vector)
        if vector.space_id != space.space_id:
            problem = f"belongs to the space '{vector.space_id}', the active space is '{space.space_id}'"
            raise _mismatch(field, problem, vector, space)
        if len(vector.values) != space.dimensions:
            problem = f"{len(vector.values)} dimensions, the space '{space.space_id}' has {space.dimensions}"
            raise _mismatch(field, problem, vector, space)
        # Only the direction counts, and half precision, in which vectors are compared, ends at 65,504.
        length = math.hypot(*vector.values)
        return Meaning(space.space_id, [value / length for value in vector.values])

    async def _space_of(self, vector: common_pb2.Vector) -> embedding_pb2.Space:
        """Returns the active space, or the one beside it where the vector belongs to that: rows may have both."""
        now = asyncio.get_running_loop().time()
        if now >= self._spaces_until or vector.space_id != self._spaces.space.space_id:
            # One that is not the active space may be so since a moment.
            request = embedding_pb2.GetSpaceRequest()
            self._spaces = await self._peers.embedding.GetSpace(request, timeout=self._timeout)
            self._spaces_until = now + _SPACE_SECONDS
        spaces = self._spaces
        return spaces.next if spaces.HasField("next") and vector.space_id == spaces.next.space_id else spaces.space


def _mismatch(field: str, problem: str, vector: common_pb2.Vector, space: embedding_pb2.Space) -> Error:
    return invalid(
        field,
        problem,
        errors_pb2.REASON_DIMENSION_MISMATCH,
        dimensions=str(len(vector.values)),
        expected=str(space.dimensions),
        space=space.space_id,
        vector_space=vector.space_id,
    )
