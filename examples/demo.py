"""A first look: facts told in one conversation, the whole suite restarted, and the facts asked for in another.

Run it with `make demo`. It needs no network: PostgreSQL and Redis are embedded, the model is the offline one.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from mneme import dev
from mneme.client import Client, new_request_id
from mneme.orchestrator.v1 import orchestrator_pb2 as pb

console = Console(highlight=False)

TOLD = (
    "Hi, my name is Marta and I live in Porto.",
    "I am allergic to shellfish.",
    "我的自行车是红色的。",
)
CHANGED = ("I moved to Lisbon last week.",)
ASKED = (
    ("What is my name?", "Marta"),
    ("Which food must I avoid?", "shellfish"),
    ("Where do I live now?", "Lisbon"),
    ("我的自行车是什么颜色？", "红色"),
)


async def main() -> int:
    """Holds the conversations; the number of wrong answers."""
    with tempfile.TemporaryDirectory(prefix="mneme-demo-") as folder:
        console.rule("[bold]1. A customer tells things")
        async with running(Path(folder)) as client:
            agent_id = await new_agent(client)
            await talk(client, agent_id, *TOLD)
            console.rule("[bold]2. Another conversation: one of them changes")
            await talk(client, agent_id, *CHANGED)
        console.rule("[bold]3. Everything restarted, a new conversation: what is still known?")
        async with running(Path(folder)) as client:
            answers = await talk(client, agent_id, *(question for question, _ in ASKED))
    wrong = [question for (question, word), answer in zip(ASKED, answers, strict=True) if word not in answer]
    console.rule()
    if wrong:
        console.print(f"[bold red]{len(wrong)} of {len(ASKED)} answers are wrong:[/] {'; '.join(wrong)}")
    else:
        console.print(f"[bold green]All {len(ASKED)} answers are right.[/] Now try it yourself:")
        console.print("  make dev     in one terminal, and in another:")
        console.print('  make chat    or: .venv/bin/mneme chat "My name is …"')
    return len(wrong)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Client]:
    """The suite on a data folder, and a client of it."""
    began = time.perf_counter()
    overrides = {"server": {"port": 0, "drain_wait": 0.0}, "telemetry": {"log_level": "warning"}}
    async with dev.suite(folder, overrides=overrides) as server:
        console.print(f"[dim]six services and their stores are up after {time.perf_counter() - began:.1f} s[/]")
        async with Client.connect(server.address, token=folder / "token") as client:
            yield client


async def new_agent(client: Client) -> str:
    """An agent with the default blocks."""
    request = pb.CreateAgentRequest(request_id=new_request_id(), agent=pb.Agent(display_name="demo"))
    return (await client.agents.CreateAgent(request)).agent.agent_id


async def talk(client: Client, agent_id: str, *messages: str) -> list[str]:
    """Holds one conversation, showing what memory does; the answers."""
    request = pb.CreateConversationRequest(request_id=new_request_id(), agent_id=agent_id)
    conversation_id = (await client.agents.CreateConversation(request)).conversation.conversation_id
    return [await say(client, conversation_id, message) for message in messages]


async def say(client: Client, conversation_id: str, message: str) -> str:
    """Says one thing and shows what comes of it; the answer."""
    console.print(f"[bold cyan]customer[/] › {escape(message)}")
    answers: list[str] = []
    async for event in client.ask(conversation_id, message):
        match event.WhichOneof("event"):
            case "tool_call" if event.tool_call.call.name.endswith(("search", "search_date")):
                call = f"  · {event.tool_call.call.name} {event.tool_call.call.arguments_json}"
                console.print(f"[dim]{escape(call)}[/]", no_wrap=True, overflow="ellipsis")
            case "memory_edit":
                show_edit(event.memory_edit)
            case "assistant_message":
                answers.append(event.assistant_message.text)
                console.print(f"[bold green]agent[/]    › {escape(event.assistant_message.text)}")
            case "completed":
                times = ", ".join(
                    f"{entry.service} {entry.duration.ToMicroseconds() / 1000:.0f} ms"
                    for entry in event.completed.service_times
                )
                console.print(f"[dim]  · {event.completed.duration.ToMilliseconds()} ms ({times})[/]")
            case "failed":
                console.print(f"[bold red]failed:[/] {escape(event.failed.failure.message)}")
    return "\n".join(answers)


def show_edit(edit: pb.MemoryEdit) -> None:
    """The lines that a memory edit took out and put in."""
    before, after = set(edit.before.splitlines()), set(edit.after.splitlines())
    for line in edit.before.splitlines():
        if line not in after:
            console.print(f"[red]  − {escape(edit.label or 'archive')}: {escape(line)}[/]")
    for line in edit.after.splitlines():
        if line not in before:
            console.print(f"[green]  + {escape(edit.label or 'archive')}: {escape(line)}[/]")


if __name__ == "__main__":
    sys.exit(1 if asyncio.run(main()) else 0)
