"""`mneme agents`: agents."""

from __future__ import annotations

from typing import Annotated

import typer

from mneme.cli import naming, output
from mneme.cli.groups import Group
from mneme.cli.naming import AgentName, User
from mneme.client import Client, new_request_id
from mneme.core_memory.v1 import core_memory_pb2
from mneme.orchestrator.v1 import orchestrator_pb2 as pb

group = Group(
    "agents",
    """Agents: create, list, show, delete.

    Examples: `mneme agents create --name support --block "policy=Be brief."` · `mneme agents list` ·
    `mneme agents show support --json`
    """,
)

_COLUMNS: output.Columns = {
    "id": lambda one: one.agent_id,
    "name": lambda one: one.display_name,
    "state": lambda one: output.name_of(pb.AgentState, one.state),
    "user": lambda one: one.user_id,
    "created": lambda one: output.moment(one.create_time),
}


@group.command("list")
async def list_agents(
    client: Client,
    user: User = "",
    limit: output.Limit = 100,
    as_json: output.AsJson = False,
) -> None:
    """List agents, oldest first."""
    request = pb.ListAgentsRequest(user_id=user)
    found = [one async for one in naming.paged(client.agents.ListAgents, request, "agents", limit=limit)]
    output.table(found, _COLUMNS, as_json=as_json, empty="no agents yet: `mneme agents create --name …`")


@group.command("show")
async def show(client: Client, agent: AgentName, as_json: output.AsJson = False) -> None:
    """Show one agent with all its fields."""
    request = pb.GetAgentRequest(agent_id=await naming.agent_id(client, agent))
    output.show((await client.agents.GetAgent(request)).agent, as_json=as_json)


@group.command("create")
async def create(
    client: Client,
    name: Annotated[str, typer.Option("--name", help="Display name.")] = "",
    description: Annotated[str, typer.Option("--description", help="What it is for.")] = "",
    instructions: Annotated[str, typer.Option("--instructions", help="Start of every prompt.")] = "",
    model: Annotated[str, typer.Option("--model", help="Model or profile. Default: the deployment's.")] = "",
    user: User = "",
    block: Annotated[
        list[str] | None, typer.Option("--block", help="A new block, `LABEL=TEXT`. Default: persona and human.")
    ] = None,
    attach: Annotated[list[str] | None, typer.Option("--attach-block", help="A block that exists, by id.")] = None,
    kb: Annotated[list[str] | None, typer.Option("--kb", help="A knowledge base to search.")] = None,
    cache: Annotated[str, typer.Option("--cache", help="Answer cache: off, per_user or shared.")] = "off",
    as_json: output.AsJson = False,
) -> None:
    """Create an agent with its blocks and knowledge bases.

    Examples: `mneme agents create --name support --kb handbook --cache per_user` ·
    `mneme agents create --name sales --attach-block block-…`
    """
    request = pb.CreateAgentRequest(
        request_id=new_request_id(),
        agent=pb.Agent(
            display_name=name,
            description=description,
            instructions=instructions,
            user_id=user,
            cache_policy=output.value_of(pb.CachePolicy, cache, "--cache"),
        ),
        blocks=[_block(one) for one in block or ()],
        block_ids=attach or (),
        knowledge_base_ids=[await naming.knowledge_base_id(client, one) for one in kb or ()],
    )
    if model:
        request.agent.model.model = model
    created = (await client.agents.CreateAgent(request)).agent
    output.done(f"created {created.agent_id}", created, as_json=as_json)


@group.command("delete")
async def delete(
    client: Client,
    agent: AgentName,
    keep_blocks: Annotated[bool, typer.Option("--keep-blocks", help="Keep blocks that no other agent sees.")] = False,
    yes: output.Yes = False,
    as_json: output.AsJson = False,
) -> None:
    """Delete an agent with its conversations, messages and passages in every service."""
    found = await naming.agent_id(client, agent)
    output.sure(f"Delete {found} and everything it remembers?", yes=yes)
    request = pb.DeleteAgentRequest(request_id=new_request_id(), agent_id=found, delete_blocks=not keep_blocks)
    operation = (await client.agents.DeleteAgent(request)).operation
    state = output.name_of(pb.OperationState, operation.state)
    output.done(f"{operation.operation_id} is {state}", operation, as_json=as_json)


@group.command("memory")
async def memory(client: Client, agent: AgentName, user: User = "", as_json: output.AsJson = False) -> None:
    """Show the blocks that stand in an agent's prompt."""
    found = await naming.agent_id(client, agent)
    request = core_memory_pb2.RenderMemoryRequest(agent_id=found, user_id=user)
    rendered = await client.core_memory.RenderMemory(request)
    if as_json:
        output.show(rendered, as_json=True)
    else:
        output.console.print(rendered.text, markup=False, soft_wrap=True)


def _block(text: str) -> pb.BlockSpec:
    label, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--block '{text}': write LABEL=TEXT")
    return pb.BlockSpec(label=label, value=value)
