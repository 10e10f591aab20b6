"""A running core memory service, and short ways to call it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest

from mneme.core_memory.service import build
from mneme.core_memory.v1 import core_memory_pb2 as pb
from mneme.core_memory.v1.core_memory_pb2_grpc import CoreMemoryServiceStub
from tests.support.hosting import Hosting, Replica

if TYPE_CHECKING:
    from mneme.core_memory.v1.core_memory_pb2_grpc import CoreMemoryServiceAsyncStub

AGENT = "agent-1"


class Memory:
    """One caller of core memory. Each call gets a request_id of its own unless it brings one."""

    def __init__(self, stub: CoreMemoryServiceAsyncStub) -> None:
        self.stub = stub

    async def create(
        self, label: str = "human", value: str = "", *, agents: tuple[str, ...] = (), **fields: Any
    ) -> pb.Block:
        """Creates a block, attached to agents for all users."""
        attachments = [pb.BlockAttachment(agent_id=agent) for agent in agents]
        block = pb.Block(label=label, value=value, **fields)
        request = pb.CreateBlockRequest(request_id=new_id(), block=block, attachments=attachments)
        return (await self.stub.CreateBlock(request)).block

    async def get(self, block_id: str) -> pb.GetBlockResponse:
        """Returns a block by its id."""
        return await self.stub.GetBlock(pb.GetBlockRequest(ref=by_id(block_id)))

    async def append(self, ref: pb.BlockRef, text: str, **fields: Any) -> pb.AppendTextResponse:
        """Appends text."""
        fields.setdefault("request_id", new_id())
        return await self.stub.AppendText(pb.AppendTextRequest(ref=ref, text=text, **fields))

    async def replace(self, ref: pb.BlockRef, old: str, new: str, **fields: Any) -> pb.ReplaceTextResponse:
        """Replaces text."""
        request = pb.ReplaceTextRequest(request_id=new_id(), ref=ref, old_text=old, new_text=new, **fields)
        return await self.stub.ReplaceText(request)

    async def update(self, ref: pb.BlockRef, *, etag: str = "", **fields: Any) -> pb.Block:
        """Updates the fields given."""
        request = pb.UpdateBlockRequest(request_id=new_id(), ref=ref, block=pb.Block(**fields), etag=etag)
        return (await self.stub.UpdateBlock(request)).block

    async def attach(self, block_id: str, agent: str, **fields: Any) -> pb.Block:
        """Attaches a block."""
        attachment = pb.BlockAttachment(agent_id=agent, **fields)
        request = pb.AttachBlockRequest(request_id=new_id(), block_id=block_id, attachment=attachment)
        return (await self.stub.AttachBlock(request)).block

    async def render(self, agent: str = AGENT, user: str = "", *, shared_only: bool = False) -> pb.RenderMemoryResponse:
        """Renders an agent's memory."""
        request = pb.RenderMemoryRequest(agent_id=agent, user_id=user, shared_only=shared_only)
        return await self.stub.RenderMemory(request)

    async def versions(self, block_id: str) -> list[pb.BlockVersion]:
        """Returns the versions of a block, newest first."""
        return list((await self.stub.ListVersions(pb.ListVersionsRequest(block_id=block_id))).versions)

    async def changes(self, **fields: Any) -> list[Any]:
        """Returns the audit."""
        response = await self.stub.ListMemoryChanges(pb.ListMemoryChangesRequest(page_size=1000, **fields))
        return list(response.changes)


def new_id() -> str:
    """Returns a request_id."""
    return str(uuid.uuid4())


def by_id(block_id: str) -> pb.BlockRef:
    """Names a block by its id."""
    return pb.BlockRef(block_id=block_id)


def by_label(label: str, agent: str = AGENT, user: str = "") -> pb.BlockRef:
    """Names a block as an agent's tools do."""
    return pb.BlockRef(agent_label=pb.AgentLabel(agent_id=agent, label=label, user_id=user))


@pytest.fixture
async def replica(hosting: Hosting) -> AsyncIterator[Replica]:
    """One replica on a fresh database."""
    async with hosting.replica("core_memory", build) as running:
        yield running


@pytest.fixture
async def memory(replica: Replica) -> Memory:
    """The operator of tenant acme."""
    return Memory(await replica.stub(CoreMemoryServiceStub))


@pytest.fixture
async def agent(replica: Replica) -> Memory:
    """The orchestrator, for tenant acme and no user."""
    return Memory(await replica.stub(CoreMemoryServiceStub, service="orchestrator"))


@pytest.fixture
async def ann(replica: Replica) -> Memory:
    """A credential of tenant acme that is bound to user ann."""
    return Memory(await replica.stub(CoreMemoryServiceStub, user="ann"))


@pytest.fixture
async def other_tenant(replica: Replica) -> Memory:
    """The operator of another tenant."""
    return Memory(await replica.stub(CoreMemoryServiceStub, tenant="globex"))
