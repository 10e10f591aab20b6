"""`mneme archival`: passages of an agent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mneme.archival.v1 import archival_pb2 as pb
from mneme.cli import ingest as ingesting
from mneme.cli import naming, output, searching
from mneme.cli.groups import Group
from mneme.cli.naming import AgentName, User
from mneme.client import Client, new_request_id
from mneme.common.v1 import common_pb2

group = Group(
    "archival",
    """Archival memory of an agent: insert, ingest, search, list, show, history, delete.

    Examples: `mneme archival insert chat "The cellar key hangs behind the door."` ·
    `mneme archival search chat "Where is the key?"`
    """,
)

PassageId = Annotated[str, typer.Argument(help="Passage id.", show_default=False)]
Tag = Annotated[list[str] | None, typer.Option("--tag", "-t", help="Tag; may be given several times.")]
Paths = Annotated[
    list[Path], typer.Argument(help="Files or folders: .txt, .md, .rst, .jsonl (a passage a line).", show_default=False)
]
Resume = Annotated[str, typer.Option("--resume", help="Go on with the ingest of this id.")]

COLUMNS: output.Columns = {
    "id": lambda one: one.passage_id,
    "kind": lambda one: output.name_of(pb.PassageKind, one.kind),
    "user": lambda one: one.user_id,
    "document": lambda one: one.document.document_id,
    "tags": lambda one: ", ".join(one.tags),
    "index": lambda one: output.name_of(common_pb2.IndexState, one.index_state),
    "text": lambda one: output.short(one.text, 60),
}

_HISTORY: output.Columns = {
    "version": lambda one: one.version,
    "when": lambda one: output.moment(one.start_time),
    "what": lambda one: output.name_of(common_pb2.MemoryChangeKind, one.kind),
    "who": lambda one: one.actor,
    "why": lambda one: one.provenance.reason,
    "text": lambda one: output.short(one.passage.text, 60),
}


@group.command("list")
async def list_passages(
    client: Client,
    agent: AgentName,
    tag: Tag = None,
    user: User = "",
    limit: output.Limit = 50,
    as_json: output.AsJson = False,
) -> None:
    """List an agent's passages, oldest first."""
    owner = pb.PassageOwner(agent_id=await naming.agent_id(client, agent))
    request = pb.ListPassagesRequest(owner=owner, filter=pb.PassageFilter(all_tags=tag or (), user_id=user))
    found = [one async for one in naming.paged(client.archival.ListPassages, request, "passages", limit=limit)]
    output.table(found, COLUMNS, as_json=as_json, empty="no passages")


@group.command("search")
async def search(
    client: Client,
    agent: AgentName,
    query: Annotated[str, typer.Argument(help="What to find.", show_default=False)],
    mode: searching.Mode = "hybrid",
    tag: Tag = None,
    user: User = "",
    limit: searching.Hits = 10,
    as_json: output.AsJson = False,
) -> None:
    """Search what an agent can: its own passages and the knowledge bases attached to it."""
    request = pb.SearchPassagesRequest(
        scope=pb.SearchScope(agent_id=await naming.agent_id(client, agent)),
        query=query,
        mode=output.value_of(pb.SearchMode, mode, "--mode"),
        filter=pb.PassageFilter(all_tags=tag or (), user_id=user),
        limit=limit,
        explain=True,
    )
    searching.show_passages(await client.archival.SearchPassages(request), as_json=as_json)


@group.command("insert")
async def insert(
    client: Client,
    agent: AgentName,
    text: Annotated[str, typer.Argument(help="The text.", show_default=False)],
    kind: Annotated[str, typer.Option("--kind", help="fact, preference, instruction, document or summary.")] = "fact",
    tag: Tag = None,
    user: User = "",
    as_json: output.AsJson = False,
) -> None:
    """Store one passage."""
    passage = pb.Passage(text=text, kind=output.value_of(pb.PassageKind, kind, "--kind"), tags=tag or (), user_id=user)
    request = pb.InsertPassageRequest(
        request_id=new_request_id(),
        owner=pb.PassageOwner(agent_id=await naming.agent_id(client, agent)),
        passage=passage,
    )
    stored = await client.archival.InsertPassage(request)
    what = "was there already as" if stored.duplicate else "stored"
    output.done(f"{what} {stored.passage.passage_id}", stored.passage, as_json=as_json)


@group.command("ingest")
async def ingest(
    client: Client,
    agent: AgentName,
    paths: Paths,
    tag: Tag = None,
    resume: Resume = "",
    as_json: output.AsJson = False,
) -> None:
    """Store files or whole folders; long texts are cut at their sentences. Doing it again replaces what changed."""
    owner = pb.PassageOwner(agent_id=await naming.agent_id(client, agent))
    await ingesting.ingest(client, owner, paths, tag or (), resume, as_json=as_json)


@group.command("show")
async def show(client: Client, passage: PassageId, as_json: output.AsJson = False) -> None:
    """Show one passage."""
    found = await client.archival.GetPassage(pb.GetPassageRequest(passage_id=passage))
    output.show(found.passage, as_json=as_json)


@group.command("history")
async def history(client: Client, passage: PassageId, limit: output.Limit = 20, as_json: output.AsJson = False) -> None:
    """List a passage's versions, newest first."""
    request = pb.ListPassageVersionsRequest(passage_id=passage)
    found = [one async for one in naming.paged(client.archival.ListPassageVersions, request, "versions", limit=limit)]
    output.table(found, _HISTORY, as_json=as_json, empty="no versions")


@group.command("restore")
async def restore(
    client: Client,
    passage: PassageId,
    version: Annotated[int, typer.Argument(min=1, help="Number of the version.", show_default=False)],
    as_json: output.AsJson = False,
) -> None:
    """Go back to a version of a passage; that is itself a version."""
    request = pb.RestorePassageVersionRequest(request_id=new_request_id(), passage_id=passage, version=version)
    found = (await client.archival.RestorePassageVersion(request)).passage
    output.done(f"{found.passage_id} is at version {found.version}", found, as_json=as_json)


@group.command("delete")
async def delete(client: Client, passage: PassageId, yes: output.Yes = False, as_json: output.AsJson = False) -> None:
    """Delete a passage with its versions."""
    output.sure(f"Delete {passage}?", yes=yes)
    await client.archival.DeletePassage(pb.DeletePassageRequest(request_id=new_request_id(), passage_id=passage))
    output.done(f"deleted {passage}", as_json=as_json)
