"""Finds what a person names: agents and knowledge bases by id or display name, blocks by id or by agent and label."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

import typer

from mneme.archival.v1 import archival_pb2
from mneme.client import Client
from mneme.core_memory.v1 import core_memory_pb2
from mneme.orchestrator.v1 import orchestrator_pb2 as pb

AgentName = Annotated[str, typer.Argument(help="Agent, by id or by its unique display name.", show_default=False)]
BlockName = Annotated[
    str, typer.Argument(help="Block: an id, or `AGENT/LABEL` as the agent sees it.", show_default=False)
]
KnowledgeBaseName = Annotated[str, typer.Argument(help="Knowledge base, by id or display name.", show_default=False)]
User = Annotated[str, typer.Option("--user", "-u", help="User whom it concerns.")]

_PAGE = 500


async def paged(
    call: Callable[[Any], Awaitable[Any]], request: Any, field: str, *, limit: int = 0
) -> AsyncIterator[Any]:
    """Yields the items of a listing, page after page.

    Args:
        call: The method.
        request: Its request without paging.
        field: Field of the response with the items.
        limit: Most items; 0 for all.
    """
    shown = 0
    while True:
        request.page_size = min(_PAGE, limit - shown) if limit else _PAGE
        response = await call(request)
        for item in getattr(response, field):
            yield item
            shown += 1
        request.page_token = response.next_page_token
        if not request.page_token or (limit and shown >= limit):
            return


async def agent_id(client: Client, name: str) -> str:
    """The id of an agent that somebody named.

    Raises:
        ValueError: None or several have that display name.
    """
    if name.startswith("agent-"):
        return name
    found = [
        agent.agent_id
        async for agent in paged(client.agents.ListAgents, pb.ListAgentsRequest(), "agents")
        if agent.display_name == name
    ]
    return _only(found, "agent", name, "`mneme agents list` shows them")


async def knowledge_base_id(client: Client, name: str) -> str:
    """The id of a knowledge base that somebody named.

    Raises:
        ValueError: None has that display name.
    """
    if name.startswith("kb-"):
        return name
    request = archival_pb2.ListKnowledgeBasesRequest()
    found = [
        one.knowledge_base_id
        async for one in paged(client.archival.ListKnowledgeBases, request, "knowledge_bases")
        if one.display_name == name
    ]
    return _only(found, "knowledge base", name, "`mneme kb list` shows them")


async def block_ref(client: Client, name: str, user: str = "") -> core_memory_pb2.BlockRef:
    """A block that somebody named by its id, or as `AGENT/LABEL`.

    Raises:
        ValueError: It is neither, or there is no such agent.
    """
    if name.startswith("block-"):
        return core_memory_pb2.BlockRef(block_id=name)
    agent, slash, label = name.partition("/")
    if not slash:
        raise ValueError(f"block '{name}': give an id (`block-…`) or AGENT/LABEL, such as chat/human")
    seen = core_memory_pb2.AgentLabel(agent_id=await agent_id(client, agent), label=label, user_id=user)
    return core_memory_pb2.BlockRef(agent_label=seen)


async def block_id(client: Client, name: str, user: str = "") -> str:
    """The id of a block that somebody named; see `block_ref`."""
    if name.startswith("block-"):
        return name
    ref = await block_ref(client, name, user)
    return (await client.core_memory.GetBlock(core_memory_pb2.GetBlockRequest(ref=ref))).block.block_id


def _only(found: list[str], kind: str, name: str, cure: str) -> str:
    if not found:
        raise ValueError(f"no {kind} is called '{name}': {cure}")
    if len(found) > 1:
        raise ValueError(f"{len(found)} are called '{name}': use one of the ids {', '.join(found[:5])}")
    return found[0]
