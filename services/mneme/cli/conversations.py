"""`mneme conversations`: conversations, and what their next prompt would be."""

from __future__ import annotations

from typing import Annotated

import typer

from mneme.cli import naming, output
from mneme.cli.groups import Group
from mneme.cli.naming import AgentName, User
from mneme.client import Client, new_request_id
from mneme.orchestrator.v1 import orchestrator_pb2 as pb

group = Group(
    "conversations",
    """Conversations: open, list, delete, and the prompt of the next turn.

    Examples: `mneme conversations list --agent support` · `mneme conversations context conversation-…`
    """,
)

ConversationId = Annotated[str, typer.Argument(help="Conversation id.", show_default=False)]

_COLUMNS: output.Columns = {
    "id": lambda one: one.conversation_id,
    "name": lambda one: one.display_name,
    "user": lambda one: one.user_id,
    "waiting": lambda one: one.queued_event_count,
    "running": lambda one: "yes" if one.active_run_id else "",
    "changed": lambda one: output.moment(one.update_time),
}


@group.command("list")
async def list_conversations(
    client: Client,
    agent: Annotated[str, typer.Option("--agent", help="Only of this agent.")] = "",
    user: User = "",
    limit: output.Limit = 100,
    as_json: output.AsJson = False,
) -> None:
    """List conversations, oldest first."""
    request = pb.ListConversationsRequest(agent_id=await naming.agent_id(client, agent) if agent else "", user_id=user)
    call = client.agents.ListConversations
    found = [one async for one in naming.paged(call, request, "conversations", limit=limit)]
    output.table(found, _COLUMNS, as_json=as_json, empty="no conversations")


@group.command("create")
async def create(
    client: Client,
    agent: AgentName,
    name: Annotated[str, typer.Option("--name", help="Display name.")] = "",
    user: User = "",
    as_json: output.AsJson = False,
) -> None:
    """Open a conversation; go on in it with `mneme chat --conversation`."""
    request = pb.CreateConversationRequest(
        request_id=new_request_id(),
        agent_id=await naming.agent_id(client, agent),
        display_name=name,
        user_id=user,
    )
    made = (await client.agents.CreateConversation(request)).conversation
    output.done(f"created {made.conversation_id}", made, as_json=as_json)


@group.command("show")
async def show(client: Client, conversation: ConversationId, as_json: output.AsJson = False) -> None:
    """Show one conversation."""
    request = pb.GetConversationRequest(conversation_id=conversation)
    output.show((await client.agents.GetConversation(request)).conversation, as_json=as_json)


@group.command("context")
async def context(client: Client, conversation: ConversationId, as_json: output.AsJson = False) -> None:
    """Show the exact prompt that the next turn would begin with, and what each part costs in tokens."""
    request = pb.GetContextWindowRequest(conversation_id=conversation)
    found = await client.agents.GetContextWindow(request)
    if as_json:
        output.show(found, as_json=True)
        return
    for part in found.parts:
        head = " · ".join(filter(None, (part.kind, part.role, part.id, f"{part.token_count} tokens")))
        output.console.rule(head, align="left", style="dim")
        output.console.print(part.text, markup=False, soft_wrap=True)
    output.console.rule(style="dim")
    output.console.print(f"{found.token_count} of {found.window_tokens} tokens · {found.model}")


@group.command("delete")
async def delete(
    client: Client, conversation: ConversationId, yes: output.Yes = False, as_json: output.AsJson = False
) -> None:
    """Delete a conversation with its messages."""
    output.sure(f"Delete {conversation} and its messages?", yes=yes)
    request = pb.DeleteConversationRequest(request_id=new_request_id(), conversation_id=conversation)
    operation = (await client.agents.DeleteConversation(request)).operation
    state = output.name_of(pb.OperationState, operation.state)
    output.done(f"{operation.operation_id} is {state}", operation, as_json=as_json)
