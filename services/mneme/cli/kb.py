"""`mneme kb`: knowledge bases that agents share."""

from __future__ import annotations

from typing import Annotated

import typer

from mneme.archival.v1 import archival_pb2 as pb
from mneme.cli import archival, naming, output, searching
from mneme.cli import ingest as ingesting
from mneme.cli.groups import Group
from mneme.cli.naming import KnowledgeBaseName
from mneme.client import Client, new_request_id

group = Group(
    "kb",
    """Knowledge bases: passages that many agents share.

    Examples: `mneme kb create handbook` · `mneme kb ingest handbook docs/` · `mneme kb attach handbook support` ·
    `mneme kb search handbook "return period"`
    """,
)

_COLUMNS: output.Columns = {
    "id": lambda one: one.knowledge_base_id,
    "name": lambda one: one.display_name,
    "passages": lambda one: one.passage_count,
    "revision": lambda one: one.revision,
    "created": lambda one: output.moment(one.create_time),
}
_Agent = Annotated[str, typer.Argument(help="Agent, by id or display name.", show_default=False)]


@group.command("list")
async def list_knowledge_bases(
    client: Client,
    agent: Annotated[str, typer.Option("--agent", help="Only those attached to this agent.")] = "",
    limit: output.Limit = 100,
    as_json: output.AsJson = False,
) -> None:
    """List knowledge bases."""
    request = pb.ListKnowledgeBasesRequest(agent_id=await naming.agent_id(client, agent) if agent else "")
    call = client.archival.ListKnowledgeBases
    found = [one async for one in naming.paged(call, request, "knowledge_bases", limit=limit)]
    output.table(found, _COLUMNS, as_json=as_json, empty="no knowledge bases yet: `mneme kb create NAME`")


@group.command("create")
async def create(
    client: Client,
    name: Annotated[str, typer.Argument(help="Name, unique in the tenant.", show_default=False)],
    description: Annotated[str, typer.Option("--description", help="What it holds.")] = "",
    as_json: output.AsJson = False,
) -> None:
    """Create a knowledge base."""
    request = pb.CreateKnowledgeBaseRequest(
        request_id=new_request_id(),
        knowledge_base=pb.KnowledgeBase(display_name=name, description=description),
    )
    made = (await client.archival.CreateKnowledgeBase(request)).knowledge_base
    output.done(f"created {made.knowledge_base_id}", made, as_json=as_json)


@group.command("show")
async def show(client: Client, kb: KnowledgeBaseName, as_json: output.AsJson = False) -> None:
    """Show a knowledge base and which agents search it."""
    request = pb.GetKnowledgeBaseRequest(knowledge_base_id=await naming.knowledge_base_id(client, kb))
    found = await client.archival.GetKnowledgeBase(request)
    if as_json:
        output.show(found, as_json=True)
        return
    output.show(found.knowledge_base, as_json=False)
    for agent_id in found.agent_ids:
        output.console.print(f"[dim]searched by[/] {agent_id}")


@group.command("ingest")
async def ingest(
    client: Client,
    kb: KnowledgeBaseName,
    paths: archival.Paths,
    tag: archival.Tag = None,
    resume: archival.Resume = "",
    as_json: output.AsJson = False,
) -> None:
    """Store files or whole folders; long texts are cut at their sentences. Doing it again replaces what changed."""
    owner = pb.PassageOwner(knowledge_base_id=await naming.knowledge_base_id(client, kb))
    await ingesting.ingest(client, owner, paths, tag or (), resume, as_json=as_json)


@group.command("search")
async def search(
    client: Client,
    kb: KnowledgeBaseName,
    query: Annotated[str, typer.Argument(help="What to find.", show_default=False)],
    mode: searching.Mode = "hybrid",
    tag: archival.Tag = None,
    limit: searching.Hits = 10,
    as_json: output.AsJson = False,
) -> None:
    """Search one knowledge base."""
    request = pb.SearchPassagesRequest(
        scope=pb.SearchScope(knowledge_base_ids=[await naming.knowledge_base_id(client, kb)]),
        query=query,
        mode=output.value_of(pb.SearchMode, mode, "--mode"),
        filter=pb.PassageFilter(all_tags=tag or ()),
        limit=limit,
        explain=True,
    )
    searching.show_passages(await client.archival.SearchPassages(request), as_json=as_json)


@group.command("passages")
async def passages(
    client: Client,
    kb: KnowledgeBaseName,
    tag: archival.Tag = None,
    limit: output.Limit = 50,
    as_json: output.AsJson = False,
) -> None:
    """List the passages of a knowledge base, oldest first."""
    owner = pb.PassageOwner(knowledge_base_id=await naming.knowledge_base_id(client, kb))
    request = pb.ListPassagesRequest(owner=owner, filter=pb.PassageFilter(all_tags=tag or ()))
    found = [one async for one in naming.paged(client.archival.ListPassages, request, "passages", limit=limit)]
    output.table(found, archival.COLUMNS, as_json=as_json, empty="no passages")


@group.command("attach")
async def attach(client: Client, kb: KnowledgeBaseName, agent: _Agent, as_json: output.AsJson = False) -> None:
    """Let an agent search a knowledge base."""
    request = pb.AttachKnowledgeBaseRequest(
        request_id=new_request_id(),
        knowledge_base_id=await naming.knowledge_base_id(client, kb),
        agent_id=await naming.agent_id(client, agent),
    )
    await client.archival.AttachKnowledgeBase(request)
    output.done(f"{request.agent_id} searches {request.knowledge_base_id}", as_json=as_json)


@group.command("detach")
async def detach(client: Client, kb: KnowledgeBaseName, agent: _Agent, as_json: output.AsJson = False) -> None:
    """End an agent's access to a knowledge base."""
    request = pb.DetachKnowledgeBaseRequest(
        request_id=new_request_id(),
        knowledge_base_id=await naming.knowledge_base_id(client, kb),
        agent_id=await naming.agent_id(client, agent),
    )
    await client.archival.DetachKnowledgeBase(request)
    output.done(f"{request.agent_id} no longer searches {request.knowledge_base_id}", as_json=as_json)


@group.command("delete")
async def delete(
    client: Client, kb: KnowledgeBaseName, yes: output.Yes = False, as_json: output.AsJson = False
) -> None:
    """Delete a knowledge base with its passages."""
    found = await naming.knowledge_base_id(client, kb)
    output.sure(f"Delete {found} and all its passages?", yes=yes)
    request = pb.DeleteKnowledgeBaseRequest(request_id=new_request_id(), knowledge_base_id=found)
    await client.archival.DeleteKnowledgeBase(request)
    output.done(f"deleted {found}", as_json=as_json)
