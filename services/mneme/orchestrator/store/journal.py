"""The journal: what a model wrote is stored here before anything follows from it, and only by the lease's holder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg.errors import UniqueViolation
from psycopg.types.json import Jsonb

from mneme.orchestrator.records import CallResult, Ending, Fence, LeaseLostError, Step, StoredEvents
from mneme.orchestrator.store.mailbox import set_flags
from mneme.orchestrator.store.rows import (
    ADD_EVENTS,
    BILL_COLUMNS,
    FENCE,
    Row,
    bill_parameters,
    event_parameters,
    fence_parameters,
    step_of,
)
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.runtime.db import Connection

_COMMIT = f"""
WITH {FENCE}, {ADD_EVENTS}, written AS (
    INSERT INTO orchestrator.step
        (tenant_id, step_id, run_id, agent_id, conversation_id, user_id, number, attempt, model, model_reason, output,
         inputs, expected_sequence, {BILL_COLUMNS}, cost_micro_usd, model_microseconds, prompt_sha256, render_version,
         references_)
    SELECT %(tenant)s, %(step_id)s, %(run_id)s, %(agent_id)s, %(conversation_id)s, %(user_id)s, %(number)s,
           %(attempt)s, %(model)s, %(model_reason)s, %(output)s, %(inputs)s, %(expected_sequence)s, %(input_tokens)s,
           %(output_tokens)s, %(cache_read_tokens)s, %(cache_write_tokens)s, %(cost_micro_usd)s,
           %(model_microseconds)s, %(prompt_sha256)s, %(render_version)s, %(references)s
    FROM fence
)
UPDATE orchestrator.run AS r
SET step_count = %(number)s, attempt = %(attempt)s, last_sequence = GREATEST(r.last_sequence, %(last_sequence)s),
    input_tokens = r.input_tokens + %(input_tokens)s, output_tokens = r.output_tokens + %(output_tokens)s,
    cache_read_tokens = r.cache_read_tokens + %(cache_read_tokens)s,
    cache_write_tokens = r.cache_write_tokens + %(cache_write_tokens)s,
    model_calls = r.model_calls + %(model_calls)s, cost_micro_usd = r.cost_micro_usd + %(cost_micro_usd)s
FROM fence WHERE r.tenant_id = %(tenant)s AND r.run_id = %(run_id)s
RETURNING r.cancel_requested
"""  # noqa: S608

_STEP_DONE = """
stepped AS (
    UPDATE orchestrator.step AS s SET done = true, continue_reason = %(continue_reason)s
    FROM fence WHERE s.tenant_id = %(tenant)s AND s.step_id = %(step_id)s
)"""

_CHECKPOINT = f"""
WITH {FENCE}, {ADD_EVENTS}, {_STEP_DONE}
UPDATE orchestrator.run AS r
SET last_sequence = GREATEST(r.last_sequence, %(last_sequence)s), attempt = %(attempt)s
FROM fence WHERE r.tenant_id = %(tenant)s AND r.run_id = %(run_id)s
RETURNING r.cancel_requested
"""  # noqa: S608

_FINISH = f"""
WITH {FENCE}, {ADD_EVENTS}, {_STEP_DONE}, delivered AS (
    DELETE FROM orchestrator.mailbox AS m USING fence
    WHERE m.conversation_id = %(conversation_id)s AND m.run_id = %(run_id)s
), freed AS (
    UPDATE orchestrator.conversation_lease AS l SET run_id = '', waiting_until = NULL, update_time = now()
    FROM fence WHERE l.conversation_id = fence.conversation_id
), ended AS (
    UPDATE orchestrator.run AS r
    SET state = %(state)s, stop_reason = %(stop_reason)s, failure = %(failure)s, end_time = now(),
        last_sequence = GREATEST(r.last_sequence, %(last_sequence)s), attempt = %(attempt)s
    FROM fence WHERE r.tenant_id = %(tenant)s AND r.run_id = %(run_id)s
    RETURNING r.agent_id, r.user_id
), active AS (
    INSERT INTO orchestrator.user_activity AS u (tenant_id, agent_id, user_id, model_run_count)
    SELECT %(tenant)s, agent_id, user_id, 1 FROM ended WHERE %(model_asked)s
    ON CONFLICT (tenant_id, agent_id, user_id) DO UPDATE SET model_run_count = u.model_run_count + 1
    RETURNING model_run_count
)
SELECT (SELECT model_run_count FROM active) AS model_run_count, (SELECT nudged FROM fence) AS nudged FROM ended
"""  # noqa: S608

_DEAD_LETTER = """
INSERT INTO orchestrator.dead_letter
    (tenant_id, event_id, run_id, agent_id, conversation_id, user_id, kind, failure, attempt_count)
SELECT r.tenant_id, r.event_id, r.run_id, r.agent_id, r.conversation_id, r.user_id, r.event_kind, r.failure, r.attempt
FROM orchestrator.run AS r WHERE r.tenant_id = %(tenant)s AND r.run_id = %(run_id)s
ON CONFLICT (tenant_id, event_id) DO UPDATE
SET failure = excluded.failure, attempt_count = excluded.attempt_count, create_time = now()
"""

_MODEL_RUN_COUNT = """
SELECT model_run_count FROM orchestrator.user_activity
WHERE tenant_id = %(tenant)s AND agent_id = %(agent_id)s AND user_id = %(user_id)s
"""

_PARK = f"""
WITH {FENCE}, {ADD_EVENTS}, parked AS (
    UPDATE orchestrator.conversation_lease AS l SET waiting_until = %(until)s, update_time = now()
    FROM fence WHERE l.conversation_id = fence.conversation_id
)
UPDATE orchestrator.run AS r
SET state = %(waiting)s, waiting_call = %(call_id)s, waiting_approval = %(for_approval)s,
    last_sequence = GREATEST(r.last_sequence, %(last_sequence)s)
FROM fence WHERE r.tenant_id = %(tenant)s AND r.run_id = %(run_id)s
RETURNING r.cancel_requested
"""  # noqa: S608

_KEEP_RESULT = """
INSERT INTO orchestrator.call_result AS c (tenant_id, run_id, call_id, approved, ok, text, details)
VALUES (%(tenant)s, %(run_id)s, %(call_id)s, %(approved)s, %(ok)s, %(text)s, %(details)s)
ON CONFLICT (tenant_id, run_id, call_id) DO UPDATE
SET approved = coalesce(excluded.approved, c.approved), ok = excluded.ok, text = excluded.text,
    details = excluded.details
"""


@dataclass(frozen=True, slots=True)
class Finished:
    """What the end of a run brought to light."""

    model_run_count: int
    """The user's runs with the agent that have asked a model; 0 when this one did not."""
    nudged: bool
    """True when other events of the conversation may wait."""


async def commit(tx: Connection, fence: Fence, step: Step, events: StoredEvents, *, warned: bool | None = None) -> bool:
    """Stores a model's output; returns whether the run is to be cancelled.

    Args:
        warned: Notes whether the model knows of memory pressure; None leaves it.

    Raises:
        LeaseLostError: Another worker holds the conversation: nothing was stored, and nothing may follow.
    """
    parameters: dict[str, Any] = {
        **fence_parameters(fence),
        **event_parameters(events),
        **bill_parameters(step.bill),
        "step_id": step.step_id,
        "agent_id": step.agent_id,
        "user_id": step.user_id,
        "number": step.number,
        "attempt": step.attempt,
        "model": step.model,
        "model_reason": step.model_reason,
        "output": Jsonb(step.output),
        "inputs": Jsonb(list(step.inputs)),
        "expected_sequence": step.expected_sequence,
        "model_microseconds": step.model_microseconds,
        "prompt_sha256": step.prompt_sha256,
        "render_version": step.render_version,
        "references": Jsonb(list(step.references)),
    }
    row = await _written(tx, _COMMIT, parameters)
    if warned is not None:
        await set_flags(tx, fence.conversation_id, warned=warned)
    return bool(row["cancel_requested"])


async def checkpoint(
    tx: Connection,
    fence: Fence,
    events: StoredEvents,
    *,
    attempt: int,
    step_id: str = "",
    continue_reason: str = "",
    warned: bool | None = None,
    pause: timedelta | None = None,
) -> bool:
    """Stores events of a run that goes on, and marks a step as done; returns whether it is to be cancelled.

    Raises:
        LeaseLostError: Another worker holds the conversation.
    """
    parameters = {
        **fence_parameters(fence),
        **event_parameters(events),
        "attempt": attempt,
        "step_id": step_id,
        "continue_reason": continue_reason,
    }
    row = await _written(tx, _CHECKPOINT, parameters)
    if warned is not None or pause is not None:
        await set_flags(tx, fence.conversation_id, warned=warned, pause=pause)
    return bool(row["cancel_requested"])


async def finish(
    tx: Connection,
    fence: Fence,
    ending: Ending,
    events: StoredEvents,
    *,
    attempt: int,
    step_id: str = "",
    pause: timedelta | None = None,
) -> Finished:
    """Ends a run and frees its conversation.

    Raises:
        LeaseLostError: Another worker holds the conversation.
    """
    parameters = {
        **fence_parameters(fence),
        **event_parameters(events),
        "attempt": attempt,
        "step_id": step_id,
        "continue_reason": "",
        "state": ending.state,
        "stop_reason": ending.stop_reason,
        "failure": ending.failure,
        "model_asked": ending.model_asked,
    }
    row = await _written(tx, _FINISH, parameters)
    if ending.dead_letter:
        await tx.execute(_DEAD_LETTER, parameters)
    if pause is not None:
        await set_flags(tx, fence.conversation_id, pause=pause)
    return Finished(row["model_run_count"] or 0, row["nudged"])


async def park(
    tx: Connection,
    fence: Fence,
    events: StoredEvents,
    *,
    call_id: str,
    for_approval: bool,
    until: datetime,
    results: Sequence[CallResult],
) -> bool:
    """Lets a run wait for its caller; its conversation stays taken. Returns whether it is to be cancelled instead.

    Args:
        call_id: What the caller must answer.
        until: When the run goes on without an answer.
        results: Of the step's calls before it, which are not made again.

    Raises:
        LeaseLostError: Another worker holds the conversation.
    """
    parameters = {
        **fence_parameters(fence),
        **event_parameters(events),
        "call_id": call_id,
        "for_approval": for_approval,
        "until": until,
        "waiting": pb.RUN_STATE_WAITING,
    }
    row = await _written(tx, _PARK, parameters)
    for result in results:
        await keep_result(tx, fence.tenant, fence.run_id, result)
    return bool(row["cancel_requested"])


async def keep_result(tx: Connection, tenant: str, run_id: str, result: CallResult) -> None:
    """Stores what is known of a call of an interrupted step."""
    parameters = {
        "tenant": tenant,
        "run_id": run_id,
        "call_id": result.call_id,
        "approved": result.approved,
        "ok": result.ok,
        "text": result.text,
        "details": Jsonb(dict(result.details)),
    }
    await tx.execute(_KEEP_RESULT, parameters)


async def _written(tx: Connection, statement: str, parameters: dict[str, Any]) -> Row:
    """The row of a fenced statement.

    Raises:
        LeaseLostError: The fence did not hold, or what is to be written is there already: a transaction whose end
            this attempt never learned of had been committed. Either way the next attempt knows better.
    """
    try:
        row = await (await tx.execute(statement, parameters)).fetchone()
    except UniqueViolation as error:
        raise LeaseLostError from error
    if row is None:
        raise LeaseLostError
    return row


async def model_run_count(tx: Connection, tenant: str, agent_id: str, user_id: str) -> int:
    """How many of a user's runs with an agent have asked a model."""
    parameters = {"tenant": tenant, "agent_id": agent_id, "user_id": user_id}
    row = await (await tx.execute(_MODEL_RUN_COUNT, parameters)).fetchone()
    return row["model_run_count"] if row else 0


async def steps_of(tx: Connection, tenant: str, run_id: str) -> list[Step]:
    """The steps of a run, in order."""
    query = "SELECT * FROM orchestrator.step WHERE tenant_id = %(tenant)s AND run_id = %(run_id)s ORDER BY number"
    rows = await (await tx.execute(query, {"tenant": tenant, "run_id": run_id})).fetchall()
    return [step_of(row) for row in rows]
