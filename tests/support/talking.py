"""Short ways to hold a conversation in a test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mneme.client import Client, new_request_id
from mneme.orchestrator.v1 import orchestrator_pb2 as pb


@dataclass(frozen=True)
class Turn:
    """What came of one message."""

    events: Sequence[pb.RunEvent] = field(default_factory=tuple)

    @property
    def text(self) -> str:
        """Everything that was said to the user."""
        return "\n".join(event.assistant_message.text for event in self.of("assistant_message"))

    @property
    def run_id(self) -> str:
        """The run."""
        return self.events[0].run_id

    @property
    def end(self) -> pb.RunEvent:
        """The terminal event."""
        return self.events[-1]

    def of(self, kind: str) -> list[pb.RunEvent]:
        """The events of one kind, in order."""
        return [event for event in self.events if event.WhichOneof("event") == kind]


async def new_agent(client: Client, blocks: Sequence[pb.BlockSpec] = (), **fields: Any) -> str:
    """An agent that is ready."""
    request = pb.CreateAgentRequest(request_id=new_request_id(), agent=pb.Agent(**fields), blocks=blocks)
    agent = (await client.agents.CreateAgent(request)).agent
    assert agent.state == pb.AGENT_STATE_READY
    return agent.agent_id


async def new_conversation(client: Client, agent_id: str, user_id: str = "") -> str:
    """A conversation with an agent."""
    request = pb.CreateConversationRequest(request_id=new_request_id(), agent_id=agent_id, user_id=user_id)
    return (await client.agents.CreateConversation(request)).conversation.conversation_id


async def say(client: Client, conversation_id: str, text: str, **options: Any) -> Turn:
    """One message and everything that came of it, which must be a well-formed run."""
    turn = Turn([event async for event in client.ask(conversation_id, text, **options)])
    sequences = [event.sequence for event in turn.events if event.sequence]
    assert sequences == sorted(set(sequences))
    assert turn.end.WhichOneof("event") in ("completed", "failed")
    return turn
