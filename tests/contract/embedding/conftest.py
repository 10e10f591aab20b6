"""A running embedding service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

from mneme.embedding.service import build
from mneme.embedding.v1.embedding_pb2_grpc import EmbeddingServiceStub
from tests.support.hosting import Hosting, Replica

if TYPE_CHECKING:
    from mneme.embedding.v1.embedding_pb2_grpc import EmbeddingServiceAsyncStub


@pytest.fixture
async def replica(hosting: Hosting) -> AsyncIterator[Replica]:
    """One replica with the local model."""
    async with hosting.replica("embedding", build) as running:
        yield running


@pytest.fixture
async def stub(replica: Replica) -> EmbeddingServiceAsyncStub:
    """A stub of tenant acme."""
    return await replica.stub(EmbeddingServiceStub)
