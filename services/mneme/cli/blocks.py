"""`mneme blocks`: core memory with its history."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from rich.syntax import Syntax

from mneme.cli import naming, output
from mneme.cli.groups import Group
from mneme.cli.naming import BlockName, User
from mneme.client import Client, new_request_id
from mneme.common.v1 import common_pb2
from mneme.core_memory.v1 import core_memory_pb2 as pb

group = Group(
    "blocks",
    """Blocks of core memory: always in the prompt, with limits, versions and sharing.

    A block is named by its id, or as `AGENT/LABEL`. Examples: `mneme blocks show chat/human` ·
    `mneme blocks history chat/human` · `mneme blocks restore chat/human 3`
    """,
)

Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the audit.")]
Version = Annotated[int, typer.Argument(min=1, help="Number of the version.", show_default=False)]

_COLUMNS: output.Columns = {
    "id": lambda one: one.block_id,
    "label": lambda one: one.label,
    "user": lambda one: one.user_id,
    "version": lambda one: one.version,
    "size": lambda one: f"{len(one.value)}/{one.limit_chars}",
    "text": lambda one: output.short(one.value, 60),
}

_HISTORY: output.Columns = {
    "version": lambda one: one.version,
    "when": lambda one: output.moment(one.create_time),
    "what": lambda one: output.name_of(common_pb2.MemoryChangeKind, one.kind),
    "who": lambda one: one.actor,
    "why": lambda one: one.provenance.reason,
    "text": lambda one: output.short(one.value, 60),
}


@group.command("list")
async def list_blocks(
    client: Client,
    agent: Annotated[str, typer.Option("--agent", help="Only blocks that this agent sees.")] = "",
    user: User = "",
    templates: Annotated[bool, typer.Option("--templates", help="Only templates.")] = False,
    limit: output.Limit = 100,
    as_json: output.AsJson = False,
) -> None:
    """List blocks."""
    request = pb.ListBlocksRequest(agent_id=await naming.agent_id(client, agent) if agent else "", user_id=user)
    if templates:
        request.is_template = True
    found = [one async for one in naming.paged(client.core_memory.ListBlocks, request, "blocks", limit=limit)]
    output.table(found, _COLUMNS, as_json=as_json, empty="no blocks")


@group.command("show")
async def show(client: Client, block: BlockName, user: User = "", as_json: output.AsJson = False) -> None:
    """Show a block and who sees it."""
    request = pb.GetBlockRequest(ref=await naming.block_ref(client, block, user))
    found = await client.core_memory.GetBlock(request)
    if as_json:
        output.show(found, as_json=True)
        return
    output.show(found.block, as_json=False)
    for one in found.attachments:
        whom = f" for {one.user_id}" if one.user_id else ""
        output.console.print(f"[dim]seen by[/] {one.agent_id}{whom}")


@group.command("create")
async def create(
    client: Client,
    label: Annotated[str, typer.Argument(help="Name under which agents address it.", show_default=False)],
    text: Annotated[str, typer.Argument(help="First text; - reads it from standard input.")] = "",
    description: Annotated[str, typer.Option("--description", help="Tells the model what belongs in it.")] = "",
    limit_chars: Annotated[int, typer.Option("--limit-chars", min=0, help="Largest length. 0: the default.")] = 0,
    shared: Annotated[bool, typer.Option("--shared", help="Answers made with it may be shared.")] = False,
    attach: Annotated[list[str] | None, typer.Option("--attach", help="Agent that shall see it.")] = None,
    as_json: output.AsJson = False,
) -> None:
    """Create a block, and attach it to agents that shall share it.

    Example: `mneme blocks create policy "Returns within 30 days." --attach support --attach sales`
    """
    visibility = common_pb2.BLOCK_VISIBILITY_SHARED if shared else common_pb2.BLOCK_VISIBILITY_PRIVATE
    request = pb.CreateBlockRequest(
        request_id=new_request_id(),
        block=pb.Block(
            label=label,
            value=_text(text),
            description=description,
            limit_chars=limit_chars,
            visibility=visibility,
        ),
        attachments=[pb.BlockAttachment(agent_id=await naming.agent_id(client, one)) for one in attach or ()],
    )
    made = (await client.core_memory.CreateBlock(request)).block
    output.done(f"created {made.block_id}", made, as_json=as_json)


@group.command("attach")
async def attach(
    client: Client,
    block: BlockName,
    agent: Annotated[str, typer.Argument(help="Agent that shall see it.", show_default=False)],
    user: User = "",
    as_json: output.AsJson = False,
) -> None:
    """Let an agent see a block; agents that see the same block share it."""
    attachment = pb.BlockAttachment(agent_id=await naming.agent_id(client, agent), user_id=user)
    request = pb.AttachBlockRequest(
        request_id=new_request_id(), block_id=await naming.block_id(client, block), attachment=attachment
    )
    attached = await client.core_memory.AttachBlock(request)
    output.done(f"{attachment.agent_id} sees {attached.block.label}", attached.block, as_json=as_json)


@group.command("detach")
async def detach(
    client: Client,
    block: BlockName,
    agent: Annotated[str, typer.Argument(help="Agent that shall no longer see it.", show_default=False)],
    user: User = "",
    as_json: output.AsJson = False,
) -> None:
    """End an agent's sight of a block."""
    agent_id = await naming.agent_id(client, agent)
    request = pb.DetachBlockRequest(
        request_id=new_request_id(),
        block_id=await naming.block_id(client, block),
        agent_id=agent_id,
        user_id=user,
    )
    await client.core_memory.DetachBlock(request)
    output.done(f"{agent_id} no longer sees it", as_json=as_json)


@group.command("set")
async def set_text(
    client: Client,
    block: BlockName,
    text: Annotated[str, typer.Argument(help="The whole new text; - reads it from standard input.")],
    user: User = "",
    etag: Annotated[str, typer.Option("--etag", help="Change only what still has this etag.")] = "",
    reason: Reason = "",
    as_json: output.AsJson = False,
) -> None:
    """Replace a block's whole text."""
    request = pb.UpdateBlockRequest(
        request_id=new_request_id(),
        ref=await naming.block_ref(client, block, user),
        block=pb.Block(value=_text(text)),
        etag=etag,
        provenance=common_pb2.Provenance(reason=reason),
    )
    request.update_mask.paths.append("value")
    _changed(await client.core_memory.UpdateBlock(request), as_json)


@group.command("append")
async def append(
    client: Client,
    block: BlockName,
    text: Annotated[str, typer.Argument(help="Text to add; - reads it from standard input.", show_default=False)],
    user: User = "",
    reason: Reason = "",
    as_json: output.AsJson = False,
) -> None:
    """Add text at the end of a block."""
    request = pb.AppendTextRequest(
        request_id=new_request_id(),
        ref=await naming.block_ref(client, block, user),
        text=_text(text),
        provenance=common_pb2.Provenance(reason=reason),
    )
    _changed(await client.core_memory.AppendText(request), as_json)


@group.command("replace")
async def replace(
    client: Client,
    block: BlockName,
    old: Annotated[str, typer.Argument(help="Exact text; must occur once.", show_default=False)],
    new: Annotated[str, typer.Argument(help="Text to put in its place; empty removes it.")] = "",
    user: User = "",
    reason: Reason = "",
    as_json: output.AsJson = False,
) -> None:
    """Replace an exact piece of a block's text."""
    request = pb.ReplaceTextRequest(
        request_id=new_request_id(),
        ref=await naming.block_ref(client, block, user),
        old_text=old,
        new_text=new,
        provenance=common_pb2.Provenance(reason=reason),
    )
    _changed(await client.core_memory.ReplaceText(request), as_json)


@group.command("history")
async def history(
    client: Client, block: BlockName, user: User = "", limit: output.Limit = 20, as_json: output.AsJson = False
) -> None:
    """List a block's versions, newest first: who changed it, why, and to what."""
    request = pb.ListVersionsRequest(block_id=await naming.block_id(client, block, user))
    found = [one async for one in naming.paged(client.core_memory.ListVersions, request, "versions", limit=limit)]
    output.table(found, _HISTORY, as_json=as_json, empty="no versions")


@group.command("diff")
async def diff(
    client: Client,
    block: BlockName,
    older: Version,
    newer: Annotated[int, typer.Argument(min=0, help="Number of the newer version. Default: the current one.")] = 0,
    user: User = "",
    as_json: output.AsJson = False,
) -> None:
    """Show what changed between two versions."""
    request = pb.DiffVersionsRequest(
        block_id=await naming.block_id(client, block, user), from_version=older, to_version=newer
    )
    found = await client.core_memory.DiffVersions(request)
    if as_json:
        output.show(found, as_json=True)
    else:
        shown = Syntax(found.unified_diff, "diff", background_color="default", word_wrap=True)
        output.console.print(shown if found.unified_diff else "[dim]no difference[/]")


@group.command("restore")
async def restore(
    client: Client,
    block: BlockName,
    version: Version,
    user: User = "",
    reason: Reason = "",
    as_json: output.AsJson = False,
) -> None:
    """Go back to a version; that is itself a version, so it can be undone."""
    request = pb.RestoreVersionRequest(
        request_id=new_request_id(),
        block_id=await naming.block_id(client, block, user),
        version=version,
        provenance=common_pb2.Provenance(reason=reason),
    )
    _changed(await client.core_memory.RestoreVersion(request), as_json)


@group.command("undo")
async def undo(
    client: Client, block: BlockName, user: User = "", reason: Reason = "", as_json: output.AsJson = False
) -> None:
    """Take the last edit back."""
    block_id = await naming.block_id(client, block, user)
    versions = (await client.core_memory.ListVersions(pb.ListVersionsRequest(block_id=block_id, page_size=2))).versions
    if len(versions) < 2:
        raise ValueError(f"{block_id} was never edited: there is nothing to undo")
    request = pb.RestoreVersionRequest(
        request_id=new_request_id(),
        block_id=block_id,
        version=versions[1].version,
        provenance=common_pb2.Provenance(reason=reason or f"undo of version {versions[0].version}"),
    )
    _changed(await client.core_memory.RestoreVersion(request), as_json)


@group.command("delete")
async def delete(client: Client, block: BlockName, yes: output.Yes = False, as_json: output.AsJson = False) -> None:
    """Delete a block with its versions, for all agents that see it."""
    block_id = await naming.block_id(client, block)
    output.sure(f"Delete {block_id} for every agent that sees it?", yes=yes)
    await client.core_memory.DeleteBlock(pb.DeleteBlockRequest(request_id=new_request_id(), block_id=block_id))
    output.done(f"deleted {block_id}", as_json=as_json)


def _text(text: str) -> str:
    return sys.stdin.read() if text == "-" else text


def _changed(response: Any, as_json: bool) -> None:
    block = response.block
    size = f"{len(block.value)} of {block.limit_chars} characters"
    output.done(f"{block.label} is at version {block.version}, {size}", block, as_json=as_json)
