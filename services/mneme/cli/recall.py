"""`mneme recall`: every message ever said."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from mneme.cli import naming, output, searching
from mneme.cli.groups import Group
from mneme.cli.naming import AgentName, User
from mneme.client import Client
from mneme.recall.v1 import recall_pb2 as pb

group = Group(
    "recall",
    """Recall memory: list and search every message of an agent.

    Examples: `mneme recall search chat "Where did Ann move?"` · `mneme recall list chat --limit 20`
    """,
)

Conversation = Annotated[str, typer.Option("--conversation", help="Only this conversation.")]
After = Annotated[str, typer.Option("--after", help="Only messages from this time on, such as 2026-03-01.")]
Before = Annotated[str, typer.Option("--before", help="Only messages before this time.")]

_COLUMNS: output.Columns = {
    "when": lambda one: output.moment(one.create_time),
    "who": lambda one: one.speaker or output.name_of(pb.Role, one.role),
    "text": lambda one: output.short(_words(one), 100),
    "id": lambda one: one.message_id,
}


@group.command("list")
async def list_messages(
    client: Client,
    agent: AgentName,
    conversation: Conversation = "",
    user: User = "",
    after: After = "",
    before: Before = "",
    hidden: Annotated[bool, typer.Option("--hidden", help="Also what the user never sees.")] = False,
    limit: output.Limit = 50,
    as_json: output.AsJson = False,
) -> None:
    """List messages, newest first."""
    request = pb.ListMessagesRequest(
        agent_id=await naming.agent_id(client, agent),
        filter=_filter(conversation, user, after, before),
        order=pb.LIST_ORDER_NEWEST_FIRST,
    )
    request.filter.include_hidden = hidden
    found = [one async for one in naming.paged(client.recall.ListMessages, request, "messages", limit=limit)]
    output.table(found, _COLUMNS, as_json=as_json, empty="no messages")


@group.command("search")
async def search(
    client: Client,
    agent: AgentName,
    query: Annotated[str, typer.Argument(help="What to find.", show_default=False)],
    mode: searching.Mode = "hybrid",
    conversation: Conversation = "",
    user: User = "",
    after: After = "",
    before: Before = "",
    neighbours: Annotated[int, typer.Option("--around", min=0, max=10, help="Messages around each result.")] = 0,
    limit: searching.Hits = 10,
    as_json: output.AsJson = False,
) -> None:
    """Search messages by words, by meaning, or both."""
    request = pb.SearchMessagesRequest(
        agent_id=await naming.agent_id(client, agent),
        filter=_filter(conversation, user, after, before),
        limit=limit,
        neighbours=neighbours,
    )
    queries: dict[str, Any] = {"hybrid": request.hybrid, "semantic": request.semantic, "lexical": request.text}
    if mode not in queries:
        raise ValueError(f"--mode: '{mode}' is unknown; one of {', '.join(queries)}")
    queries[mode].text = query
    found = await client.recall.SearchMessages(request)
    if as_json:
        output.show(found, as_json=True)
        return
    if found.degraded:
        output.console.print("[yellow]by words only: the embedding service does not answer[/]")
    if not found.results:
        output.console.print("[dim]nothing found[/]")
    for number, one in enumerate(found.results, 1):
        _show(number, one)


def _show(number: int, found: pb.SearchResult) -> None:
    head = Text.assemble(
        (f"{number}. {found.score:.3f}", "bold"),
        (f"  {searching.parts_of(found.parts)}  {output.moment(found.message.create_time)}", "dim"),
    )
    output.console.print(head, soft_wrap=True)
    sequence = found.message.sequence
    for one in sorted((found.message, *found.neighbours), key=lambda one: one.sequence):
        who = one.speaker or output.name_of(pb.Role, one.role)
        style = "" if one.sequence == sequence else "dim"
        output.console.print(Text(f"   {who}: {output.short(_words(one), 300)}", style))


def _filter(conversation: str, user: str, after: str, before: str) -> pb.MessageFilter:
    wanted = pb.MessageFilter(conversation_id=conversation, user_id=user)
    if after:
        wanted.time_range.start.CopyFrom(output.stamp_of(after, "--after"))
    if before:
        wanted.time_range.end.CopyFrom(output.stamp_of(before, "--before"))
    return wanted


def _words(message: pb.Message) -> str:
    return message.text or " ".join(f"{call.name}({call.arguments_json})" for call in message.tool_calls)
