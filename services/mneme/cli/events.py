"""`mneme events`: what happens to agents besides messages."""

from __future__ import annotations

from typing import Annotated

import typer

from mneme.cli import naming, output
from mneme.cli.conversations import ConversationId
from mneme.cli.groups import Group
from mneme.client import Client, new_request_id
from mneme.orchestrator.v1 import orchestrator_pb2 as pb

group = Group(
    "events",
    """Events: send, schedule, and retry what failed for good.

    Examples: `mneme events send conversation-… "Ann logged in." --kind interaction` ·
    `mneme events schedule conversation-… "Say good morning." --cron "0 8 * * 1-5" --time-zone Europe/Paris` ·
    `mneme events dead`
    """,
)

_SCHEDULED: output.Columns = {
    "id": lambda one: one.timer_id,
    "next": lambda one: output.moment(one.next_time),
    "schedule": lambda one: one.schedule.cron or "once",
    "conversation": lambda one: one.conversation_id,
    "text": lambda one: output.short(one.text, 60),
}

_DEAD: output.Columns = {
    "id": lambda one: one.event_id,
    "when": lambda one: output.moment(one.create_time),
    "kind": lambda one: output.name_of(pb.EventKind, one.kind),
    "reason": lambda one: one.failure.message,
    "attempts": lambda one: one.attempt_count,
    "conversation": lambda one: one.conversation_id,
}


@group.command("send")
async def send(
    client: Client,
    conversation: ConversationId,
    text: Annotated[str, typer.Argument(help="What happened.", show_default=False)],
    kind: Annotated[str, typer.Option("--kind", help="system or interaction.")] = "system",
    as_json: output.AsJson = False,
) -> None:
    """Give an agent an event; it is durable when this returns."""
    request = pb.SendEventRequest(
        request_id=new_request_id(),
        conversation_id=conversation,
        kind=output.value_of(pb.EventKind, kind, "--kind"),
        text=text,
    )
    sent = await client.agents.SendEvent(request)
    output.done(f"accepted as {sent.event_id}: `mneme runs watch {sent.run_id}`", sent, as_json=as_json)


@group.command("schedule")
async def schedule(
    client: Client,
    conversation: ConversationId,
    text: Annotated[str, typer.Argument(help="Text for the model.", show_default=False)],
    at: Annotated[str, typer.Option("--at", help="Once at this time, such as 2026-03-01T18:30.")] = "",
    cron: Annotated[str, typer.Option("--cron", help="Again and again, by five cron fields.")] = "",
    time_zone: Annotated[str, typer.Option("--time-zone", help="Of the cron fields. Default: UTC.")] = "",
    as_json: output.AsJson = False,
) -> None:
    """Give an agent an event later, once or again and again."""
    if bool(at) == bool(cron):
        raise ValueError("give either --at or --cron")
    wanted = pb.Schedule(cron=cron, time_zone=time_zone) if cron else pb.Schedule(at=output.stamp_of(at, "--at"))
    request = pb.ScheduleEventRequest(
        request_id=new_request_id(), conversation_id=conversation, text=text, schedule=wanted
    )
    made = (await client.agents.ScheduleEvent(request)).scheduled_event
    output.done(f"{made.timer_id} is due {output.moment(made.next_time)}", made, as_json=as_json)


@group.command("list")
async def list_scheduled(
    client: Client,
    conversation: Annotated[str, typer.Option("--conversation", help="Only of this conversation.")] = "",
    limit: output.Limit = 50,
    as_json: output.AsJson = False,
) -> None:
    """List scheduled events, the next due first."""
    request = pb.ListScheduledEventsRequest(conversation_id=conversation)
    call = client.agents.ListScheduledEvents
    found = [one async for one in naming.paged(call, request, "scheduled_events", limit=limit)]
    output.table(found, _SCHEDULED, as_json=as_json, empty="nothing is scheduled")


@group.command("cancel")
async def cancel(
    client: Client,
    timer: Annotated[str, typer.Argument(help="Id of the scheduled event.", show_default=False)],
    as_json: output.AsJson = False,
) -> None:
    """Take a scheduled event back."""
    request = pb.CancelScheduledEventRequest(request_id=new_request_id(), timer_id=timer)
    await client.agents.CancelScheduledEvent(request)
    output.done(f"{timer} is taken back", as_json=as_json)


@group.command("dead")
async def dead(
    client: Client,
    agent: Annotated[str, typer.Option("--agent", help="Only of this agent.")] = "",
    limit: output.Limit = 50,
    as_json: output.AsJson = False,
) -> None:
    """List events that failed for good, newest first."""
    request = pb.ListDeadLettersRequest(agent_id=await naming.agent_id(client, agent) if agent else "")
    found = [one async for one in naming.paged(client.agents.ListDeadLetters, request, "dead_letters", limit=limit)]
    output.table(found, _DEAD, as_json=as_json, empty="no dead letters")


@group.command("retry")
async def retry(
    client: Client,
    event: Annotated[str, typer.Argument(help="Event id of a dead letter.", show_default=False)],
    as_json: output.AsJson = False,
) -> None:
    """Put a dead letter back into its mailbox."""
    request = pb.RetryDeadLetterRequest(request_id=new_request_id(), event_id=event)
    run = (await client.agents.RetryDeadLetter(request)).run
    output.done(f"waits again: `mneme runs watch {run.run_id}`", run, as_json=as_json)
