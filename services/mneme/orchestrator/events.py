"""Builds the events of a run, and counts their sequence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from mneme.common.v1 import common_pb2
from mneme.errors.v1 import errors_pb2
from mneme.orchestrator.executor import MemoryEdit, ToolResult
from mneme.orchestrator.models.port import ToolUse
from mneme.orchestrator.records import Bill, Run, StoredEvents
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.runtime.errors import Error

INNER = frozenset(
    {"reasoning", "tool_call", "tool_result", "memory_edit", "usage", "evicted", "memory_pressure", "cache_miss"}
)
"""Events shown only to those who ask for inner events."""
TERMINAL = frozenset({"completed", "failed"})
QUEUED_SEQUENCE = 1
"""Sequence of `queued`, which is built from the run instead of stored."""


class EventLog:
    """The durable events of a run that are not stored yet, in order."""

    def __init__(self, run_id: str, last_sequence: int) -> None:
        self._run_id = run_id
        self._last = max(last_sequence, QUEUED_SEQUENCE)
        self._pending: list[pb.RunEvent] = []

    def add(self, event: pb.RunEvent) -> None:
        """Appends an event, and gives it its sequence."""
        self._last += 1
        event.sequence = self._last
        event.run_id = self._run_id
        event.create_time.GetCurrentTime()
        self._pending.append(event)

    def stored(self) -> StoredEvents:
        """What the next transaction must store."""
        return StoredEvents(
            tuple(event.sequence for event in self._pending),
            tuple(event.SerializeToString() for event in self._pending),
        )

    @property
    def stored_sequence(self) -> int:
        """Sequence of the last event that is stored."""
        return self._last - len(self._pending)

    def flushed(self) -> list[pb.RunEvent]:
        """The events, after the transaction that stored them; the log is empty then."""
        events, self._pending = self._pending, []
        return events


def queued(run: Run) -> pb.RunEvent:
    """The first event of every run."""
    event = pb.RunEvent(
        sequence=QUEUED_SEQUENCE,
        run_id=run.run_id,
        queued=pb.Queued(event_id=run.event_id, ahead_count=run.ahead_count),
    )
    event.create_time.FromDatetime(run.create_time)
    return event


def stamped(run: Run, event: pb.RunEvent, sequence: int) -> pb.RunEvent:
    """An event that is written outside the loop, on a run that no worker is busy with."""
    event.run_id = run.run_id
    event.sequence = sequence
    event.create_time.GetCurrentTime()
    return event


def reasoning(text: str, step_id: str) -> pb.RunEvent:
    """The model thought."""
    return pb.RunEvent(reasoning=pb.Reasoning(text=text, step_id=step_id))


def tool_call(call: ToolUse, step_id: str, *, heartbeat: bool) -> pb.RunEvent:
    """The model called a tool."""
    made = pb.ToolCallEvent(call=wire_call(call), heartbeat=heartbeat, step_id=step_id)
    return pb.RunEvent(tool_call=made)


def wire_call(call: ToolUse) -> common_pb2.ToolCall:
    """A call for the wire."""
    return common_pb2.ToolCall(id=call.id, name=call.name, arguments_json=call.arguments_json)


def tool_result(call: ToolUse, result: ToolResult, duration: timedelta) -> pb.RunEvent:
    """A tool answered."""
    event = pb.ToolResultEvent(tool_call_id=call.id, name=call.name, ok=result.ok, text=result.text)
    event.duration.FromTimedelta(duration)
    return pb.RunEvent(tool_result=event)


def memory_edit(edit: MemoryEdit) -> pb.RunEvent:
    """Memory was edited."""
    return pb.RunEvent(
        memory_edit=pb.MemoryEdit(
            kind=edit.kind,
            resource_id=edit.resource_id,
            label=edit.label,
            before=edit.before,
            after=edit.after,
            version=edit.version,
        )
    )


def assistant_message(message_id: str, text: str) -> pb.RunEvent:
    """A whole message to the user."""
    return pb.RunEvent(assistant_message=pb.AssistantMessage(message_id=message_id, text=text))


def usage(step_id: str, model: str, bill: Bill, model_time: timedelta, first_token: timedelta) -> pb.RunEvent:
    """Tokens and cost of a step."""
    event = pb.UsageEvent(step_id=step_id, model=model, usage=wire_bill(bill))
    event.model_duration.FromTimedelta(model_time)
    event.first_token_duration.FromTimedelta(first_token)
    return pb.RunEvent(usage=event)


def wire_bill(bill: Bill) -> pb.TokenUsage:
    """Tokens and cost for the wire."""
    return pb.TokenUsage(
        input_tokens=bill.input_tokens,
        output_tokens=bill.output_tokens,
        cache_read_tokens=bill.cache_read_tokens,
        cache_write_tokens=bill.cache_write_tokens,
        model_calls=bill.model_calls,
        cost_micro_usd=bill.cost_micro_usd,
    )


def degraded(service: str, effect: str) -> pb.RunEvent:
    """A part of the suite was missing."""
    return pb.RunEvent(degraded=pb.Degraded(service=service, effect=effect))


def restarted(attempt: int, reason: str) -> pb.RunEvent:
    """The run was begun again."""
    return pb.RunEvent(restarted=pb.Restarted(attempt=attempt, reason=reason))


def waiting(call: ToolUse, *, for_approval: bool, until: datetime) -> pb.RunEvent:
    """The run waits for its caller."""
    event = pb.Waiting(call=wire_call(call), for_approval=for_approval)
    event.expire_time.FromDatetime(until)
    return pb.RunEvent(waiting=event)


def evicted(count: int, before: int, after: int, summary_version: int) -> pb.RunEvent:
    """Messages left the window."""
    return pb.RunEvent(
        evicted=pb.Evicted(
            message_count=count, tokens_before=before, tokens_after=after, summary_version=summary_version
        )
    )


def memory_pressure(prompt_tokens: int, window_tokens: int) -> pb.RunEvent:
    """The model was warned."""
    return pb.RunEvent(memory_pressure=pb.MemoryPressure(prompt_tokens=prompt_tokens, window_tokens=window_tokens))


def completed(
    stop_reason: pb.StopReason.ValueType,
    *,
    step_count: int,
    bill: Bill,
    service_times: dict[str, tuple[int, float]],
    duration: timedelta,
) -> pb.RunEvent:
    """The run ended well.

    Args:
        service_times: Calls and seconds, by service.
    """
    event = pb.Completed(stop_reason=stop_reason, step_count=step_count, usage=wire_bill(bill))
    event.duration.FromTimedelta(max(duration, timedelta()))
    for service, (count, seconds) in sorted(service_times.items()):
        spent = event.service_times.add(service=service, call_count=count)
        spent.duration.FromTimedelta(timedelta(seconds=seconds))
    return pb.RunEvent(completed=event)


def failed(stop_reason: pb.StopReason.ValueType, failure: common_pb2.Failure, *, dead_lettered: bool) -> pb.RunEvent:
    """The run failed."""
    return pb.RunEvent(failed=pb.Failed(stop_reason=stop_reason, failure=failure, dead_lettered=dead_lettered))


def deleted(run_id: str) -> pb.RunEvent:
    """The run was removed with its agent, conversation or user."""
    error = Error(errors_pb2.REASON_DELETED, f"{run_id} was deleted", metadata={"resource": run_id})
    return failed(pb.STOP_REASON_CANCELLED, failure_of(error), dead_lettered=False)


def failure_of(error: Error) -> common_pb2.Failure:
    """An error as part of an answer."""
    field = error.violations[0].field if error.violations else ""
    return common_pb2.Failure(reason=error.reason, message=error.message, metadata=error.metadata, field=field)


def token_delta(run_id: str, *, attempt: int, step_id: str, offset: int, text: str) -> pb.RunEvent:
    """A piece of the message that is being written; it has no sequence and is not stored."""
    now = Timestamp()
    now.GetCurrentTime()
    delta = pb.TokenDelta(attempt=attempt, step_id=step_id, offset=offset, text=text)
    return pb.RunEvent(run_id=run_id, create_time=now, token_delta=delta)


def kind_of(event: pb.RunEvent) -> str:
    """Name of what happened."""
    return event.WhichOneof("event") or ""


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)
