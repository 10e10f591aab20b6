"""Services that are away, each row of the design's matrix that concerns a turn."""

from __future__ import annotations

import asyncio

from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.settings import PeersSettings
from tests.contract.orchestrator.scripted import (
    ScriptedModel,
    Talk,
    calls,
    kinds,
    open_talk,
    request_id,
    says,
    texts,
    until,
)
from tests.support.deployment import free_ports
from tests.support.suite import Serve


async def test_without_archival_its_tools_fail_and_the_turn_goes_on(model: ScriptedModel, serve: Serve) -> None:
    suite = await serve(peers=PeersSettings(archival=f"127.0.0.1:{free_ports(1)[0]}"))
    talk = await open_talk(suite)
    search = {"query": "tea", "request_heartbeat": False}
    model.answers = [calls(("archival_memory_search", search)), says("I cannot look it up now")]
    events = await talk.send("What do I like?")

    assert texts(events) == ["I cannot look it up now"]
    degraded = next(event.degraded for event in events if event.WhichOneof("event") == "degraded")
    assert degraded.service == "archival"
    assert not model.requests[1].turns[-1].outcomes[0].ok
    assert model.requests[1].turns[-1].outcomes[0].content.startswith("Failed")


async def test_without_core_memory_a_turn_waits_and_then_goes_on(model: ScriptedModel, serve: Serve) -> None:
    whole = await serve()
    talk = await open_talk(whole)
    port = free_ports(1)[0]
    peers = PeersSettings(core_memory=f"127.0.0.1:{port}")
    lame = await serve("orchestrator", "recall", "embedding", "archival", "semantic_cache", peers=peers)
    sending = asyncio.create_task(Talk(lame, talk.agent_id, talk.conversation_id).send("hello"))

    async def running() -> bool:
        listed = await talk.agents.ListRuns(pb.ListRunsRequest(states=[pb.RUN_STATE_RUNNING]))
        return bool(listed.runs)

    await until(running)
    assert not model.requests
    back = whole.settings.server.model_copy(update={"port": port})
    await serve("core_memory", server=back)

    assert texts(await sending) == ["echo hello"]


async def test_without_core_memory_a_waiting_turn_can_be_cancelled(model: ScriptedModel, serve: Serve) -> None:
    whole = await serve(data_dir=None)
    talk = await open_talk(whole)
    peers = PeersSettings(core_memory=f"127.0.0.1:{free_ports(1)[0]}")
    names = ("orchestrator", "recall", "embedding", "archival", "semantic_cache")
    lame = await serve(*names, data_dir=None, peers=peers)
    sending = asyncio.create_task(Talk(lame, talk.agent_id, talk.conversation_id).send("hello"))

    async def running() -> bool:
        listed = await talk.agents.ListRuns(pb.ListRunsRequest(states=[pb.RUN_STATE_RUNNING]))
        return bool(listed.runs)

    await until(running)
    listed = await talk.agents.ListRuns(pb.ListRunsRequest(states=[pb.RUN_STATE_RUNNING]))
    # Asked for at the other replica: the one that works on it learns of it from the database.
    await talk.agents.CancelRun(pb.CancelRunRequest(request_id=request_id(), run_id=listed.runs[0].run_id))
    assert kinds(await sending)[-1] == "failed"
    assert texts(await talk.send("next")) == ["echo next"]
