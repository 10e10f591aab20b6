"""`mneme ops`: work that crosses services."""

from __future__ import annotations

from typing import Annotated

import typer

from mneme.cli import naming, output
from mneme.cli.groups import Group
from mneme.client import Client
from mneme.orchestrator.v1 import orchestrator_pb2 as pb

group = Group(
    "ops",
    """Operations: creations, deletions and forgetting, step by step until all is done.

    Examples: `mneme ops list --state running` · `mneme ops show operation-…`
    """,
)

_COLUMNS: output.Columns = {
    "id": lambda one: one.operation_id,
    "what": lambda one: output.name_of(pb.OperationKind, one.kind),
    "subject": lambda one: one.subject,
    "state": lambda one: output.name_of(pb.OperationState, one.state),
    "steps": lambda one: f"{sum(step.done for step in one.steps)}/{len(one.steps)}",
    "began": lambda one: output.moment(one.create_time),
}


@group.command("list")
async def list_operations(
    client: Client,
    state: Annotated[str, typer.Option("--state", help="Only running, done or failed ones.")] = "",
    limit: output.Limit = 50,
    as_json: output.AsJson = False,
) -> None:
    """List operations, newest first."""
    request = pb.ListOperationsRequest()
    if state:
        request.state = output.value_of(pb.OperationState, state, "--state")
    found = [one async for one in naming.paged(client.agents.ListOperations, request, "operations", limit=limit)]
    output.table(found, _COLUMNS, as_json=as_json, empty="no operations")


@group.command("show")
async def show(
    client: Client,
    operation: Annotated[str, typer.Argument(help="Operation id.", show_default=False)],
    as_json: output.AsJson = False,
) -> None:
    """Show an operation with its steps; exits with 1 when it failed."""
    request = pb.GetOperationRequest(operation_id=operation)
    report((await client.agents.GetOperation(request)).operation, as_json=as_json)


def report(operation: pb.Operation, *, as_json: bool) -> None:
    """Prints an operation with what each step removed and left; exits with 1 when it failed."""
    state = output.name_of(pb.OperationState, operation.state)
    if as_json:
        output.show(operation, as_json=True)
    else:
        cells: list[tuple[object, ...]] = []
        for step in operation.steps:
            mark = "✓" if step.done else "…"
            if not any(count.removed or count.remaining for count in step.counts):
                cells.append((mark, step.name, "", "", ""))
            cells += [
                (mark, step.name, count.store, count.removed, count.remaining)
                for count in step.counts
                if count.removed or count.remaining
            ]
        output.rows(("", "step", "store", "removed", "left"), cells)
        output.console.print(f"{operation.operation_id} is {state}")
        if operation.failure.message:
            output.console.print(f"[red]{operation.failure.message}[/]")
    if operation.state == pb.OPERATION_STATE_FAILED:
        raise typer.Exit(1)
