"""The RPC that gives a waiting run what it waits for."""

from __future__ import annotations

from mneme.errors.v1 import errors_pb2
from mneme.orchestrator import convert
from mneme.orchestrator.base import Base, Context, bound_user
from mneme.orchestrator.records import CallResult, Run
from mneme.orchestrator.store import journal as journal_store
from mneme.orchestrator.store import runs as store
from mneme.orchestrator.store.tables import SCHEMA
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.runtime import call
from mneme.runtime.errors import Error, invalid, not_found
from mneme.runtime.idempotency import once


class WaitingMethods(Base):
    """Lets waiting runs go on."""

    async def ResumeRun(self, request: pb.ResumeRunRequest, context: Context) -> pb.ResumeRunResponse:
        """Stores the approval or the tool's result, and puts the run back to work."""
        tenant = call.tenant()

        async def run() -> pb.ResumeRunResponse:
            locked = await store.lock(tx, tenant, request.run_id, bound_user())
            if locked is None:
                raise not_found(request.run_id)
            found, _ = locked
            _check(found, request)
            await journal_store.keep_result(tx, tenant, found.run_id, _answer(request))
            return pb.ResumeRunResponse(run=convert.wire_run(await store.resume(tx, tenant, found)))

        async with self._database.tenant(tenant) as tx:
            response = await once(tx, SCHEMA, request, pb.ResumeRunResponse, run)
        self._worker.wake()
        return response


def _check(run: Run, request: pb.ResumeRunRequest) -> None:
    if run.state != pb.RUN_STATE_WAITING:
        state = pb.RunState.Name(run.state).removeprefix("RUN_STATE_")
        raise Error(
            errors_pb2.REASON_INVALID_STATE,
            f"{run.run_id} is {state} and waits for nothing",
            metadata={"resource": run.run_id, "state": state},
        )
    if run.waiting_call != request.tool_call_id:
        raise invalid("tool_call_id", f"{run.run_id} waits for {run.waiting_call}", waiting_call=run.waiting_call)
    wanted = "approval" if run.waiting_approval else "tool_result"
    if request.WhichOneof("input") != wanted:
        raise invalid(wanted, "is what the run waits for")


def _answer(request: pb.ResumeRunRequest) -> CallResult:
    if request.WhichOneof("input") == "tool_result":
        return CallResult(request.tool_call_id, None, request.tool_result.ok, request.tool_result.text)
    return CallResult(request.tool_call_id, request.approval.approved, None, request.approval.comment)
