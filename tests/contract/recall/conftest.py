"""A running recall service, an embedding service to lean on, and callers."""

from __future__ import annotations

import asyncio
import itertools
import math
import uuid
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest

from mneme.common.v1 import common_pb2
from mneme.embedding.v1 import embedding_pb2, embedding_pb2_grpc
from mneme.recall.service import build
from mneme.recall.v1 import recall_pb2 as pb
from mneme.recall.v1.recall_pb2_grpc import RecallServiceStub
from mneme.runtime import lexical
from mneme.settings import PeersSettings, RecallSettings
from tests.support.hosting import Hosting, Replica

if TYPE_CHECKING:
    from mneme.recall.v1.recall_pb2_grpc import RecallServiceAsyncStub

DIMENSIONS = 64
SPACE = f"fake@{DIMENSIONS}"
AGENT = "agent-1"
_TOPICS = {"food": 0, "eat": 0, "nut": 0, "坚果": 0, "car": 1, "drive": 1, "engin": 1, "music": 2, "guitar": 2}

_numbers = itertools.count(1)

Context = grpc.aio.ServicerContext[Any, Any]


class FakeEmbedder(embedding_pb2_grpc.EmbeddingServiceServicer):
    """Embeds by counting words; words of one topic share a direction."""

    def __init__(self) -> None:
        self.down = False
        self.refused = ""
        self.texts: list[str] = []

    async def Embed(self, request: embedding_pb2.EmbedRequest, context: Context) -> embedding_pb2.EmbedResponse:
        """Answers, or plays a service that is down or refuses a text."""
        if self.down:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "down")
        if self.refused and any(self.refused in text for text in request.texts):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "refused")
        if request.input_type == embedding_pb2.INPUT_TYPE_DOCUMENT:
            self.texts.extend(request.texts)
        embeddings = [embedding_pb2.Embedding(values=vector_of(text)) for text in request.texts]
        return embedding_pb2.EmbedResponse(embeddings=embeddings, space_id=SPACE)

    async def GetSpace(
        self, request: embedding_pb2.GetSpaceRequest, context: Context
    ) -> embedding_pb2.GetSpaceResponse:
        """Names the space."""
        if self.down:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "down")
        space = embedding_pb2.Space(space_id=SPACE, dimensions=DIMENSIONS)
        return embedding_pb2.GetSpaceResponse(space=space)

    async def SwitchSpace(
        self, request: embedding_pb2.SwitchSpaceRequest, context: Context
    ) -> embedding_pb2.SwitchSpaceResponse:
        """Has one space only."""
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "one space only")


def vector_of(text: str) -> list[float]:
    """Returns the fake embedding of a text, of length 1."""
    vector = [0.0] * DIMENSIONS
    for term in lexical.terms(text):
        place = _TOPICS.get(term, 8 + zlib.crc32(term.encode()) % (DIMENSIONS - 8))
        vector[place] += 2.0 if term in _TOPICS else 0.5
    length = math.hypot(*vector) or 1.0
    return [value / length for value in vector]


def given_vector(text: str) -> common_pb2.Vector:
    """Returns the fake embedding of a text as a caller hands it in."""
    return common_pb2.Vector(values=vector_of(text), space_id=SPACE)


@dataclass
class Embedding:
    """The fake with its address."""

    fake: FakeEmbedder
    address: str


@pytest.fixture
async def embedding() -> AsyncIterator[Embedding]:
    """A running fake embedding service."""
    server = grpc.aio.server()
    fake = FakeEmbedder()
    embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(fake, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield Embedding(fake, f"127.0.0.1:{port}")
    await server.stop(None)


@pytest.fixture
async def replica(hosting: Hosting, embedding: Embedding) -> AsyncIterator[Replica]:
    """One replica of recall."""
    recall = RecallSettings(
        index_linger=0.01, index_poll_interval=0.05, index_backoff_max=0.05, query_embed_timeout=5.0
    )
    peers = PeersSettings(embedding=embedding.address, max_attempts=1)
    async with hosting.replica("recall", build, recall=recall, peers=peers) as running:
        yield running


@pytest.fixture
async def stub(replica: Replica) -> RecallServiceAsyncStub:
    """The orchestrator of tenant acme, for nobody in particular."""
    return await replica.stub(RecallServiceStub, service="orchestrator")


def request_id() -> str:
    """A fresh request id."""
    return str(uuid.uuid4())


def new_conversation() -> str:
    """A fresh conversation id."""
    return f"conversation-{next(_numbers)}"


def user(text: str, **fields: object) -> pb.Message:
    """A message of the user."""
    return pb.Message(role=pb.ROLE_USER, text=text, **fields)  # type: ignore[arg-type]


def assistant(text: str, **fields: object) -> pb.Message:
    """A message of the agent."""
    return pb.Message(role=pb.ROLE_ASSISTANT, text=text, **fields)  # type: ignore[arg-type]


def asks(call_id: str) -> pb.Message:
    """A message of the agent that calls a tool."""
    call = common_pb2.ToolCall(id=call_id, name="archival_memory_search", arguments_json='{"query": "tea"}')
    return pb.Message(role=pb.ROLE_ASSISTANT, tool_calls=[call])


def result(call_id: str, text: str = "nothing found") -> pb.Message:
    """The result of that call."""
    return pb.Message(role=pb.ROLE_TOOL, tool_call_id=call_id, tool_ok=True, text=text)


@dataclass
class Writer:
    """Appends to one conversation."""

    stub: RecallServiceAsyncStub
    conversation_id: str = field(default_factory=new_conversation)
    agent_id: str = AGENT
    user_id: str = ""

    async def append(self, *messages: pb.Message, expected: int = 0, request: str = "") -> pb.AppendMessagesResponse:
        """Appends messages."""
        return await self.stub.AppendMessages(
            pb.AppendMessagesRequest(
                request_id=request or request_id(),
                agent_id=self.agent_id,
                conversation_id=self.conversation_id,
                user_id=self.user_id,
                messages=messages,
                expected_next_sequence=expected,
            )
        )

    async def window(self, summary_version: int = 0) -> pb.GetWindowResponse:
        """Returns the window."""
        request = pb.GetWindowRequest(
            agent_id=self.agent_id, conversation_id=self.conversation_id, summary_version=summary_version
        )
        return await self.stub.GetWindow(request)

    async def evict(self, first_kept: int, summary: str = "so far", version: int = 0) -> pb.EvictMessagesResponse:
        """Evicts what comes before a sequence."""
        return await self.stub.EvictMessages(
            pb.EvictMessagesRequest(
                request_id=request_id(),
                agent_id=self.agent_id,
                conversation_id=self.conversation_id,
                first_kept_sequence=first_kept,
                summary=summary,
                expected_summary_version=version,
            )
        )

    async def list(self, **fields: object) -> list[pb.Message]:
        """Returns all messages of the agent that pass, over all pages."""
        request = pb.ListMessagesRequest(agent_id=self.agent_id, **fields)  # type: ignore[arg-type]
        found: list[pb.Message] = []
        while True:
            page = await self.stub.ListMessages(request)
            found.extend(page.messages)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def words(self, text: str, **fields: object) -> pb.SearchMessagesResponse:
        """Searches by words."""
        return await self.search(text=pb.TextQuery(text=text), **fields)

    async def search(self, **fields: object) -> pb.SearchMessagesResponse:
        """Searches."""
        return await self.stub.SearchMessages(pb.SearchMessagesRequest(agent_id=self.agent_id, **fields))  # type: ignore[arg-type]

    async def indexed(self) -> None:
        """Returns when every message is indexed."""

        async def done() -> bool:
            messages = await self.list(filter=pb.MessageFilter(include_hidden=True))
            return all(message.index_state != common_pb2.INDEX_STATE_PENDING for message in messages)

        await eventually(done)


@pytest.fixture
def writer(stub: RecallServiceAsyncStub) -> Writer:
    """A fresh conversation of the orchestrator."""
    return Writer(stub)


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float = 20.0) -> None:
    """Returns when the condition holds; fails after a while."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - what is waited for happens in the database
            await asyncio.sleep(0.01)


def texts(found: pb.SearchMessagesResponse) -> list[str]:
    """The texts of the results in order."""
    return [one.message.text for one in found.results]
