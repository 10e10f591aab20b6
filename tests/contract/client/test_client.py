"""The client bridges what the network breaks: the run's events come once, in order, to the terminal one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from mneme.client import Client, Error, SyncClient
from mneme.client.connection import HEALTH_NAMES
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.orchestrator.v1 import orchestrator_pb2_grpc

RUN = "run-1"


def events() -> list[pb.RunEvent]:
    texts = [pb.RunEvent(sequence=i, run_id=RUN, reasoning=pb.Reasoning(text=f"thought {i}")) for i in range(1, 5)]
    return [*texts, pb.RunEvent(sequence=5, run_id=RUN, completed=pb.Completed())]


@dataclass
class Breaking(orchestrator_pb2_grpc.AgentServiceServicer):
    """Serves one run and breaks its first streams."""

    breaks: int
    """Streams to break."""
    code: grpc.StatusCode | None = grpc.StatusCode.UNAVAILABLE
    """How they break; None ends them as if all had been said."""
    asked: list[Any] = field(default_factory=list)

    async def SendMessage(self, request: Any, context: Any) -> AsyncIterator[pb.SendMessageResponse]:
        async for event in self._serve(request, 0, context):
            yield pb.SendMessageResponse(event=event)

    async def WatchRun(self, request: Any, context: Any) -> AsyncIterator[pb.WatchRunResponse]:
        async for event in self._serve(request, request.after_sequence, context):
            yield pb.WatchRunResponse(event=event)

    async def _serve(self, request: Any, after: int, context: Any) -> AsyncIterator[pb.RunEvent]:
        self.asked.append(request)
        left = [event for event in events() if event.sequence > after]
        if len(self.asked) > self.breaks:
            for event in left:
                yield event
            return
        yield left[0]
        if self.code is not None:
            await context.abort(self.code, "cut")


@pytest.fixture
async def server() -> AsyncIterator[tuple[grpc.aio.Server, str]]:
    """A server that is healthy and not started yet, and its address."""
    server = grpc.aio.server()
    health = HealthServicer()
    await health.set(HEALTH_NAMES["orchestrator"], health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)  # type: ignore[no-untyped-call]
    yield server, f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.stop(None)


async def serve(server: grpc.aio.Server, servicer: Breaking) -> None:
    orchestrator_pb2_grpc.add_AgentServiceServicer_to_server(servicer, server)
    await server.start()


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, None])
async def test_a_cut_stream_is_taken_up_where_it_was(
    server: tuple[grpc.aio.Server, str], code: grpc.StatusCode | None
) -> None:
    servicer = Breaking(breaks=2, code=code)  # type: ignore[abstract]
    await serve(server[0], servicer)
    async with Client.connect(server[1], token="token") as client:
        seen = [event async for event in client.ask("conversation-1", "hello", stream_tokens=False)]
    assert seen == events()
    first, second, third = servicer.asked
    assert first.text == "hello"
    assert (second.after_sequence, third.after_sequence) == (1, 2)
    assert not second.stream_tokens, "the same is asked for as before the cut"


async def test_a_server_that_keeps_cutting_is_given_up(server: tuple[grpc.aio.Server, str]) -> None:
    servicer = Breaking(breaks=100, code=grpc.StatusCode.NOT_FOUND)  # type: ignore[abstract]
    await serve(server[0], servicer)
    async with Client.connect(server[1], token="token") as client:
        with pytest.raises(Error):
            [event async for event in client.ask("conversation-1", "hello")]
    assert len(servicer.asked) == 1


async def test_the_blocking_client_does_the_same(server: tuple[grpc.aio.Server, str]) -> None:
    servicer = Breaking(breaks=2)  # type: ignore[abstract]
    await serve(server[0], servicer)

    def talk() -> tuple[list[pb.RunEvent], list[pb.RunEvent]]:
        with SyncClient.connect(server[1], token="token") as client:
            return list(client.ask("conversation-1", "hello")), list(client.watch(RUN, after_sequence=3))

    asked, watched = await asyncio.to_thread(talk)
    assert asked == events()
    assert watched == events()[3:]


async def test_no_credential_is_said_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MNEME_TOKEN", raising=False)
    async with Client.connect("127.0.0.1:1") as client:
        with pytest.raises(ValueError, match="MNEME_TOKEN"):
            await client.agents.ListAgents(pb.ListAgentsRequest())
