"""Agents and conversations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psycopg.types.json import Jsonb

from mneme.orchestrator.records import Agent, Conversation, PastEvent
from mneme.orchestrator.store.rows import agent_of, conversation_of, event_of
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.runtime.db import Connection

_INSERT_AGENT = """
INSERT INTO orchestrator.agent (tenant_id, agent_id, user_id, state, definition, operation_id)
VALUES (%(tenant)s, %(agent_id)s, %(user_id)s, %(state)s, %(definition)s, %(operation_id)s)
RETURNING *
"""

_GET_AGENT = """
SELECT * FROM orchestrator.agent
WHERE tenant_id = %(tenant)s AND agent_id = %(agent_id)s AND (%(bound_user)s = '' OR user_id IN ('', %(bound_user)s))
"""

_LIST_AGENTS = """
SELECT * FROM orchestrator.agent
WHERE tenant_id = %(tenant)s AND (%(bound_user)s = '' OR user_id IN ('', %(bound_user)s))
  AND (%(user_id)s = '' OR user_id = %(user_id)s) AND agent_id > %(after)s
ORDER BY agent_id LIMIT %(limit)s
"""

_UPDATE_AGENT = """
UPDATE orchestrator.agent
SET user_id = %(user_id)s, definition = %(definition)s, version = version + 1, update_time = now()
WHERE tenant_id = %(tenant)s AND agent_id = %(agent_id)s
RETURNING *
"""

_SET_STATE = """
UPDATE orchestrator.agent SET state = %(state)s, operation_id = %(operation_id)s, update_time = now()
WHERE tenant_id = %(tenant)s AND agent_id = %(agent_id)s
RETURNING *
"""

_SERVES_OTHERS = """
SELECT FROM orchestrator.conversation
WHERE tenant_id = %(tenant)s AND agent_id = %(agent_id)s AND user_id NOT IN ('', %(user_id)s) LIMIT 1
"""

_INSERT_CONVERSATION = """
WITH made AS (
    INSERT INTO orchestrator.conversation (tenant_id, conversation_id, agent_id, user_id, display_name, metadata_)
    VALUES (%(tenant)s, %(conversation_id)s, %(agent_id)s, %(user_id)s, %(display_name)s, %(metadata)s)
    RETURNING *
), lease AS (
    INSERT INTO orchestrator.conversation_lease (conversation_id, tenant_id)
    SELECT conversation_id, tenant_id FROM made
)
SELECT made.*, 0 AS queued, '' AS active_run_id, create_time AS update_time FROM made
"""

_CONVERSATION = """
SELECT c.*, l.run_id AS active_run_id, l.update_time,
       (SELECT count(*)::integer FROM orchestrator.mailbox AS m
        WHERE m.conversation_id = c.conversation_id AND m.run_id <> l.run_id) AS queued
FROM orchestrator.conversation AS c
JOIN orchestrator.conversation_lease AS l ON l.conversation_id = c.conversation_id
WHERE c.tenant_id = %(tenant)s AND %(bound_user)s IN ('', c.user_id)
"""

_GET_CONVERSATION = f"{_CONVERSATION} AND c.conversation_id = %(conversation_id)s"

_LIST_CONVERSATIONS = f"""{_CONVERSATION}
  AND (%(agent_id)s = '' OR c.agent_id = %(agent_id)s) AND (%(user_id)s = '' OR c.user_id = %(user_id)s)
  AND c.conversation_id > %(after)s
ORDER BY c.conversation_id LIMIT %(limit)s
"""

_LIST_EVENTS = """
SELECT * FROM orchestrator.event
WHERE tenant_id = %(tenant)s AND user_id = %(user_id)s AND event_id > %(after)s
ORDER BY event_id LIMIT %(limit)s
"""

_CLOSE_CONVERSATION = """
UPDATE orchestrator.conversation SET deleting = true
WHERE tenant_id = %(tenant)s AND conversation_id = %(conversation_id)s
"""


async def insert_agent(
    tx: Connection, tenant: str, *, agent_id: str, user_id: str, definition: bytes, operation_id: str
) -> Agent:
    """Stores an agent whose parts are still to be made."""
    parameters = {
        "tenant": tenant,
        "agent_id": agent_id,
        "user_id": user_id,
        "state": pb.AGENT_STATE_CREATING,
        "definition": definition,
        "operation_id": operation_id,
    }
    row = await (await tx.execute(_INSERT_AGENT, parameters)).fetchone()
    assert row is not None
    return agent_of(row)


async def get_agent(tx: Connection, tenant: str, agent_id: str, bound_user: str = "") -> Agent | None:
    """An agent that the caller may see: one bound to a user sees its own and those of no user."""
    parameters = {"tenant": tenant, "agent_id": agent_id, "bound_user": bound_user}
    row = await (await tx.execute(_GET_AGENT, parameters)).fetchone()
    return agent_of(row) if row else None


async def lock_agent(tx: Connection, tenant: str, agent_id: str, bound_user: str = "") -> Agent | None:
    """The agent, which nobody else changes until the transaction's end."""
    parameters = {"tenant": tenant, "agent_id": agent_id, "bound_user": bound_user}
    row = await (await tx.execute(f"{_GET_AGENT} FOR UPDATE", parameters)).fetchone()
    return agent_of(row) if row else None


async def list_agents(
    tx: Connection, tenant: str, *, bound_user: str, user_id: str, after: str, limit: int
) -> list[Agent]:
    """Agents, oldest first, after the one named (empty: from the first)."""
    parameters = {
        "tenant": tenant,
        "bound_user": bound_user,
        "user_id": user_id,
        "after": after,
        "limit": limit,
    }
    return [agent_of(row) for row in await (await tx.execute(_LIST_AGENTS, parameters)).fetchall()]


async def update_agent(tx: Connection, tenant: str, agent_id: str, *, user_id: str, definition: bytes) -> Agent:
    """Replaces a locked agent's definition."""
    parameters = {"tenant": tenant, "agent_id": agent_id, "user_id": user_id, "definition": definition}
    row = await (await tx.execute(_UPDATE_AGENT, parameters)).fetchone()
    assert row is not None
    return agent_of(row)


async def set_agent_state(
    tx: Connection, tenant: str, agent_id: str, state: pb.AgentState.ValueType, operation_id: str
) -> Agent | None:
    """Moves an agent to another state; None when it is gone."""
    parameters = {"tenant": tenant, "agent_id": agent_id, "state": state, "operation_id": operation_id}
    row = await (await tx.execute(_SET_STATE, parameters)).fetchone()
    return agent_of(row) if row else None


async def serves_others(tx: Connection, tenant: str, agent: Agent) -> bool:
    """Whether a user's agent has conversations with other users too."""
    parameters = {"tenant": tenant, "agent_id": agent.agent_id, "user_id": agent.user_id}
    return (await tx.execute(_SERVES_OTHERS, parameters)).rowcount > 0


async def insert_conversation(
    tx: Connection,
    tenant: str,
    *,
    conversation_id: str,
    agent_id: str,
    user_id: str,
    display_name: str,
    metadata: Mapping[str, Any],
) -> Conversation:
    """Stores a conversation with its lease."""
    parameters = {
        "tenant": tenant,
        "conversation_id": conversation_id,
        "agent_id": agent_id,
        "user_id": user_id,
        "display_name": display_name,
        "metadata": Jsonb(dict(metadata)),
    }
    row = await (await tx.execute(_INSERT_CONVERSATION, parameters)).fetchone()
    assert row is not None
    return conversation_of(row)


async def get_conversation(
    tx: Connection, tenant: str, conversation_id: str, bound_user: str = ""
) -> Conversation | None:
    """A conversation that the caller may see."""
    parameters = {"tenant": tenant, "conversation_id": conversation_id, "bound_user": bound_user}
    row = await (await tx.execute(_GET_CONVERSATION, parameters)).fetchone()
    return conversation_of(row) if row else None


async def list_conversations(
    tx: Connection, tenant: str, *, bound_user: str, agent_id: str, user_id: str, after: str, limit: int
) -> list[Conversation]:
    """Conversations, oldest first, after the one named (empty: from the first)."""
    parameters = {
        "tenant": tenant,
        "bound_user": bound_user,
        "agent_id": agent_id,
        "user_id": user_id,
        "after": after,
        "limit": limit,
    }
    return [conversation_of(row) for row in await (await tx.execute(_LIST_CONVERSATIONS, parameters)).fetchall()]


async def close_conversation(tx: Connection, tenant: str, conversation_id: str) -> None:
    """Lets a conversation take no more events."""
    await tx.execute(_CLOSE_CONVERSATION, {"tenant": tenant, "conversation_id": conversation_id})


async def list_events(tx: Connection, tenant: str, *, user_id: str, after: str, limit: int) -> list[PastEvent]:
    """Events of a user's conversations, oldest first, after the one named (empty: from the first)."""
    parameters = {"tenant": tenant, "user_id": user_id, "after": after, "limit": limit}
    rows = await (await tx.execute(_LIST_EVENTS, parameters)).fetchall()
    return [PastEvent(event_of(row), row["conversation_id"], row["run_id"]) for row in rows]
