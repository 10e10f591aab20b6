"""From rows to values, and the conditions that several statements share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mneme.orchestrator.records import (
    Agent,
    Bill,
    Conversation,
    Event,
    Fence,
    Operation,
    OperationStep,
    Run,
    Step,
    StoredEvents,
    Timer,
)

Row = Mapping[str, Any]

BILL_COLUMNS = "input_tokens, output_tokens, cache_read_tokens, cache_write_tokens"

# The first part of every write of the loop. The lock holds a takeover back until the write is committed, and a
# takeover committed before makes the condition false: there is no moment in which two workers can both write.
FENCE = """
fence AS MATERIALIZED (
    SELECT l.conversation_id, l.nudged FROM orchestrator.conversation_lease AS l
    WHERE l.conversation_id = %(conversation_id)s AND l.tenant_id = %(tenant)s AND l.run_id = %(run_id)s
      AND l.worker_id = %(worker_id)s AND l.epoch = %(epoch)s
    FOR UPDATE
)"""

ADD_EVENTS = """
added AS (
    INSERT INTO orchestrator.run_event (tenant_id, run_id, sequence, payload)
    SELECT %(tenant)s, %(run_id)s, e.sequence, e.payload
    FROM fence, unnest(%(sequences)s::bigint[], %(payloads)s::bytea[]) AS e (sequence, payload)
)"""


def fence_parameters(fence: Fence) -> dict[str, Any]:
    """The named parameters of `FENCE`."""
    return {
        "tenant": fence.tenant,
        "conversation_id": fence.conversation_id,
        "run_id": fence.run_id,
        "worker_id": fence.worker_id,
        "epoch": fence.epoch,
    }


def event_parameters(events: StoredEvents) -> dict[str, Any]:
    """The named parameters of `ADD_EVENTS`, and the run's last sequence after it (0 for no change)."""
    return {
        "sequences": list(events.sequences),
        "payloads": list(events.payloads),
        "last_sequence": events.last_sequence,
    }


def bill_of(row: Row) -> Bill:
    """Tokens and cost."""
    return Bill(
        row["input_tokens"],
        row["output_tokens"],
        row["cache_read_tokens"],
        row["cache_write_tokens"],
        row.get("model_calls", 1),
        row["cost_micro_usd"],
    )


def bill_parameters(bill: Bill) -> dict[str, int]:
    """The named parameters of a bill's columns."""
    return {
        "input_tokens": bill.input_tokens,
        "output_tokens": bill.output_tokens,
        "cache_read_tokens": bill.cache_read_tokens,
        "cache_write_tokens": bill.cache_write_tokens,
        "model_calls": bill.model_calls,
        "cost_micro_usd": bill.cost_micro_usd,
    }


def agent_of(row: Row) -> Agent:
    """An agent."""
    return Agent(
        row["agent_id"],
        row["user_id"],
        row["state"],
        row["version"],
        bytes(row["definition"]),
        row["operation_id"],
        row["create_time"],
        row["update_time"],
    )


def conversation_of(row: Row) -> Conversation:
    """A conversation, from a row that holds its lease and its queue's length too."""
    return Conversation(
        row["conversation_id"],
        row["agent_id"],
        row["user_id"],
        row["display_name"],
        row["metadata_"],
        row["deleting"],
        row["queued"],
        row["active_run_id"],
        row["create_time"],
        row["update_time"],
    )


def run_of(row: Row) -> Run:
    """A run."""
    return Run(
        run_id=row["run_id"],
        agent_id=row["agent_id"],
        conversation_id=row["conversation_id"],
        user_id=row["user_id"],
        event_id=row["event_id"],
        event_kind=row["event_kind"],
        state=row["state"],
        stop_reason=row["stop_reason"],
        failure=row["failure"],
        ahead_count=row["ahead_count"],
        step_count=row["step_count"],
        attempt=row["attempt"],
        begun_count=row["begun_count"],
        cancel_requested=row["cancel_requested"],
        waiting_call=row["waiting_call"],
        waiting_approval=row["waiting_approval"],
        bill=bill_of(row),
        last_sequence=row["last_sequence"],
        create_time=row["create_time"],
        start_time=row["start_time"],
        end_time=row["end_time"],
    )


def step_of(row: Row) -> Step:
    """An entry of the journal."""
    return Step(
        step_id=row["step_id"],
        run_id=row["run_id"],
        agent_id=row["agent_id"],
        conversation_id=row["conversation_id"],
        user_id=row["user_id"],
        number=row["number"],
        attempt=row["attempt"],
        model=row["model"],
        model_reason=row["model_reason"],
        output=row["output"],
        inputs=tuple(row["inputs"]),
        expected_sequence=row["expected_sequence"],
        bill=bill_of(row),
        model_microseconds=row["model_microseconds"],
        prompt_sha256=row["prompt_sha256"],
        render_version=row["render_version"],
        references=tuple((kind, found, tokens) for kind, found, tokens in row["references_"]),
        done=row["done"],
        continue_reason=row["continue_reason"],
        create_time=row["create_time"],
    )


def timer_of(row: Row) -> Timer:
    """A scheduled event."""
    return Timer(
        row["timer_id"],
        row["agent_id"],
        row["conversation_id"],
        row["user_id"],
        row["actor"],
        row["text"],
        row["cron"],
        row["time_zone"],
        row["next_time"],
        row["last_time"],
        row["create_time"],
    )


def operation_of(row: Row) -> Operation:
    """An operation with its steps."""
    steps = tuple(
        OperationStep(s["name"], s["done"], s["attempts"], tuple((c[0], c[1], c[2]) for c in s["counts"]))
        for s in row["steps"]
    )
    return Operation(
        row["operation_id"],
        row["kind"],
        row["state"],
        row["subject"],
        row["user_id"],
        row["actor"],
        bytes(row["input"]),
        row["create_time"],
        steps,
        row["failure"],
        row["end_time"],
    )


def event_of(row: Row, *, time: str = "create_time") -> Event:
    """The event in a row of `event`, whose time may go by another name where other tables are joined."""
    return Event(
        event_id=row["event_id"],
        kind=row["kind"],
        text=row["text"],
        actor=row["actor"],
        speaker=row["speaker"],
        bypass_cache=row["bypass_cache"],
        create_time=row[time],
    )
