"""A model that says what the test tells it to, and what the tests of the orchestrator do again and again."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
import pytest

from mneme.errors.v1 import errors_pb2
from mneme.orchestrator.models.port import (
    Finished,
    ModelOutput,
    ModelRequest,
    StopReason,
    StreamEvent,
    ToolArgumentsDelta,
    ToolCallStarted,
    ToolUse,
    Usage,
)
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.orchestrator.v1.orchestrator_pb2_grpc import AgentServiceStub
from mneme.recall.v1 import recall_pb2
from mneme.recall.v1.recall_pb2_grpc import RecallServiceStub
from mneme.runtime.errors import Error, from_rpc_error
from tests.support.suite import Suite

Script = Callable[[ModelRequest], "ModelOutput | Error | Awaitable[ModelOutput]"]
LIMIT_SECONDS = 20


@dataclass
class ScriptedModel:
    """Answers by its `script`, or by its list of `answers` first."""

    answers: list[ModelOutput | Error] = field(default_factory=list)
    requests: list[ModelRequest] = field(default_factory=list)
    script: Script | None = None
    cuts: list[int] = field(default_factory=list)
    """Characters after which the next answers are cut."""
    pieces: int = 5
    """Characters of arguments in one delta."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[StreamEvent, None]:
        self.requests.append(request)
        answer: Any = self.answers.pop(0) if self.answers else (self.script or echo)(request)
        if asyncio.iscoroutine(answer):
            answer = await answer
        if isinstance(answer, Error):
            raise answer
        cut = self.cuts.pop(0) if self.cuts else None
        for index, call in enumerate(answer.tool_calls):
            yield ToolCallStarted(index, call.id, call.name)
            for start in range(0, len(call.arguments_json), self.pieces):
                yield ToolArgumentsDelta(index, call.arguments_json[start : start + self.pieces])
                if cut is not None and start + self.pieces >= cut:
                    raise Error(errors_pb2.REASON_PROVIDER_UNAVAILABLE, "cut")
        yield Finished(answer)

    async def close(self) -> None:
        pass


def calls(*made: tuple[str, dict[str, Any]], text: str = "", prompt_tokens: int = 0) -> ModelOutput:
    """An answer that calls tools."""
    uses = tuple(
        ToolUse(f"provider-{index}", name, json.dumps(arguments, ensure_ascii=False))
        for index, (name, arguments) in enumerate(made)
    )
    usage = Usage(input_tokens=prompt_tokens or 100, output_tokens=10)
    return ModelOutput(text, uses, (), StopReason.TOOL_USE if uses else StopReason.END_TURN, usage, "scripted")


def says(message: str, **options: Any) -> ModelOutput:
    """An answer that sends a message to the user."""
    return calls(("send_message", {"message": message}), **options)


def thinks(text: str) -> ModelOutput:
    """An answer without any call."""
    return calls(text=text)


def echo(request: ModelRequest) -> ModelOutput:
    """Repeats the newest message of the user."""
    said = [turn.text for turn in request.turns if turn.role in ("user", "system")]
    return says(f"echo {said[-1].rpartition('] ')[2]}" if said else "echo")


def request_id() -> str:
    """A fresh request id."""
    return str(uuid.uuid4())


@dataclass
class Talk:
    """A conversation with an agent, as its user."""

    suite: Suite
    agent_id: str
    conversation_id: str
    user: str = ""
    tenant: str = "acme"

    @property
    def agents(self) -> Any:
        """The orchestrator."""
        return self.suite.stub(AgentServiceStub, tenant=self.tenant, user=self.user)

    async def send(self, text: str, **fields: Any) -> list[pb.RunEvent]:
        """Sends a message and returns all events of its run, inner ones too."""
        request = pb.SendMessageRequest(
            **{
                "request_id": request_id(),
                "conversation_id": self.conversation_id,
                "text": text,
                "include_inner_events": True,
                **fields,
            }
        )
        async with asyncio.timeout(LIMIT_SECONDS):
            return [response.event async for response in self.agents.SendMessage(request)]

    async def watch(self, run_id: str, **fields: Any) -> list[pb.RunEvent]:
        """All events of a run."""
        request = pb.WatchRunRequest(**{"run_id": run_id, "include_inner_events": True, **fields})
        async with asyncio.timeout(LIMIT_SECONDS):
            return [response.event async for response in self.agents.WatchRun(request)]

    async def messages(self) -> list[recall_pb2.Message]:
        """Everything recall holds of the conversation, oldest first."""
        stub = self.suite.stub(RecallServiceStub, tenant=self.tenant)
        found = await stub.ListMessages(
            recall_pb2.ListMessagesRequest(
                agent_id=self.agent_id,
                filter=recall_pb2.MessageFilter(conversation_id=self.conversation_id, include_hidden=True),
                page_size=500,
            )
        )
        return list(found.messages)


async def open_talk(suite: Suite, *, user: str = "", tenant: str = "acme", agent: pb.Agent | None = None) -> Talk:
    """A new agent, the user's own if there is one, and a conversation with it."""
    wanted = agent or pb.Agent(display_name="Test")
    wanted.user_id = user
    operator = suite.stub(AgentServiceStub, tenant=tenant)
    created = await operator.CreateAgent(pb.CreateAgentRequest(request_id=request_id(), agent=wanted))
    assert created.agent.state == pb.AGENT_STATE_READY
    stub = suite.stub(AgentServiceStub, tenant=tenant, user=user)
    opened = await stub.CreateConversation(
        pb.CreateConversationRequest(request_id=request_id(), agent_id=created.agent.agent_id)
    )
    return Talk(suite, created.agent.agent_id, opened.conversation.conversation_id, user, tenant)


def kinds(events: Sequence[pb.RunEvent]) -> list[str]:
    """Names of what happened."""
    return [event.WhichOneof("event") or "" for event in events]


def texts(events: Sequence[pb.RunEvent]) -> list[str]:
    """What the user got."""
    return [e.assistant_message.text for e in events if e.WhichOneof("event") == "assistant_message"]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Returns when a condition holds; fails after a limit."""
    async with asyncio.timeout(LIMIT_SECONDS):
        while not await condition():  # noqa: ASYNC110 - the condition is in a database
            await asyncio.sleep(0.02)


async def refused(running: Any) -> Error:
    """The error a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await running
    return from_rpc_error(raised.value)
