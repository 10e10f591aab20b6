"""`mneme chat`: a conversation in the terminal."""

from __future__ import annotations

import signal
from typing import Annotated

import typer
import uvloop
from rich.console import Console
from rich.markup import escape

from mneme.cli import connect, naming
from mneme.client import Client, new_request_id
from mneme.orchestrator.v1 import orchestrator_pb2 as pb

DEFAULT_AGENT = "chat"
console = Console(highlight=False)


def chat(
    message: Annotated[list[str] | None, typer.Argument(help="What to say. Without it: a dialogue.")] = None,
    agent: Annotated[str, typer.Option("--agent", help="Agent by id or name. Default: one of your own.")] = "",
    conversation: Annotated[str, typer.Option("--conversation", help="Conversation to go on with.")] = "",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show only what the agent says.")] = False,
    address: connect.Address = "",
    token_file: connect.TokenFile = None,
    data: connect.DataDir = None,
) -> None:
    """Talk to an agent that remembers you, also in the next conversation.

    Each call opens a new conversation unless --conversation names one; memory outlives them all.

    Examples: `mneme chat` · `mneme chat "My name is Ann"` · `mneme chat -q "What is my name?"`
    """
    uvloop.run(_chat(" ".join(message or []), agent, conversation, quiet, connect.client(address, token_file, data)))


async def _chat(message: str, agent: str, conversation_id: str, quiet: bool, client: Client) -> None:
    async with client:
        if not conversation_id:
            agent_id = await naming.agent_id(client, agent) if agent else await _own_agent(client)
            conversation_id = await _open(client, agent_id)
        if message:
            if not await _turn(client, conversation_id, message, quiet):
                raise typer.Exit(1)
            return
        console.print(f"[dim]{conversation_id} · an empty line or Ctrl-D ends it[/]")
        while said := _prompt():
            await _turn(client, conversation_id, said, quiet)


def _prompt() -> str:
    # The event loop's own handler only asks its task to stop, which cannot happen while it waits here.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return console.input("[bold cyan]you[/] › ").strip()
    except EOFError:
        return ""
    finally:
        signal.signal(signal.SIGINT, previous)


async def _own_agent(client: Client) -> str:
    """The tenant's agent for the terminal, made at the first use."""
    page = await client.agents.ListAgents(pb.ListAgentsRequest(page_size=500))
    for agent in page.agents:
        if agent.display_name == DEFAULT_AGENT and agent.state == pb.AGENT_STATE_READY:
            return agent.agent_id
    created = await client.agents.CreateAgent(
        pb.CreateAgentRequest(
            request_id=new_request_id(),
            agent=pb.Agent(display_name=DEFAULT_AGENT, description="The agent of `mneme chat`."),
        )
    )
    return created.agent.agent_id


async def _open(client: Client, agent_id: str) -> str:
    created = await client.agents.CreateConversation(
        pb.CreateConversationRequest(request_id=new_request_id(), agent_id=agent_id)
    )
    return created.conversation.conversation_id


async def _turn(client: Client, conversation_id: str, text: str, quiet: bool) -> bool:
    """Says one thing and shows what comes; True when the run ended well."""
    streamed = 0
    async for event in client.ask(conversation_id, text):
        kind = event.WhichOneof("event")
        if kind == "token_delta":
            if event.token_delta.offset == 0:
                _speaker(quiet)
            console.print(escape(event.token_delta.text), end="")
            streamed += len(event.token_delta.text)
        elif kind == "assistant_message":
            if not streamed:
                _speaker(quiet)
                console.print(escape(event.assistant_message.text), end="")
            console.print()
            streamed = 0
        elif kind == "restarted":
            console.print("\n[yellow]… begun again[/]")
            streamed = 0
        elif kind == "failed":
            console.print(f"[bold red]failed:[/] {escape(event.failed.failure.message)}")
            return False
        elif not quiet:
            _show(event)
    return True


def _speaker(quiet: bool) -> None:
    if not quiet:
        console.print("[bold green]mneme[/] › ", end="")


def _show(event: pb.RunEvent) -> None:
    """One dim line for what memory did."""
    match event.WhichOneof("event"):
        case "tool_call" if event.tool_call.call.name != "send_message":
            call = f"· {event.tool_call.call.name} {event.tool_call.call.arguments_json}"
            console.print(f"[dim]{escape(call)}[/]", no_wrap=True, overflow="ellipsis")
        case "tool_result" if not event.tool_result.ok:
            console.print(f"[yellow]· {escape(event.tool_result.text)}[/]")
        case "memory_edit":
            console.print(f"[dim]· remembers in [/][magenta]{escape(event.memory_edit.label or 'archive')}[/]")
        case "evicted":
            console.print(f"[dim]· {event.evicted.message_count} messages left the window (still searchable)[/]")
        case "cache_hit":
            console.print("[dim]· answered before; served from the cache[/]")
        case "degraded":
            console.print(f"[yellow]· without {escape(event.degraded.service)}: {escape(event.degraded.effect)}[/]")
