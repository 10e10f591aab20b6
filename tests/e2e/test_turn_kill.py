"""kill -9 of the whole suite in the middle of a turn: after a restart the turn ends, nothing is lost or doubled.

Complaints of users of the archived predecessor that this stands against: letta-ai/letta issues 3250, 3273 and 3308
(an unpaired tool call makes every later turn fail).
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from mneme.archival.v1 import archival_pb2
from mneme.client import Client, new_request_id
from mneme.core_memory.v1 import core_memory_pb2
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.recall.v1 import recall_pb2
from mneme.registry import NAMES
from mneme.runtime.dev_credentials import ensure_dev_credentials, mint_dev_token
from mneme.runtime.errors import Error
from tests.e2e.crashing_suite import POINTS
from tests.support.deployment import environment, free_ports, stop, wait_until_serving
from tests.support.talking import new_agent, new_conversation

LIMIT_SECONDS = 30
ROLES = ["user", "assistant", "tool", "tool", "assistant", "tool"]


class Processes:
    """Starts the suite again and again on the same stores and port."""

    def __init__(self, settings: dict[str, str], folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._count = 0

    @contextmanager
    def running(self, port: int) -> Iterator[subprocess.Popen[bytes]]:
        """One process that serves inside the block, unless it dies before."""
        self._count += 1
        log = self._folder / f"suite-{self._count}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.e2e.crashing_suite"],
                env=self._settings | {"MNEME_SERVER__PORT": str(port)},
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )
            try:
                wait_until_serving("orchestrator", f"127.0.0.1:{port}", process, log)
                yield process
            finally:
                stop(process)


@pytest.fixture
def settings(database_url: str, redis_url: str, tmp_path: Path) -> dict[str, str]:
    """Settings of every process."""
    ensure_dev_credentials(tmp_path)
    return environment(database_url, redis_url, tmp_path) | {"MNEME_DATABASE__POOL_MAX": "8"}


def connect(port: int, folder: Path) -> Client:
    """A client of a process."""
    addresses = dict.fromkeys(NAMES, f"127.0.0.1:{port}")
    return Client.connect(addresses=addresses, token=mint_dev_token(folder, "acme", ""))


async def send_until_killed(client: Client, conversation_id: str, text: str) -> None:
    """Sends a message to a process that dies over it."""
    request = pb.SendMessageRequest(request_id=new_request_id(), conversation_id=conversation_id, text=text)
    with pytest.raises(Error):
        async for _ in client.agents.SendMessage(request, timeout=LIMIT_SECONDS):
            pass


async def events_of_last_run(client: Client, conversation_id: str) -> list[pb.RunEvent]:
    """All events of the newest run, once it has ended."""
    runs = (await client.agents.ListRuns(pb.ListRunsRequest(conversation_id=conversation_id))).runs
    watched = client.agents.WatchRun(
        pb.WatchRunRequest(run_id=runs[0].run_id, include_inner_events=True), timeout=LIMIT_SECONDS
    )
    return [response.event async for response in watched]


def check_events(events: list[pb.RunEvent], text: str) -> None:
    """Gapless, one answer, one end, and the restart is told."""
    kinds = [event.WhichOneof("event") for event in events]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1)), kinds
    assert kinds.count("assistant_message") == 1, kinds
    assert kinds.count("tool_result") == 3, kinds
    assert kinds.count("memory_edit") == 2, kinds
    assert kinds[-1] == "completed", kinds
    answers = [e.assistant_message.text for e in events if e.WhichOneof("event") == "assistant_message"]
    assert answers == [f"you said {text}"]


async def check_memory(client: Client, agent_id: str, conversation_id: str, texts: list[str]) -> None:
    """Every message, edit and passage is there once, in order, and each call has its result."""
    listed = await client.recall.ListMessages(
        recall_pb2.ListMessagesRequest(
            agent_id=agent_id,
            filter=recall_pb2.MessageFilter(conversation_id=conversation_id, include_hidden=True),
            page_size=500,
        )
    )
    stored = list(listed.messages)
    roles = [recall_pb2.Role.Name(m.role).removeprefix("ROLE_").lower() for m in stored]
    assert roles == ROLES * len(texts)
    assert [m.sequence for m in stored] == list(range(1, len(stored) + 1))
    assert [m.text for m in stored if m.role == recall_pb2.ROLE_USER] == texts
    called = [call.id for m in stored for call in m.tool_calls]
    assert called == [m.tool_call_id for m in stored if m.role == recall_pb2.ROLE_TOOL]
    assert all(m.tool_ok for m in stored if m.role == recall_pb2.ROLE_TOOL)

    rendered = await client.core_memory.RenderMemory(core_memory_pb2.RenderMemoryRequest(agent_id=agent_id))
    human = next(block.value for block in rendered.blocks if block.label == "human")
    assert human.splitlines() == [f"said {text}" for text in texts]
    owner = archival_pb2.PassageOwner(agent_id=agent_id)
    passages = await client.archival.ListPassages(archival_pb2.ListPassagesRequest(owner=owner, page_size=500))
    assert sorted(p.text for p in passages.passages) == sorted(f"They said {text} once." for text in texts)


@pytest.mark.timeout(240)
async def test_a_turn_survives_kills_at_every_point(settings: dict[str, str], tmp_path: Path) -> None:
    port = free_ports(1)[0]
    processes = Processes(settings | {"MNEME_DATA_DIR": str(tmp_path)}, tmp_path)
    texts = [f"number {index} [kill {point} {step}]" for index, (point, step) in enumerate(POINTS)]
    with processes.running(port):
        async with connect(port, tmp_path) as client:
            agent_id = await new_agent(client)
            conversation_id = await new_conversation(client, agent_id)
    for index, text in enumerate(texts):
        with processes.running(port) as process:
            async with connect(port, tmp_path) as client:
                if index:
                    check_events(await events_of_last_run(client, conversation_id), texts[index - 1])
                await send_until_killed(client, conversation_id, text)
                assert await asyncio.to_thread(process.wait, LIMIT_SECONDS) == -9
    with processes.running(port):
        async with connect(port, tmp_path) as client:
            check_events(await events_of_last_run(client, conversation_id), texts[-1])
            await check_memory(client, agent_id, conversation_id, texts)


@pytest.mark.soak
async def test_turns_survive_kills_at_random_moments(settings: dict[str, str], tmp_path: Path) -> None:
    count, seed = int(os.environ.get("SOAK_N", "20")), int(os.environ.get("SOAK_SEED", "1"))
    moments = random.Random(seed)
    port = free_ports(1)[0]
    processes = Processes(settings | {"MNEME_DATA_DIR": str(tmp_path)}, tmp_path)
    texts = [f"number {index}." for index in range(count)]
    agent_id = conversation_id = ""
    killed = 0
    for text in texts:
        request_id = new_request_id()
        with processes.running(port) as process:
            async with connect(port, tmp_path) as client:
                if not agent_id:
                    agent_id = await new_agent(client)
                    conversation_id = await new_conversation(client, agent_id)
                sending = asyncio.create_task(say_until_cut(client, conversation_id, text, request_id))
                # Not a wait for something: the moment of the kill is the random part of the test.
                await asyncio.sleep(moments.uniform(0, 0.12))
                process.kill()
                killed += not await sending
        with processes.running(port):
            async with connect(port, tmp_path) as client:
                # Sent again with the same id: the message itself may have been cut off, or only its answer.
                stream = client.ask(conversation_id, text, request_id=request_id, stream_tokens=False)
                events = [event async for event in stream]
                check_events(events, text)
    async with asyncio.timeout(LIMIT_SECONDS):
        with processes.running(port):
            async with connect(port, tmp_path) as client:
                await check_memory(client, agent_id, conversation_id, texts)
    print(f"seed {seed}: {count} turns, {killed} killed before their end, none lost, doubled or unpaired")  # noqa: T201


async def say_until_cut(client: Client, conversation_id: str, text: str, request_id: str) -> bool:
    """Sends a message to a process that may die over it; True when the run ended before."""
    request = pb.SendMessageRequest(request_id=request_id, conversation_id=conversation_id, text=text)
    last = ""
    try:
        async for response in client.agents.SendMessage(request, timeout=LIMIT_SECONDS):
            last = response.event.WhichOneof("event") or ""
    except Error:
        return False
    return last == "completed"


async def test_another_replica_takes_over_when_the_lease_ends(settings: dict[str, str], tmp_path: Path) -> None:
    first, second = free_ports(2)
    quick = {"MNEME_ORCHESTRATOR__LEASE_RENEW": "0.3", "MNEME_ORCHESTRATOR__LEASE_SECONDS": "1.5"}
    processes = Processes(settings | quick, tmp_path)
    text = "take over [kill append_after 1]"
    with ExitStack() as stack:
        dying = stack.enter_context(processes.running(first))
        stack.enter_context(processes.running(second))
        async with connect(first, tmp_path) as client:
            agent_id = await new_agent(client)
            conversation_id = await new_conversation(client, agent_id)
            async with connect(second, tmp_path) as other:
                await send_until_killed(client, conversation_id, text)
                assert await asyncio.to_thread(dying.wait, LIMIT_SECONDS) == -9
                events = await events_of_last_run(other, conversation_id)
                check_events(events, text)
                assert "restarted" in [event.WhichOneof("event") for event in events]
                await check_memory(other, agent_id, conversation_id, [text])
