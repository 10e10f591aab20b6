"""Stored values for the wire, and the checks of what comes from it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from google.protobuf import json_format
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from mneme.common.v1 import common_pb2
from mneme.errors.v1 import errors_pb2
from mneme.orchestrator.events import wire_bill
from mneme.orchestrator.profile import client_parameters
from mneme.orchestrator.prompt import Part
from mneme.orchestrator.records import Agent, Conversation, DeadLetter, Operation, PastEvent, Run, Step, Timer, UsageRow
from mneme.orchestrator.tools import TOOLS
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.runtime.errors import Error, invalid, not_implemented

_OUTPUT_FIELDS: tuple[Literal["agent_id", "state", "etag", "create_time", "update_time"], ...] = (
    "agent_id",
    "state",
    "etag",
    "create_time",
    "update_time",
)
_METADATA_BYTES = 16 * 1024


def definition(agent: pb.Agent) -> bytes:
    """The agent as it is stored: without the fields that the server fills.

    Raises:
        Error: INVALID_FIELD, or NOT_IMPLEMENTED for what this version does not do yet.
    """
    kept = pb.Agent()
    kept.CopyFrom(agent)
    for name in _OUTPUT_FIELDS:
        kept.ClearField(name)
    _check_agent(kept)
    return kept.SerializeToString(deterministic=True)


def without_user(stored: bytes) -> bytes:
    """The stored agent, of no user any more."""
    agent = pb.Agent.FromString(stored)
    agent.ClearField("user_id")
    return agent.SerializeToString(deterministic=True)


def merged(stored: bytes, changes: pb.Agent, mask: FieldMask, *, has_mask: bool) -> pb.Agent:
    """The stored agent with the changes that the mask names; without a mask, with the fields that are set.

    Raises:
        Error: INVALID_UPDATE_MASK.
    """
    agent = pb.Agent.FromString(stored)
    paths = list(mask.paths) if has_mask else [field.name for field, _ in changes.ListFields()]
    if not has_mask:
        paths = [path for path in paths if path not in _OUTPUT_FIELDS]
    for path in paths:
        root = path.split(".", 1)[0]
        if root in _OUTPUT_FIELDS or not FieldMask(paths=[path]).IsValidForDescriptor(pb.Agent.DESCRIPTOR):
            raise invalid("update_mask", f"unknown path '{path}'", errors_pb2.REASON_INVALID_UPDATE_MASK, path=path)
    FieldMask(paths=paths).MergeMessage(changes, agent, replace_message_field=True, replace_repeated_field=True)
    return agent


def metadata_of(struct: Struct, field: str) -> dict[str, Any]:
    """Free data of a caller.

    Raises:
        Error: TEXT_TOO_LONG.
    """
    found: dict[str, Any] = json_format.MessageToDict(struct)
    size = len(json.dumps(found, ensure_ascii=False).encode())
    if size > _METADATA_BYTES:
        problem = f"{size} bytes as JSON, at most {_METADATA_BYTES} are accepted"
        raise invalid(field, problem, errors_pb2.REASON_TEXT_TOO_LONG, size=str(size), limit=str(_METADATA_BYTES))
    return found


def wire_agent(agent: Agent) -> pb.Agent:
    """An agent for the wire."""
    wire = pb.Agent.FromString(agent.definition)
    wire.agent_id = agent.agent_id
    wire.user_id = agent.user_id
    wire.state = agent.state
    wire.etag = str(agent.version)
    wire.create_time.FromDatetime(agent.create_time)
    wire.update_time.FromDatetime(agent.update_time)
    return wire


def wire_conversation(conversation: Conversation) -> pb.Conversation:
    """A conversation for the wire."""
    wire = pb.Conversation(
        conversation_id=conversation.conversation_id,
        agent_id=conversation.agent_id,
        user_id=conversation.user_id,
        display_name=conversation.display_name,
        queued_event_count=conversation.queued_event_count,
        active_run_id=conversation.active_run_id,
    )
    if conversation.metadata:
        json_format.ParseDict(dict(conversation.metadata), wire.metadata)
    wire.create_time.FromDatetime(conversation.create_time)
    wire.update_time.FromDatetime(conversation.update_time)
    return wire


def wire_run(run: Run) -> pb.Run:
    """A run for the wire."""
    wire = pb.Run(
        run_id=run.run_id,
        agent_id=run.agent_id,
        conversation_id=run.conversation_id,
        user_id=run.user_id,
        event_id=run.event_id,
        event_kind=run.event_kind,
        state=run.state,
        stop_reason=run.stop_reason,
        step_count=run.step_count,
        attempt=run.attempt,
        usage=wire_bill(run.bill),
        last_sequence=run.last_sequence,
    )
    if run.failure is not None:
        wire.failure.ParseFromString(run.failure)
    _set(wire.create_time, run.create_time)
    if run.start_time is not None:
        _set(wire.start_time, run.start_time)
    if run.end_time is not None:
        _set(wire.end_time, run.end_time)
    return wire


def wire_step(step: Step) -> pb.Step:
    """A step for the wire."""
    wire = pb.Step(
        step_id=step.step_id,
        run_id=step.run_id,
        number=step.number,
        attempt=step.attempt,
        model=step.model,
        model_reason=step.model_reason,
        usage=wire_bill(step.bill),
        tool_calls=[
            common_pb2.ToolCall(id=call[0], name=call[1], arguments_json=call[2]) for call in step.output["calls"]
        ],
        prompt_sha256=step.prompt_sha256,
        render_version=step.render_version,
        references=[pb.PromptReference(kind=kind, id=found, token_count=n) for kind, found, n in step.references],
        continue_reason=step.continue_reason,
    )
    wire.model_duration.FromTimedelta(timedelta(microseconds=step.model_microseconds))
    if step.create_time is not None:
        _set(wire.create_time, step.create_time)
    return wire


def wire_dead_letter(letter: DeadLetter) -> pb.DeadLetter:
    """A dead letter for the wire."""
    wire = pb.DeadLetter(
        event_id=letter.event_id,
        run_id=letter.run_id,
        conversation_id=letter.conversation_id,
        kind=letter.kind,
        failure=common_pb2.Failure.FromString(letter.failure),
        attempt_count=letter.attempt_count,
    )
    _set(wire.create_time, letter.create_time)
    return wire


def wire_timer(timer: Timer) -> pb.ScheduledEvent:
    """A scheduled event for the wire."""
    wire = pb.ScheduledEvent(timer_id=timer.timer_id, conversation_id=timer.conversation_id, text=timer.text)
    if timer.cron:
        wire.schedule.cron = timer.cron
        wire.schedule.time_zone = timer.time_zone
    else:
        _set(wire.schedule.at, timer.next_time)
    _set(wire.next_time, timer.next_time)
    if timer.last_time is not None:
        _set(wire.last_time, timer.last_time)
    _set(wire.create_time, timer.create_time)
    return wire


def wire_event(past: PastEvent) -> pb.Event:
    """A past event for the wire."""
    event = past.event
    wire = pb.Event(
        event_id=event.event_id,
        conversation_id=past.conversation_id,
        run_id=past.run_id,
        kind=event.kind,
        text=event.text,
        speaker=event.speaker,
    )
    _set(wire.create_time, event.create_time)
    return wire


def wire_operation(operation: Operation) -> pb.Operation:
    """An operation for the wire."""
    wire = pb.Operation(
        operation_id=operation.operation_id,
        kind=operation.kind,
        state=operation.state,
        subject=operation.subject,
    )
    for step in operation.steps:
        made = wire.steps.add(name=step.name, done=step.done, attempt_count=step.attempts)
        for store, removed, remaining in step.counts:
            made.counts.add(store=store, removed=removed, remaining=remaining)
    if operation.failure is not None:
        wire.failure.ParseFromString(operation.failure)
    _set(wire.create_time, operation.create_time)
    if operation.end_time is not None:
        _set(wire.end_time, operation.end_time)
    return wire


def wire_part(part: Part) -> pb.ContextPart:
    """A part of a prompt for the wire."""
    return pb.ContextPart(kind=part.kind, id=part.id, role=part.role, text=part.text, token_count=part.tokens)


def wire_usage(row: UsageRow) -> pb.UsageRow:
    """Usage of one day, model and purpose for the wire."""
    return pb.UsageRow(day=row.day, model=row.model, usage=wire_bill(row.bill), purpose=row.purpose)


def _check_agent(agent: pb.Agent) -> None:
    metadata_of(agent.metadata, "agent.metadata")
    for index, name in enumerate(agent.tools):
        if name not in TOOLS:
            raise invalid(f"agent.tools[{index}]", f"there is no tool '{name}'", tool=name)
    _check_client_tools(agent.client_tools)
    window = agent.window
    both = window.HasField("target_fraction") and window.HasField("flush_fraction")
    if both and window.target_fraction >= window.flush_fraction:
        raise invalid("agent.window.target_fraction", "must be below flush_fraction")
    later = {
        "augmented memory": agent.memory_mode not in (pb.MEMORY_MODE_UNSPECIFIED, pb.MEMORY_MODE_SELF_DIRECTED),
        "tool rules": bool(agent.tool_rules),
        "routing by complexity": agent.model.route_by_complexity,
    }
    for name, wanted in later.items():
        if wanted:
            raise not_implemented(name)


def _check_client_tools(tools: Sequence[pb.ClientTool]) -> None:
    seen = set(TOOLS)
    for index, tool in enumerate(tools):
        at = f"agent.client_tools[{index}]"
        if tool.name in seen:
            raise invalid(f"{at}.name", f"there is a tool '{tool.name}' already", tool=tool.name)
        seen.add(tool.name)
        try:
            schema = client_parameters(tool)
            Draft202012Validator.check_schema(schema)
        except (ValueError, RecursionError):
            raise invalid(f"{at}.parameters_json", "is no JSON", tool=tool.name) from None
        except SchemaError as error:
            raise invalid(f"{at}.parameters_json", f"is no JSON schema: {error.message}", tool=tool.name) from None
        if not isinstance(schema, dict) or schema.get("type") != "object":
            raise invalid(f"{at}.parameters_json", "must describe an object", tool=tool.name)


def check_etag(agent: Agent, etag: str) -> None:
    """Raises:
    Error: ETAG_MISMATCH, when the agent changed since it was read.
    """
    if etag and etag != str(agent.version):
        raise Error(
            errors_pb2.REASON_ETAG_MISMATCH,
            f'{agent.agent_id} changed since it was read (etag "{etag}", now "{agent.version}")',
            metadata={"resource": agent.agent_id, "etag": etag, "current_etag": str(agent.version)},
        )


def _set(target: Timestamp, moment: datetime) -> None:
    target.FromDatetime(moment)
