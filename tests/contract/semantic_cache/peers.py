"""The embedding service and the archive as the cache sees them, with what they say set by a test."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import numpy as np

from mneme.archival.v1 import archival_pb2
from mneme.archival.v1 import archival_pb2_grpc as archival_grpc
from mneme.common.v1 import common_pb2
from mneme.embedding.v1 import embedding_pb2
from mneme.embedding.v1 import embedding_pb2_grpc as embedding_grpc
from mneme.semantic_cache.neighbours import Vectors, unit
from mneme.semantic_cache.v1 import semantic_cache_pb2 as pb

SPACE, DIMENSIONS, THRESHOLD = "stub@32", 32, 0.85


def direction(name: str) -> Vectors:
    """A vector of its own for each name; those of two names are nearly at right angles."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return unit(np.random.default_rng(seed).normal(size=DIMENSIONS).astype(np.float32))


def beside(name: str, score: float, towards: str = "elsewhere") -> Vectors:
    """A vector whose cosine with a name's is the score."""
    own = direction(name)
    across = direction(towards)
    across = unit(across - (across @ own) * own)
    return np.asarray(score * own + np.sqrt(1 - score**2) * across, dtype=np.float32)


def with_vector(key: pb.CacheKey, vector: Vectors, space: str = SPACE) -> pb.CacheKey:
    """The key with a vector."""
    made = pb.CacheKey()
    made.CopyFrom(key)
    made.vector.CopyFrom(common_pb2.Vector(values=vector.tolist(), space_id=space))
    return made


class Peers(embedding_grpc.EmbeddingServiceServicer, archival_grpc.ArchivalServiceServicer):
    """Answers as told."""

    def __init__(self) -> None:
        self.calibrated = True
        self.down = False
        self.vectors: dict[str, Vectors] = {}
        """By question; others have a direction of their own."""
        self.embedded: list[str] = []
        self.revisions: dict[str, int] = {}
        """What the archive says of each knowledge base."""
        self.concerned: dict[str, int] = {}
        """By knowledge base, the revision at which something was written that concerns every answer."""
        self.checks: list[archival_pb2.CheckUnchangedRequest] = []
        self.address = ""

    async def GetSpace(
        self, request: embedding_pb2.GetSpaceRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> embedding_pb2.GetSpaceResponse:
        await self._up(context)
        space = embedding_pb2.Space(
            space_id=SPACE,
            dimensions=DIMENSIONS,
            calibrated=self.calibrated,
            same_question_threshold=THRESHOLD if self.calibrated else 0.0,
        )
        return embedding_pb2.GetSpaceResponse(space=space)

    async def Embed(
        self, request: embedding_pb2.EmbedRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> embedding_pb2.EmbedResponse:
        await self._up(context)
        self.embedded.extend(request.texts)
        found = [self.vectors.get(text, direction(text)) for text in request.texts]
        return embedding_pb2.EmbedResponse(
            embeddings=[embedding_pb2.Embedding(values=vector.tolist()) for vector in found], space_id=SPACE
        )

    async def CheckUnchanged(
        self, request: archival_pb2.CheckUnchangedRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> archival_pb2.CheckUnchangedResponse:
        await self._up(context)
        self.checks.append(request)
        return archival_pb2.CheckUnchangedResponse(
            unchanged=self.concerned.get(request.knowledge_base_id, 0) <= request.since_revision,
            revision=self.revisions.get(request.knowledge_base_id, 0),
        )

    async def _up(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        if self.down:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "down")

    @classmethod
    @asynccontextmanager
    async def serving(cls) -> AsyncIterator[Peers]:
        """Peers on a port of their own."""
        server, peers = grpc.aio.server(), cls()
        embedding_grpc.add_EmbeddingServiceServicer_to_server(peers, server)
        archival_grpc.add_ArchivalServiceServicer_to_server(peers, server)
        peers.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        yield peers
        await server.stop(0)
