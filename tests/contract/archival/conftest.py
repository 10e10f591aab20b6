"""A running archival service, an embedding service that tests control, and short ways to call."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc.aio
import numpy as np
import psycopg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from mneme.archival.service import build
from mneme.archival.v1 import archival_pb2 as pb
from mneme.archival.v1.archival_pb2_grpc import ArchivalServiceStub
from mneme.embedding.v1 import embedding_pb2, embedding_pb2_grpc
from mneme.runtime.errors import STATUS_KEY, invalid
from mneme.settings import ArchivalSettings, PeersSettings
from tests.support.hosting import Hosting, Replica

if TYPE_CHECKING:
    from mneme.archival.v1.archival_pb2_grpc import ArchivalServiceAsyncStub

AGENT = "agent-1"
DIMENSIONS = 64
SPACE = f"fake@{DIMENSIONS}"

# Words that mean the same share a component.
_CONCEPTS = {"allergic": "health", "sickness": "health", "nuts": "food", "eat": "food", "almonds": "food"}


class FakeEmbedding(embedding_pb2_grpc.EmbeddingServiceServicer):
    """Embeds a text as the sum of its words' concepts, and fails on demand."""

    def __init__(self) -> None:
        self.down = False
        self.poison = ""
        """Word whose texts are refused for good."""
        self.texts: list[str] = []
        self.calls = 0

    async def Embed(self, request: embedding_pb2.EmbedRequest, context: Any) -> embedding_pb2.EmbedResponse:
        self.calls += 1
        if self.down:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "down")
        if self.poison and any(self.poison in text for text in request.texts):
            status = invalid("texts[0]", "is refused").to_status()
            details = ((STATUS_KEY, status.SerializeToString()),)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "refused", details)
        self.texts += request.texts
        vectors = [embedding_pb2.Embedding(values=vector_of(text)) for text in request.texts]
        return embedding_pb2.EmbedResponse(embeddings=vectors, space_id=SPACE)

    async def GetSpace(self, request: Any, context: Any) -> embedding_pb2.GetSpaceResponse:
        if self.down:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "down")
        space = embedding_pb2.Space(space_id=SPACE, provider="fake", model="fake", dimensions=DIMENSIONS)
        return embedding_pb2.GetSpaceResponse(space=space)


def vector_of(text: str) -> list[float]:
    """Returns the fake's vector of a text."""
    vector = np.zeros(DIMENSIONS)
    for word in text.lower().split():
        concept = _CONCEPTS.get(word.strip(".,!?"), word)
        vector[int(hashlib.sha256(concept.encode()).hexdigest(), 16) % DIMENSIONS] += 1
    length = float(np.linalg.norm(vector))
    return [float(x) for x in vector / length] if length else [0.0] * DIMENSIONS


class Archive:
    """One caller of archival. Each call gets a request_id of its own unless it brings one."""

    def __init__(self, stub: ArchivalServiceAsyncStub) -> None:
        self.stub = stub

    async def insert(
        self, text: str, *, owner: pb.PassageOwner | None = None, **fields: Any
    ) -> pb.InsertPassageResponse:
        """Inserts a passage; fields of the request are told from those of the passage by name."""
        names = pb.InsertPassageRequest.DESCRIPTOR.fields_by_name
        outer = {name: fields.pop(name) for name in list(fields) if name in names}
        outer.setdefault("request_id", new_id())
        request = pb.InsertPassageRequest(owner=owner or of_agent(), passage=pb.Passage(text=text, **fields), **outer)
        return await self.stub.InsertPassage(request)

    async def insert_many(
        self, items: Iterable[pb.PassageItem | str], *, owner: pb.PassageOwner | None = None, request_id: str = ""
    ) -> pb.InsertPassagesResponse:
        """Inserts a batch; a text stands for an item with nothing else."""
        request = pb.InsertPassagesRequest(
            request_id=request_id or new_id(), owner=owner or of_agent(), items=[item(one) for one in items]
        )
        return await self.stub.InsertPassages(request)

    async def ingest(
        self, items: Iterable[pb.PassageItem | str], *, owner: pb.PassageOwner | None = None
    ) -> pb.IngestPassagesResponse:
        """Streams items."""

        async def requests() -> AsyncIterator[pb.IngestPassagesRequest]:
            yield pb.IngestPassagesRequest(start=pb.IngestStart(request_id=new_id(), owner=owner or of_agent()))
            for one in items:
                yield pb.IngestPassagesRequest(item=item(one))

        return await self.send(requests())

    async def send(self, requests: AsyncIterator[pb.IngestPassagesRequest]) -> pb.IngestPassagesResponse:
        """Sends an ingest stream as it is."""
        return await self.stub.IngestPassages(requests)

    async def get(self, passage_id: str) -> pb.Passage:
        """Returns a passage."""
        return (await self.stub.GetPassage(pb.GetPassageRequest(passage_id=passage_id))).passage

    async def update(self, passage_id: str, **fields: Any) -> pb.Passage:
        """Updates the fields given."""
        names = pb.UpdatePassageRequest.DESCRIPTOR.fields_by_name
        outer = {name: fields.pop(name) for name in list(fields) if name in names and name != "passage_id"}
        outer.setdefault("request_id", new_id())
        request = pb.UpdatePassageRequest(passage_id=passage_id, passage=pb.Passage(**fields), **outer)
        return (await self.stub.UpdatePassage(request)).passage

    async def delete(self, passage_id: str, **fields: Any) -> None:
        """Deletes a passage."""
        fields.setdefault("request_id", new_id())
        await self.stub.DeletePassage(pb.DeletePassageRequest(passage_id=passage_id, **fields))

    async def list_all(self, *, owner: pb.PassageOwner | None = None, **fields: Any) -> list[pb.Passage]:
        """Returns all pages."""
        found, token = list[pb.Passage](), ""
        while True:
            request = pb.ListPassagesRequest(owner=owner or of_agent(), page_token=token, **fields)
            page = await self.stub.ListPassages(request)
            found += page.passages
            token = page.next_page_token
            if not token:
                return found

    async def search(self, query: str = "", *, agent: str = AGENT, **fields: Any) -> pb.SearchPassagesResponse:
        """Searches an agent's archive, or the scope given."""
        fields.setdefault("scope", pb.SearchScope(agent_id=agent))
        return await self.stub.SearchPassages(pb.SearchPassagesRequest(query=query, **fields))

    async def found(self, query: str = "", **fields: Any) -> list[str]:
        """Returns the texts that a search finds."""
        return [result.passage.text for result in (await self.search(query, **fields)).results]

    async def knowledge_base(self, name: str, **fields: Any) -> pb.KnowledgeBase:
        """Creates a knowledge base."""
        request = pb.CreateKnowledgeBaseRequest(
            request_id=new_id(), knowledge_base=pb.KnowledgeBase(display_name=name, **fields)
        )
        return (await self.stub.CreateKnowledgeBase(request)).knowledge_base

    async def attach(self, knowledge_base_id: str, agent: str = AGENT) -> None:
        """Attaches a knowledge base."""
        request = pb.AttachKnowledgeBaseRequest(
            request_id=new_id(), knowledge_base_id=knowledge_base_id, agent_id=agent
        )
        await self.stub.AttachKnowledgeBase(request)

    async def revisions(self, agent: str = AGENT) -> dict[str, int]:
        """Returns the revisions by scope."""
        response = await self.stub.GetRevisions(pb.GetRevisionsRequest(agent_id=agent))
        return {one.scope: one.revision for one in response.revisions}

    async def changes(self, **fields: Any) -> list[Any]:
        """Returns the first page of the audit."""
        return list((await self.stub.ListMemoryChanges(pb.ListMemoryChangesRequest(**fields))).changes)


Call = Callable[..., Awaitable[Archive]]


def new_id() -> str:
    """Returns a fresh request_id."""
    return str(uuid.uuid4())


def of_agent(agent: str = AGENT) -> pb.PassageOwner:
    """Returns an agent as owner."""
    return pb.PassageOwner(agent_id=agent)


def of_base(knowledge_base_id: str) -> pb.PassageOwner:
    """Returns a knowledge base as owner."""
    return pb.PassageOwner(knowledge_base_id=knowledge_base_id)


def item(one: pb.PassageItem | str) -> pb.PassageItem:
    """Returns an item; a text stands for a passage with nothing else."""
    return pb.PassageItem(passage=pb.Passage(text=one)) if isinstance(one, str) else one


def at(text: str) -> Timestamp:
    """Returns a timestamp from RFC 3339."""
    stamp = Timestamp()
    stamp.FromJsonString(text)
    return stamp


async def until(holds: Callable[[], Awaitable[bool]], *, seconds: float = 15.0) -> None:
    """Returns once a condition holds; fails after a while."""
    async with asyncio.timeout(seconds):
        while not await holds():  # noqa: ASYNC110 - the condition lies behind an RPC
            await asyncio.sleep(0.02)


def traces(owner_url: str, marker: str) -> list[str]:
    """Returns the tables of the schema in which a text occurs, past row-level security."""
    found = []
    with psycopg.connect(owner_url) as connection:
        tables = connection.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'archival'::regnamespace"
        )
        for (table,) in tables.fetchall():
            rows = connection.execute(f'SELECT * FROM archival."{table}"').fetchall()
            if any(marker.encode() in value for row in rows for value in map(_plain, row)):
                found.append(table)
    return found


@asynccontextmanager
async def serving(fake: FakeEmbedding) -> AsyncIterator[str]:
    """Runs the fake; gives its address."""
    server = grpc.aio.server()
    embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(fake, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@pytest.fixture
def embedding() -> FakeEmbedding:
    """The embedding service that archival asks."""
    return FakeEmbedding()  # type: ignore[abstract]


@pytest.fixture
async def replica(hosting: Hosting, embedding: FakeEmbedding) -> AsyncIterator[Replica]:
    """A running archival service."""
    archival = ArchivalSettings(index_poll_interval=0.05, index_backoff_max=0.1)
    async with (
        serving(embedding) as address,
        hosting.replica(
            "archival", build, peers=PeersSettings(embedding=address, max_attempts=1), archival=archival
        ) as running,
    ):
        yield running


@pytest.fixture
def call(replica: Replica) -> Call:
    """Makes callers: `await call(tenant="acme", user="u1")`, or a service: `await call(service="orchestrator")`."""

    async def make(*, tenant: str = "acme", user: str = "", **options: Any) -> Archive:
        return Archive(await replica.stub(ArchivalServiceStub, tenant=tenant, user=user, **options))

    return make


@pytest.fixture
async def archive(call: Call) -> Archive:
    """A caller with a tenant-wide credential that is no administrator."""
    return await call(scopes=())


def _plain(value: object) -> bytes:
    return bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode()
