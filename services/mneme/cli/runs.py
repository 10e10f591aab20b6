"""`mneme runs`: what agents did, and why."""

from __future__ import annotations

from typing import Annotated

import typer

from mneme.cli import naming, output
from mneme.cli.groups import Group
from mneme.client import Client, new_request_id
from mneme.orchestrator.v1 import orchestrator_pb2 as pb

group = Group(
    "runs",
    """Runs: what an agent did with each event, step by step.

    Examples: `mneme runs list --agent support` · `mneme runs watch run-…` · `mneme runs steps run-…`
    """,
)

RunId = Annotated[str, typer.Argument(help="Run id.", show_default=False)]

_COLUMNS: output.Columns = {
    "id": lambda one: one.run_id,
    "state": lambda one: output.name_of(pb.RunState, one.state),
    "event": lambda one: output.name_of(pb.EventKind, one.event_kind),
    "user": lambda one: one.user_id,
    "steps": lambda one: one.step_count,
    "tokens": lambda one: one.usage.input_tokens + one.usage.output_tokens,
    "began": lambda one: output.moment(one.create_time),
    "stopped": lambda one: output.name_of(pb.StopReason, one.stop_reason) if one.stop_reason else "",
}

_STEPS: output.Columns = {
    "step": lambda one: one.number,
    "model": lambda one: one.model,
    "why this model": lambda one: one.model_reason,
    "seconds": lambda one: f"{one.model_duration.ToTimedelta().total_seconds():.2f}",
    "tokens": lambda one: f"{one.usage.input_tokens} + {one.usage.output_tokens}",
    "tools": lambda one: ", ".join(call.name for call in one.tool_calls),
    "went on because": lambda one: one.continue_reason,
}


@group.command("list")
async def list_runs(
    client: Client,
    agent: Annotated[str, typer.Option("--agent", help="Only of this agent.")] = "",
    conversation: Annotated[str, typer.Option("--conversation", help="Only of this conversation.")] = "",
    state: Annotated[list[str] | None, typer.Option("--state", help="Only in this state: running, failed, …")] = None,
    limit: output.Limit = 20,
    as_json: output.AsJson = False,
) -> None:
    """List runs, newest first."""
    request = pb.ListRunsRequest(
        agent_id=await naming.agent_id(client, agent) if agent else "",
        conversation_id=conversation,
        states=[output.value_of(pb.RunState, one, "--state") for one in state or ()],
    )
    found = [one async for one in naming.paged(client.agents.ListRuns, request, "runs", limit=limit)]
    output.table(found, _COLUMNS, as_json=as_json, empty="no runs")


@group.command("show")
async def show(client: Client, run: RunId, as_json: output.AsJson = False) -> None:
    """Show one run."""
    output.show((await client.agents.GetRun(pb.GetRunRequest(run_id=run))).run, as_json=as_json)


@group.command("steps")
async def steps(client: Client, run: RunId, as_json: output.AsJson = False) -> None:
    """List a run's steps: model, time, tokens, tools, and why it went on."""
    found = await client.agents.ListSteps(pb.ListStepsRequest(run_id=run))
    output.table(found.steps, _STEPS, as_json=as_json, empty="no steps")


@group.command("watch")
async def watch(
    client: Client,
    run: RunId,
    after: Annotated[int, typer.Option("--after", min=0, help="Only events after this sequence.")] = 0,
    as_json: output.AsJson = False,
) -> None:
    """Follow a run's events to its end, also one that ended long ago: stored ones first, then live ones."""
    async for event in client.watch(run, after_sequence=after):
        if as_json:
            typer.echo(output.json_line(event))
        else:
            kind = event.WhichOneof("event") or ""
            detail = output.short(str(output.as_dict(event).get(kind, "")), 160)
            output.console.print(f"[dim]{event.sequence:>4}[/] [bold]{kind}[/] ", end="")
            output.console.print(detail, markup=False, soft_wrap=True)


@group.command("cancel")
async def cancel(client: Client, run: RunId, as_json: output.AsJson = False) -> None:
    """Stop a run between two steps."""
    request = pb.CancelRunRequest(request_id=new_request_id(), run_id=run)
    found = (await client.agents.CancelRun(request)).run
    output.done(f"{run} is {output.name_of(pb.RunState, found.state)}", found, as_json=as_json)
