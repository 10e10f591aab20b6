"""RPCs of messages, events and runs."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from datetime import UTC, datetime

from google.protobuf.message import Message

from mneme.errors.v1 import errors_pb2
from mneme.orchestrator import convert, endings, events
from mneme.orchestrator.base import PAGE_SIZE, PAGE_SIZE_MAX, Base, Context, bound_user
from mneme.orchestrator.records import PRIORITY, Incoming, Run
from mneme.orchestrator.store import journal as journal_store
from mneme.orchestrator.store import runs as store
from mneme.orchestrator.store.tables import SCHEMA
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.runtime import call, ids, pages
from mneme.runtime.db import Connection
from mneme.runtime.errors import Error, invalid, not_found
from mneme.runtime.idempotency import once

_VIEW_OPTIONS = frozenset({"stream_tokens", "include_inner_events"})


class RunMethods(Base):
    """Takes events in, shows runs, stops and retries them."""

    async def SendMessage(
        self, request: pb.SendMessageRequest, context: Context
    ) -> AsyncGenerator[pb.SendMessageResponse, None]:
        """Gives a user's message to an agent and streams the run; sent again, it attaches to the same run."""
        incoming = Incoming(
            event_id=ids.new("event"),
            run_id=ids.new("run"),
            request_id=request.request_id,
            request_sha256=_digest(request),
            conversation_id=request.conversation_id,
            kind=pb.EVENT_KIND_USER_MESSAGE,
            text=request.text,
            actor=call.current().principal.actor,
            bound_user=bound_user(),
            speaker=request.speaker,
            bypass_cache=request.bypass_cache,
        )
        with self._deps.hub.subscribed(incoming.run_id, tokens=request.stream_tokens) as subscription:
            accepted = await self._accept(incoming)
            run = accepted.work.run if accepted.work else accepted.queued
            assert run is not None
            if run.run_id == incoming.run_id:
                async for event in self._watcher.follow(
                    call.tenant(),
                    run,
                    subscription,
                    local=accepted.work is not None,
                    include_inner=request.include_inner_events,
                ):
                    yield pb.SendMessageResponse(event=event)
                return
        with self._deps.hub.subscribed(run.run_id, tokens=request.stream_tokens) as subscription:
            async for event in self._watcher.follow(
                call.tenant(), run, subscription, local=False, include_inner=request.include_inner_events
            ):
                yield pb.SendMessageResponse(event=event)

    async def SendEvent(self, request: pb.SendEventRequest, context: Context) -> pb.SendEventResponse:
        """Gives an agent a system or interaction event."""
        if request.kind not in (pb.EVENT_KIND_SYSTEM, pb.EVENT_KIND_INTERACTION):
            kind = pb.EventKind.Name(request.kind)
            raise invalid("kind", f"{kind} cannot be sent, only SYSTEM and INTERACTION", value=kind)
        incoming = Incoming(
            event_id=ids.new("event"),
            run_id=ids.new("run"),
            request_id=request.request_id,
            request_sha256=_digest(request),
            conversation_id=request.conversation_id,
            kind=request.kind,
            text=request.text,
            actor=call.current().principal.actor,
            bound_user=bound_user(),
        )
        accepted = await self._accept(incoming)
        run = accepted.work.run if accepted.work else accepted.queued
        assert run is not None
        return pb.SendEventResponse(event_id=run.event_id, run_id=run.run_id)

    async def GetRun(self, request: pb.GetRunRequest, context: Context) -> pb.GetRunResponse:
        """Returns one run."""
        return pb.GetRunResponse(run=convert.wire_run(await self._run(request.run_id)))

    async def ListRuns(self, request: pb.ListRunsRequest, context: Context) -> pb.ListRunsResponse:
        """Lists runs, newest first."""
        size = pages.page_size(request.page_size, default=PAGE_SIZE, maximum=PAGE_SIZE_MAX)
        cursor = pages.decode(request)
        async with self._database.tenant(call.tenant()) as tx:
            found = await store.list_runs(
                tx,
                call.tenant(),
                bound_user=bound_user(),
                agent_id=request.agent_id,
                conversation_id=request.conversation_id,
                states=request.states,
                before=str(cursor[0]) if cursor else "",
                limit=size + 1,
            )
        response = pb.ListRunsResponse(runs=[convert.wire_run(run) for run in found[:size]])
        if len(found) > size:
            response.next_page_token = pages.encode(request, [found[size - 1].run_id])
        return response

    async def WatchRun(
        self, request: pb.WatchRunRequest, context: Context
    ) -> AsyncGenerator[pb.WatchRunResponse, None]:
        """Streams a run's events after a sequence, to its terminal event."""
        with self._deps.hub.subscribed(request.run_id, tokens=request.stream_tokens) as subscription:
            run = await self._run(request.run_id)
            newest = max(run.last_sequence, events.QUEUED_SEQUENCE)
            if request.after_sequence > newest:
                problem = f"{request.after_sequence} is past the newest event, {newest}"
                raise invalid("after_sequence", problem, newest=str(newest))
            async for event in self._watcher.follow(
                call.tenant(),
                run,
                subscription,
                local=False,
                after=request.after_sequence,
                include_inner=request.include_inner_events,
            ):
                yield pb.WatchRunResponse(event=event)

    async def CancelRun(self, request: pb.CancelRunRequest, context: Context) -> pb.CancelRunResponse:
        """Stops a run: at once when no worker is busy with it, else after its current step."""
        tenant = call.tenant()
        ended: list[pb.RunEvent] = []

        async def run() -> pb.CancelRunResponse:
            locked = await store.lock(tx, tenant, request.run_id, bound_user())
            if locked is None:
                raise not_found(request.run_id)
            found, busy = locked
            if found.state == pb.RUN_STATE_CANCELLED:
                return pb.CancelRunResponse(run=convert.wire_run(found))
            if found.ended:
                raise _ended(found)
            if busy:
                asked = await store.ask_to_cancel(tx, tenant, found.run_id)
                return pb.CancelRunResponse(run=convert.wire_run(asked))
            event = _cancelled(found)
            ended.append(event)
            stopped = await store.end_idle(
                tx,
                tenant,
                found,
                state=pb.RUN_STATE_CANCELLED,
                stop_reason=pb.STOP_REASON_CANCELLED,
                failure=event.failed.failure.SerializeToString(),
                event=event.SerializeToString(),
            )
            return pb.CancelRunResponse(run=convert.wire_run(stopped))

        async with self._database.tenant(tenant) as tx:
            response = await once(tx, SCHEMA, request, pb.CancelRunResponse, run)
        self._deps.hub.publish(request.run_id, ended)
        self._worker.cancel(request.run_id)
        return response

    async def ListDeadLetters(self, request: pb.ListDeadLettersRequest, context: Context) -> pb.ListDeadLettersResponse:
        """Lists events that failed for good, newest first."""
        size = pages.page_size(request.page_size, default=PAGE_SIZE, maximum=PAGE_SIZE_MAX)
        cursor = pages.decode(request)
        async with self._database.tenant(call.tenant()) as tx:
            found = await store.list_dead_letters(
                tx,
                call.tenant(),
                bound_user=bound_user(),
                agent_id=request.agent_id,
                before=(datetime.fromisoformat(str(cursor[0])), str(cursor[1])) if cursor else None,
                limit=size + 1,
            )
        response = pb.ListDeadLettersResponse(
            dead_letters=[convert.wire_dead_letter(letter) for letter in found[:size]]
        )
        if len(found) > size:
            last = found[size - 1]
            response.next_page_token = pages.encode(request, [last.create_time.isoformat(), last.event_id])
        return response

    async def RetryDeadLetter(self, request: pb.RetryDeadLetterRequest, context: Context) -> pb.RetryDeadLetterResponse:
        """Puts a dead event back into its mailbox; its run goes on after the last step that was done."""
        tenant = call.tenant()

        async def run() -> pb.RetryDeadLetterResponse:
            found = await store.dead_run(tx, tenant, request.event_id, bound_user())
            if found is None:
                raise not_found(request.event_id)
            again = events.stamped(found, events.restarted(found.attempt + 1, "retry"), found.last_sequence)
            queued = await store.retry(
                tx, tenant, found, priority=PRIORITY[found.event_kind], event=again.SerializeToString()
            )
            return pb.RetryDeadLetterResponse(run=convert.wire_run(queued))

        async with self._database.tenant(tenant) as tx:
            response = await once(tx, SCHEMA, request, pb.RetryDeadLetterResponse, run)
        self._worker.wake()
        return response

    async def ListSteps(self, request: pb.ListStepsRequest, context: Context) -> pb.ListStepsResponse:
        """Lists the steps of a run."""
        await self._run(request.run_id)
        async with self._database.tenant(call.tenant()) as tx:
            found = await journal_store.steps_of(tx, call.tenant(), request.run_id)
        return pb.ListStepsResponse(steps=[convert.wire_step(step) for step in found])

    async def GetUsage(self, request: pb.GetUsageRequest, context: Context) -> pb.GetUsageResponse:
        """Returns tokens and cost by day and model."""
        span = request.time_range
        start = span.start.ToDatetime(UTC) if span.HasField("start") else None
        end = span.end.ToDatetime(UTC) if span.HasField("end") else None
        if start is not None and end is not None and end < start:
            problem = f"end {end.isoformat()} is before start {start.isoformat()}"
            raise invalid("time_range", problem, errors_pb2.REASON_INVALID_TIME_RANGE)
        async with self._database.tenant(call.tenant()) as tx:
            rows = await store.usage(
                tx,
                call.tenant(),
                agent_id=request.agent_id,
                user_id=call.acting_user(request.user_id),
                start=start,
                end=end,
            )
        total = events.wire_bill(store.total(rows))
        return pb.GetUsageResponse(rows=[convert.wire_usage(row) for row in rows], total=total)

    async def _run(self, run_id: str) -> Run:
        """The run, as far as the caller may see it.

        Raises:
            Error: NOT_FOUND.
        """
        async with self._database.tenant(call.tenant()) as tx:
            return await self._run_in(tx, run_id)

    async def _run_in(self, tx: Connection, run_id: str) -> Run:
        found = await store.get(tx, call.tenant(), run_id, bound_user())
        if found is None:
            raise not_found(run_id)
        return found


def _digest(request: Message) -> bytes:
    """Hash of what an event says. How its sender wants to watch is no part of it: a retry may watch otherwise."""
    said = type(request)()
    said.CopyFrom(request)
    for option in _VIEW_OPTIONS.intersection(request.DESCRIPTOR.fields_by_name):
        said.ClearField(option)
    text = request.DESCRIPTOR.full_name.encode() + b"\0"
    return hashlib.sha256(text + said.SerializeToString(deterministic=True)).digest()


def _cancelled(run: Run) -> pb.RunEvent:
    failure = events.failure_of(endings.cancelled_error())
    event = events.failed(pb.STOP_REASON_CANCELLED, failure, dead_lettered=False)
    return events.stamped(run, event, run.last_sequence + 1)


def _ended(run: Run) -> Error:
    state = pb.RunState.Name(run.state).removeprefix("RUN_STATE_")
    return Error(
        errors_pb2.REASON_INVALID_STATE,
        f"{run.run_id} is {state} and cannot be cancelled",
        metadata={"resource": run.run_id, "state": state},
    )
