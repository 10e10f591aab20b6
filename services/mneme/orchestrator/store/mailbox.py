"""Mailboxes and leases: which event is worked on next, and by whom.

A conversation is taken by setting `run_id` of its lease. Its `epoch` grows whenever another worker takes it, or when
a run is taken up again, so what a former holder still wants to write meets a fence that no longer holds. Whoever
adds to a mailbox or takes from it holds the row lock of the lease until it commits, so neither can miss the other.
"""

from __future__ import annotations

from datetime import timedelta

from mneme.orchestrator.records import PRIORITY, Accepted, CallResult, Event, Fence, Incoming, Run, Work
from mneme.orchestrator.store.rows import FENCE, Row, event_of, fence_parameters, run_of, step_of
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.runtime.db import Connection

CHANNEL = "mneme_orchestrator"
"""Where hints of waiting events are notified."""

_ACCEPT = """
WITH subject AS MATERIALIZED (
    SELECT c.agent_id, c.user_id, c.deleting, a.state AS agent_state, a.version, a.definition
    FROM orchestrator.conversation AS c
    JOIN orchestrator.agent AS a ON a.tenant_id = c.tenant_id AND a.agent_id = c.agent_id
    WHERE c.tenant_id = %(tenant)s AND c.conversation_id = %(conversation_id)s
      AND %(bound_user)s IN ('', c.user_id)
), fresh AS (
    INSERT INTO orchestrator.event
        (tenant_id, event_id, request_id, request_sha256, agent_id, conversation_id, run_id, user_id, actor, kind,
         text, speaker, bypass_cache)
    SELECT %(tenant)s, %(event_id)s, %(request_id)s, %(request_sha256)s, agent_id, %(conversation_id)s, %(run_id)s,
           user_id, %(actor)s, %(kind)s, %(text)s, %(speaker)s, %(bypass_cache)s
    FROM subject WHERE NOT deleting AND agent_state = %(ready)s
    ON CONFLICT (tenant_id, request_id) DO NOTHING
    RETURNING create_time
), lease AS MATERIALIZED (
    SELECT l.run_id FROM orchestrator.conversation_lease AS l, fresh
    WHERE l.conversation_id = %(conversation_id)s FOR UPDATE OF l
), ahead AS (
    SELECT count(*)::integer AS count FROM orchestrator.mailbox WHERE conversation_id = %(conversation_id)s
), taken AS (
    UPDATE orchestrator.conversation_lease AS l
    SET run_id = %(run_id)s, epoch = l.epoch + (l.worker_id <> %(worker_id)s)::integer, worker_id = %(worker_id)s,
        update_time = now()
    FROM lease, ahead
    WHERE %(take)s AND l.conversation_id = %(conversation_id)s AND lease.run_id = '' AND ahead.count = 0
      AND EXISTS (SELECT FROM orchestrator.worker AS w
                  WHERE w.worker_id = %(worker_id)s AND w.expire_time > now())
    RETURNING l.epoch, l.warned
), nudge AS (
    UPDATE orchestrator.conversation_lease AS l SET nudged = true
    FROM lease WHERE l.conversation_id = %(conversation_id)s AND NOT EXISTS (SELECT FROM taken)
), queued AS (
    INSERT INTO orchestrator.mailbox (event_id, tenant_id, conversation_id, run_id, priority)
    SELECT %(event_id)s, %(tenant)s, %(conversation_id)s, %(run_id)s, %(priority)s FROM fresh
), begun AS (
    INSERT INTO orchestrator.run
        (tenant_id, run_id, agent_id, conversation_id, user_id, event_id, event_kind, ahead_count, state, attempt,
         begun_count, start_time)
    SELECT %(tenant)s, %(run_id)s, s.agent_id, %(conversation_id)s, s.user_id, %(event_id)s, %(kind)s, ahead.count,
           CASE WHEN taken.epoch IS NULL THEN %(queued)s ELSE %(running)s END, (taken.epoch IS NOT NULL)::integer,
           (taken.epoch IS NOT NULL)::integer,
           CASE WHEN taken.epoch IS NOT NULL THEN now() END
    FROM fresh, subject AS s, ahead LEFT JOIN taken ON true
    RETURNING run.*
), hint AS (
    SELECT pg_notify(%(channel)s, '') FROM lease
    WHERE lease.run_id = '' AND NOT EXISTS (SELECT FROM taken)
)
SELECT s.agent_id, s.user_id, s.deleting, s.agent_state, s.version, s.definition, b.*,
       (SELECT epoch FROM taken) AS epoch, (SELECT warned FROM taken) AS warned, (SELECT count(*) FROM hint)
FROM subject AS s LEFT JOIN begun AS b ON true
"""

_REPEATED = """
SELECT e.request_sha256 = %(request_sha256)s AS same, r.*
FROM orchestrator.event AS e
JOIN orchestrator.run AS r ON r.tenant_id = e.tenant_id AND r.run_id = e.run_id
WHERE e.tenant_id = %(tenant)s AND e.request_id = %(request_id)s
"""

# A class lower for every full ageing time that an event has waited.
_CLASS = "GREATEST(m.priority - floor(extract(epoch FROM now() - m.arrival) / %(ageing)s), 0)"

# Free, or held by a process that is dead or (this one) has forgotten it, or its caller has not answered in time.
_TAKEABLE = """
(l.waiting_until <= now() OR (l.waiting_until IS NULL AND (
    l.run_id = '' OR (l.worker_id = %(worker_id)s AND l.conversation_id <> ALL (%(held)s::text[]))
    OR NOT EXISTS (SELECT FROM orchestrator.worker AS w
                   WHERE w.worker_id = l.worker_id AND w.expire_time > now()))))"""

_NOT_PAUSED = f"(m.priority < {PRIORITY[pb.EVENT_KIND_TIMED]} OR coalesce(l.paused_until, '-infinity') <= now())"

_CLAIM = f"""
WITH head AS (
    SELECT DISTINCT ON (m.conversation_id) m.conversation_id, m.run_id, {_CLASS} AS class, m.arrival
    FROM orchestrator.mailbox AS m
    JOIN orchestrator.conversation_lease AS l ON l.conversation_id = m.conversation_id
    WHERE {_TAKEABLE} AND (l.run_id <> '' OR {_NOT_PAUSED})
    ORDER BY m.conversation_id, class, m.arrival, m.event_id
), picked AS (
    SELECT l.conversation_id, head.run_id
    FROM head JOIN orchestrator.conversation_lease AS l ON l.conversation_id = head.conversation_id
    WHERE {_TAKEABLE}
    ORDER BY l.run_id = '', head.class, head.arrival
    LIMIT %(limit)s
    FOR UPDATE OF l SKIP LOCKED
)
UPDATE orchestrator.conversation_lease AS l
SET epoch = l.epoch + (l.worker_id <> %(worker_id)s OR l.run_id <> '')::integer, worker_id = %(worker_id)s,
    run_id = CASE WHEN l.run_id = '' THEN picked.run_id ELSE l.run_id END, waiting_until = NULL, update_time = now()
FROM picked WHERE l.conversation_id = picked.conversation_id
RETURNING l.tenant_id, l.conversation_id, l.run_id, l.epoch
"""  # noqa: S608

# A run that goes on after its caller was asked is the same attempt; the sub-selects see the run as it was before.
_BEGIN = f"""
WITH {FENCE}, before AS MATERIALIZED (
    SELECT CASE WHEN r.state = %(waiting)s THEN r.waiting_call ELSE '' END AS expired_call,
           r.state = %(waiting)s OR (r.state = %(queued)s AND r.begun_count > 0) AS resumed
    FROM orchestrator.run AS r, fence WHERE r.tenant_id = %(tenant)s AND r.run_id = %(run_id)s
), begun AS (
    UPDATE orchestrator.run AS r
    SET state = %(running)s, attempt = r.attempt + (NOT before.resumed)::integer,
        begun_count = r.begun_count + (NOT before.resumed)::integer, waiting_call = '',
        start_time = coalesce(r.start_time, now())
    FROM before, orchestrator.mailbox AS m
    WHERE r.tenant_id = %(tenant)s AND r.run_id = %(run_id)s AND m.event_id = r.event_id
    RETURNING r.*
)
SELECT b.*, e.kind, e.text, e.actor, e.speaker, e.bypass_cache, e.create_time AS event_time, a.definition, a.version,
       (SELECT warned FROM orchestrator.conversation_lease WHERE conversation_id = %(conversation_id)s) AS warned,
       before.resumed, before.expired_call
FROM before, begun AS b
JOIN orchestrator.event AS e ON e.tenant_id = b.tenant_id AND e.event_id = b.event_id
JOIN orchestrator.agent AS a ON a.tenant_id = b.tenant_id AND a.agent_id = b.agent_id
"""  # noqa: S608

_RESULTS = """
SELECT call_id, approved, ok, text, details FROM orchestrator.call_result
WHERE tenant_id = %(tenant)s AND run_id = %(run_id)s
"""

_STEPS = "SELECT * FROM orchestrator.step WHERE tenant_id = %(tenant)s AND run_id = %(run_id)s ORDER BY number"

_RELEASE = f"""
WITH {FENCE}
UPDATE orchestrator.conversation_lease AS l SET run_id = '', update_time = now()
FROM fence WHERE l.conversation_id = fence.conversation_id
RETURNING l.conversation_id
"""  # noqa: S608

_TAKE_NEXT = f"""
UPDATE orchestrator.conversation_lease AS l
SET run_id = coalesce((
    SELECT m.run_id FROM orchestrator.mailbox AS m
    WHERE m.conversation_id = l.conversation_id AND {_NOT_PAUSED}
    ORDER BY {_CLASS}, m.arrival, m.event_id LIMIT 1), ''),
    nudged = (SELECT count(*) FROM orchestrator.mailbox AS m WHERE m.conversation_id = l.conversation_id) > 1
WHERE l.conversation_id = %(conversation_id)s AND l.worker_id = %(worker_id)s AND l.epoch = %(epoch)s
  AND l.run_id = ''
RETURNING l.run_id
"""  # noqa: S608

_SET_FLAGS = """
UPDATE orchestrator.conversation_lease
SET warned = coalesce(%(warned)s, warned),
    paused_until = CASE WHEN %(pause)s::interval IS NULL THEN paused_until ELSE now() + %(pause)s::interval END
WHERE conversation_id = %(conversation_id)s
"""

_RENEW = """
INSERT INTO orchestrator.worker AS w (worker_id, address, expire_time)
VALUES (%(worker_id)s, %(address)s, now() + %(lease)s)
ON CONFLICT (worker_id) DO UPDATE SET expire_time = excluded.expire_time, address = excluded.address
"""

_FORGET_DEAD = "DELETE FROM orchestrator.worker WHERE expire_time < now() - interval '1 hour'"
_DISMISS = "DELETE FROM orchestrator.worker WHERE worker_id = %(worker_id)s"
_DISMISS_OTHERS = "DELETE FROM orchestrator.worker WHERE worker_id <> %(worker_id)s"

_ADDRESS = """
SELECT w.address FROM orchestrator.conversation_lease AS l
JOIN orchestrator.worker AS w ON w.worker_id = l.worker_id AND w.expire_time > now()
WHERE l.conversation_id = %(conversation_id)s AND l.run_id = %(run_id)s
"""

_DEPTH = """
SELECT count(*) AS depth, coalesce(extract(epoch FROM now() - min(arrival)), 0)::float8 AS oldest
FROM orchestrator.mailbox AS m
WHERE NOT EXISTS (SELECT FROM orchestrator.conversation_lease AS l
                  WHERE l.conversation_id = m.conversation_id AND l.run_id = m.run_id)
"""


class UnknownConversationError(Exception):
    """There is no such conversation for this caller."""


class ClosedConversationError(Exception):
    """The conversation takes no events: its agent is not ready, or it is being deleted."""

    def __init__(self, agent_id: str, agent_state: pb.AgentState.ValueType) -> None:
        super().__init__(agent_id)
        self.agent_id = agent_id
        self.agent_state = agent_state


class OtherContentError(Exception):
    """The request_id came with other content before."""


async def accept(tx: Connection, tenant: str, incoming: Incoming, *, worker_id: str, take: bool) -> Accepted:
    """Stores an event with its run; takes the conversation at once when it is free.

    Args:
        worker_id: This process.
        take: Whether this process may work on it now.

    Raises:
        UnknownConversationError: No such conversation.
        ClosedConversationError: It takes no events.
        OtherContentError: The request_id was used for something else.
    """
    parameters = {
        "tenant": tenant,
        "event_id": incoming.event_id,
        "run_id": incoming.run_id,
        "request_id": incoming.request_id,
        "request_sha256": incoming.request_sha256,
        "conversation_id": incoming.conversation_id,
        "bound_user": incoming.bound_user,
        "actor": incoming.actor,
        "kind": incoming.kind,
        "text": incoming.text,
        "speaker": incoming.speaker,
        "bypass_cache": incoming.bypass_cache,
        "priority": PRIORITY[incoming.kind],
        "worker_id": worker_id,
        "take": take,
        "ready": pb.AGENT_STATE_READY,
        "queued": pb.RUN_STATE_QUEUED,
        "running": pb.RUN_STATE_RUNNING,
        "channel": CHANNEL,
    }
    row = await (await tx.execute(_ACCEPT, parameters)).fetchone()
    if row is None:
        raise UnknownConversationError(incoming.conversation_id)
    if row["run_id"] is None:
        return await _repeated(tx, parameters, row)
    run = run_of(row)
    if row["epoch"] is None:
        return Accepted(run.run_id, None, run)
    event = Event(
        incoming.event_id,
        incoming.kind,
        incoming.text,
        incoming.actor,
        incoming.speaker,
        incoming.bypass_cache,
        run.create_time,
    )
    fence = Fence(tenant, incoming.conversation_id, run.run_id, worker_id, row["epoch"])
    work = Work(fence, run, event, bytes(row["definition"]), row["version"], row["warned"])
    return Accepted(run.run_id, work, None)


async def _repeated(tx: Connection, parameters: dict[str, object], subject: Row) -> Accepted:
    row = await (await tx.execute(_REPEATED, parameters)).fetchone()
    if row is None:
        raise ClosedConversationError(subject["agent_id"], subject["agent_state"])
    if not row["same"]:
        raise OtherContentError
    return Accepted(row["run_id"], None, run_of(row))


async def claim(tx: Connection, *, worker_id: str, held: list[str], limit: int, ageing: timedelta) -> list[Fence]:
    """Takes up to `limit` conversations that are ready, by class and arrival; interrupted runs come first.

    Args:
        tx: A work transaction.
        worker_id: This process.
        held: Conversations that this process works on; others that name it as their worker are taken up again.
        ageing: Time after which a waiting event rises one class.
    """
    parameters = {
        "worker_id": worker_id,
        "held": held,
        "limit": limit,
        "ageing": ageing.total_seconds(),
    }
    rows = await (await tx.execute(_CLAIM, parameters)).fetchall()
    return [Fence(row["tenant_id"], row["conversation_id"], row["run_id"], worker_id, row["epoch"]) for row in rows]


async def begin(tx: Connection, fence: Fence) -> Work | None:
    """Counts an attempt and returns what there is to do; None when the run has ended or the lease is lost."""
    parameters = {
        **fence_parameters(fence),
        "running": pb.RUN_STATE_RUNNING,
        "waiting": pb.RUN_STATE_WAITING,
        "queued": pb.RUN_STATE_QUEUED,
    }
    row = await (await tx.execute(_BEGIN, parameters)).fetchone()
    if row is None:
        return None
    steps = await (await tx.execute(_STEPS, parameters)).fetchall() if row["step_count"] else []
    results = await (await tx.execute(_RESULTS, parameters)).fetchall() if row["resumed"] else []
    return Work(
        fence=fence,
        run=run_of(row),
        event=event_of(row, time="event_time"),
        definition=bytes(row["definition"]),
        version=row["version"],
        warned=row["warned"],
        steps=tuple(step_of(step) for step in steps),
        results={found["call_id"]: CallResult(**found) for found in results},
        resumed=row["resumed"],
        expired_call=row["expired_call"],
    )


async def release(tx: Connection, fence: Fence) -> bool:
    """Frees a conversation; False when it was not held any more."""
    return await (await tx.execute(_RELEASE, fence_parameters(fence))).fetchone() is not None


async def take_next(tx: Connection, fence: Fence, ageing: timedelta) -> Fence | None:
    """Takes the next event of a conversation that this transaction has just freed; None when none waits."""
    parameters = {**fence_parameters(fence), "ageing": ageing.total_seconds()}
    row = await (await tx.execute(_TAKE_NEXT, parameters)).fetchone()
    if row is None or not row["run_id"]:
        return None
    return Fence(fence.tenant, fence.conversation_id, row["run_id"], fence.worker_id, fence.epoch)


async def set_flags(
    tx: Connection, conversation_id: str, *, warned: bool | None = None, pause: timedelta | None = None
) -> None:
    """Notes that the model was warned, and lets timed events wait; None leaves either as it is."""
    parameters = {"conversation_id": conversation_id, "warned": warned, "pause": pause}
    await tx.execute(_SET_FLAGS, parameters)


async def renew(tx: Connection, *, worker_id: str, address: str, lease: timedelta) -> None:
    """Makes this process alive for another while, and forgets long dead ones."""
    await tx.execute(_RENEW, {"worker_id": worker_id, "address": address, "lease": lease})
    await tx.execute(_FORGET_DEAD)


async def dismiss(tx: Connection, *, worker_id: str) -> None:
    """Ends the life of a process, so that its conversations can be taken at once."""
    await tx.execute(_DISMISS, {"worker_id": worker_id})


async def dismiss_others(tx: Connection, *, worker_id: str) -> None:
    """Ends the lives of all other processes; right only where a lock proves that they are dead."""
    await tx.execute(_DISMISS_OTHERS, {"worker_id": worker_id})


async def address_of(tx: Connection, run: Run) -> str:
    """Where the process that works on a run can be dialled; empty when none does."""
    parameters = {"conversation_id": run.conversation_id, "run_id": run.run_id}
    row = await (await tx.execute(_ADDRESS, parameters)).fetchone()
    return row["address"] if row else ""


async def depth(tx: Connection) -> tuple[int, float]:
    """Number of waiting events, and the age in seconds of the oldest."""
    row = await (await tx.execute(_DEPTH)).fetchone()
    assert row is not None
    return row["depth"], row["oldest"]
