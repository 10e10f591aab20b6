"""Rows of `recall.messages` to records, and filters to conditions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mneme.recall.records import Filter, Message, ToolCall

MESSAGE_COLUMNS = """
    m.id, m.agent_id, m.conversation_id, m.user_id, m.sequence_id, m.role, m.text, m.content, m.tool_calls,
    m.tool_call_id, m.tool_ok, m.created_at, m.step_id, m.run_id, m.token_count, m.provenance, m.hidden,
    m.index_state, m.speaker, m.kind"""


def message_of(row: Mapping[str, Any]) -> Message:
    """Returns the message in a row with `MESSAGE_COLUMNS`."""
    return Message(
        message_id=row["id"],
        agent_id=row["agent_id"],
        conversation_id=row["conversation_id"],
        user_id=row["user_id"],
        sequence=row["sequence_id"],
        role=row["role"],
        text=row["text"],
        content=row["content"],
        tool_calls=tuple(ToolCall(call["id"], call["name"], call["arguments"]) for call in row["tool_calls"]),
        tool_call_id=row["tool_call_id"],
        tool_ok=row["tool_ok"],
        created_at=row["created_at"],
        step_id=row["step_id"],
        run_id=row["run_id"],
        token_count=row["token_count"],
        provenance=row["provenance"],
        hidden=row["hidden"],
        index_state=row["index_state"],
        speaker=row["speaker"],
        kind=row["kind"],
    )


def condition_of(wanted: Filter, tenant: str) -> tuple[str, dict[str, Any]]:
    """Returns the SQL condition of a filter on `m`, the table of messages, with its parameters."""
    parts = ["m.tenant_id = %(tenant)s", "m.agent_id = %(agent)s"]
    if wanted.conversation_id:
        parts.append("m.conversation_id = %(conversation)s")
    if wanted.user_id:
        parts.append("m.user_id = %(user)s")
    if wanted.roles:
        parts.append("m.role = ANY(%(roles)s)")
    if wanted.start is not None:
        parts.append("m.created_at >= %(start)s")
    if wanted.end is not None:
        parts.append("m.created_at < %(end)s")
    if not wanted.include_hidden:
        parts.append("NOT m.hidden")
    if wanted.before_sequence:
        parts.append("m.sequence_id < %(before)s")
    parameters = {
        "tenant": tenant,
        "agent": wanted.agent_id,
        "conversation": wanted.conversation_id,
        "user": wanted.user_id,
        "roles": list(wanted.roles),
        "start": wanted.start,
        "end": wanted.end,
        "before": wanted.before_sequence,
    }
    return " AND ".join(parts), parameters
