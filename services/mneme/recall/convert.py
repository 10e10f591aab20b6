"""Wire messages to records and back."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from google.protobuf.timestamp_pb2 import Timestamp

from mneme.common.v1 import common_pb2
from mneme.errors.v1 import errors_pb2
from mneme.recall import civil, rules
from mneme.recall.records import Filter, Hit, Message, NewMessage, Summary, ToolCall
from mneme.recall.v1 import recall_pb2 as pb
from mneme.runtime import call, ids
from mneme.runtime.errors import invalid


def new_message(message: pb.Message) -> NewMessage:
    """Returns what a writer handed in; an absent id becomes a new one."""
    given = message.HasField
    return NewMessage(
        message_id=message.message_id or ids.new("message"),
        role=message.role,
        text=message.text,
        content=message.content_json,
        tool_calls=tuple(ToolCall(one.id, one.name, one.arguments_json) for one in message.tool_calls),
        tool_call_id=message.tool_call_id,
        tool_ok=message.tool_ok if given("tool_ok") else None,
        created_at=message.create_time.ToDatetime(UTC) if given("create_time") else None,
        step_id=message.step_id,
        run_id=message.run_id,
        token_count=message.token_count,
        provenance=message.provenance.SerializeToString(deterministic=True) if given("provenance") else None,
        from_recall=message.provenance.from_recall,
        hidden=message.hidden,
        speaker=message.speaker,
        kind=message.kind or rules.usual_kind(message.role),
    )


def wire_message(message: Message, *, with_text: bool = True) -> pb.Message:
    """Returns a stored message for the wire, with or without its text, content and tool calls."""
    wire = pb.Message(
        message_id=message.message_id,
        agent_id=message.agent_id,
        conversation_id=message.conversation_id,
        user_id=message.user_id,
        sequence=message.sequence,
        role=pb.Role.ValueType(message.role),
        tool_call_id=message.tool_call_id,
        tool_ok=message.tool_ok,
        step_id=message.step_id,
        run_id=message.run_id,
        token_count=message.token_count,
        index_state=common_pb2.IndexState.ValueType(message.index_state),
        hidden=message.hidden,
        speaker=message.speaker,
        kind=pb.MessageKind.ValueType(message.kind),
    )
    if message.created_at is not None:
        wire.create_time.FromDatetime(message.created_at)
    if not with_text:
        return wire
    wire.text = message.text
    wire.content_json = message.content
    if message.provenance is not None:
        wire.provenance.ParseFromString(message.provenance)
    for one in message.tool_calls:
        wire.tool_calls.add(id=one.call_id, name=one.name, arguments_json=one.arguments_json)
    return wire


def exported_message(message: Message) -> pb.Message:
    """Returns a stored message for an export: what was said, not how far its indexing is."""
    wire = wire_message(message)
    wire.ClearField("index_state")
    return wire


def wire_summary(summary: Summary) -> pb.ConversationSummary:
    """Returns a version of a summary for the wire."""
    wire = pb.ConversationSummary(
        conversation_id=summary.conversation_id,
        version=summary.version,
        text=summary.text,
        first_kept_sequence=summary.first_kept_sequence,
    )
    wire.create_time.FromDatetime(summary.create_time)
    return wire


def wire_hit(hit: Hit) -> pb.SearchResult:
    """Returns a search result without neighbours."""
    candidate = hit.candidate
    parts = common_pb2.ScoreParts(cosine=candidate.cosine, bm25=candidate.bm25, rerank=hit.rerank)
    return pb.SearchResult(message=wire_message(candidate.message), score=hit.score, parts=parts)


def filter_of(agent_id: str, wanted: pb.MessageFilter) -> Filter:
    """Returns the filter of a read, narrowed to the credential's user.

    Raises:
        Error: USER_NOT_ALLOWED; INVALID_TIME_RANGE; INVALID_FIELD for a sequence without its conversation, or for days
            that no calendar has.
    """
    if wanted.before_sequence and not wanted.conversation_id:
        raise invalid("filter.before_sequence", "needs filter.conversation_id")
    start, end = _bound(wanted.time_range, "start"), _bound(wanted.time_range, "end")
    days = wanted.dates
    first, last = civil.span(days.first, days.last, days.time_zone, field="filter.dates")
    if start is not None and end is not None and end < start:
        problem = f"end {end.isoformat()} is before start {start.isoformat()}"
        raise invalid("filter.time_range", problem, errors_pb2.REASON_INVALID_TIME_RANGE)
    return Filter(
        agent_id=agent_id,
        conversation_id=wanted.conversation_id,
        user_id=call.acting_user(wanted.user_id),
        roles=tuple(wanted.roles),
        start=max((one for one in (start, first) if one is not None), default=None),
        end=min((one for one in (end, last) if one is not None), default=None),
        include_hidden=wanted.include_hidden,
        before_sequence=wanted.before_sequence,
    )


def asked_at(query: pb.HybridQuery) -> datetime:
    """Returns when a question is asked, in the time zone of the asker.

    Raises:
        Error: INVALID_FIELD for an unknown time zone.
    """
    try:
        zone = ZoneInfo(query.time_zone or "UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise invalid("hybrid.time_zone", "is no time zone that is known here") from None
    return query.asked_time.ToDatetime(UTC).astimezone(zone) if query.HasField("asked_time") else datetime.now(zone)


def _bound(time_range: common_pb2.TimeRange, name: str) -> datetime | None:
    if not time_range.HasField(name):  # type: ignore[arg-type]
        return None
    bound: Timestamp = getattr(time_range, name)
    return bound.ToDatetime(UTC)
