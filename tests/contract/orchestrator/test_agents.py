"""Agents, conversations, and the operations that make and remove what belongs to them."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from mneme.archival.v1 import archival_pb2
from mneme.archival.v1.archival_pb2_grpc import ArchivalServiceStub
from mneme.core_memory.v1 import core_memory_pb2
from mneme.core_memory.v1.core_memory_pb2_grpc import CoreMemoryServiceStub
from mneme.errors.v1 import errors_pb2
from mneme.orchestrator.operations import Operations
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.orchestrator.v1.orchestrator_pb2_grpc import AgentServiceStub
from mneme.runtime.errors import Error
from tests.contract.orchestrator.scripted import ScriptedModel, Talk, calls, open_talk, refused, request_id, until
from tests.support.suite import Suite


async def test_an_agent_has_persona_and_human_unless_told_otherwise(talk: Talk) -> None:
    memory = talk.suite.stub(CoreMemoryServiceStub)
    blocks = (await memory.ListBlocks(core_memory_pb2.ListBlocksRequest(agent_id=talk.agent_id))).blocks

    assert sorted(block.label for block in blocks) == ["human", "persona"]


async def test_an_agent_is_made_with_blocks_and_knowledge_bases(scripted_suite: Suite) -> None:
    agents, archive = scripted_suite.stub(AgentServiceStub), scripted_suite.stub(ArchivalServiceStub)
    memory = scripted_suite.stub(CoreMemoryServiceStub)
    shared = await memory.CreateBlock(
        core_memory_pb2.CreateBlockRequest(
            request_id=request_id(), block=core_memory_pb2.Block(label="policy", value="Be kind.")
        )
    )
    base = await archive.CreateKnowledgeBase(
        archival_pb2.CreateKnowledgeBaseRequest(
            request_id=request_id(), knowledge_base=archival_pb2.KnowledgeBase(display_name="Docs")
        )
    )
    request = pb.CreateAgentRequest(
        request_id=request_id(),
        agent=pb.Agent(display_name="Ann's"),
        blocks=[pb.BlockSpec(label="notes", value="Nothing yet.", limit_chars=100)],
        block_ids=[shared.block.block_id],
        knowledge_base_ids=[base.knowledge_base.knowledge_base_id],
    )
    created = await agents.CreateAgent(request)

    assert created.agent.state == pb.AGENT_STATE_READY
    assert (await agents.CreateAgent(request)) == created
    operation = (await agents.GetOperation(pb.GetOperationRequest(operation_id=created.operation_id))).operation
    assert operation.state == pb.OPERATION_STATE_DONE
    assert all(step.done for step in operation.steps)
    blocks = await memory.ListBlocks(core_memory_pb2.ListBlocksRequest(agent_id=created.agent.agent_id))
    assert sorted(block.label for block in blocks.blocks) == ["notes", "policy"]
    bases = await archive.ListKnowledgeBases(archival_pb2.ListKnowledgeBasesRequest(agent_id=created.agent.agent_id))
    assert [found.knowledge_base_id for found in bases.knowledge_bases] == list(request.knowledge_base_ids)


async def test_an_agent_whose_parts_cannot_be_made_does_not_stay(scripted_suite: Suite) -> None:
    agents = scripted_suite.stub(AgentServiceStub)
    request = pb.CreateAgentRequest(request_id=request_id(), agent=pb.Agent(), block_ids=["block-" + "0" * 32])
    error = await refused(agents.CreateAgent(request))

    assert error.reason == errors_pb2.REASON_NOT_FOUND
    operation = (
        await agents.GetOperation(pb.GetOperationRequest(operation_id=error.metadata["operation_id"]))
    ).operation
    assert operation.state == pb.OPERATION_STATE_FAILED
    assert not (await agents.ListAgents(pb.ListAgentsRequest())).agents


async def test_an_interrupted_creation_is_finished_in_the_background(
    scripted_suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    agents = scripted_suite.stub(AgentServiceStub)
    inner, failures = Operations._create_block, [1]

    async def fails_once(self: Operations, *arguments: Any) -> Any:
        if failures:
            failures.pop()
            raise Error(errors_pb2.REASON_PEER_UNAVAILABLE, "down")
        return await inner(self, *arguments)

    monkeypatch.setattr(Operations, "_create_block", fails_once)
    created = await agents.CreateAgent(pb.CreateAgentRequest(request_id=request_id(), agent=pb.Agent()))
    assert created.agent.state == pb.AGENT_STATE_CREATING

    async def ready() -> bool:
        found = await agents.GetAgent(pb.GetAgentRequest(agent_id=created.agent.agent_id))
        return bool(found.agent.state == pb.AGENT_STATE_READY)

    await until(ready)
    listed = (await agents.ListOperations(pb.ListOperationsRequest(state=pb.OPERATION_STATE_DONE))).operations
    assert [step.attempt_count for step in listed[0].steps] == [2, 1, 1]


async def test_fields_of_an_agent_change_one_by_one(talk: Talk) -> None:
    def update(agent: pb.Agent, *paths: str, etag: str = "") -> Any:
        request = pb.UpdateAgentRequest(request_id=request_id(), agent_id=talk.agent_id, agent=agent, etag=etag)
        if paths:
            request.update_mask.paths.extend(paths)
        return talk.agents.UpdateAgent(request)

    first = (await update(pb.Agent(description="one", max_steps=3))).agent
    assert (first.display_name, first.description, first.max_steps) == ("Test", "one", 3)
    cleared = (await update(pb.Agent(), "description", "model.temperature", etag=first.etag)).agent
    assert (cleared.description, cleared.max_steps) == ("", 3)
    assert (await refused(update(pb.Agent(), "colour"))).reason == errors_pb2.REASON_INVALID_UPDATE_MASK
    assert (await refused(update(pb.Agent(), "state"))).reason == errors_pb2.REASON_INVALID_UPDATE_MASK
    stale = await refused(update(pb.Agent(description="x"), etag=first.etag))
    assert stale.reason == errors_pb2.REASON_ETAG_MISMATCH
    assert stale.metadata["current_etag"] == cleared.etag


@pytest.mark.parametrize(
    ("agent", "field"),
    [
        (pb.Agent(tools=["send_message", "format_disk"]), "agent.tools[1]"),
        (pb.Agent(window=pb.WindowPolicy(target_fraction=0.9, flush_fraction=0.5)), "agent.window.target_fraction"),
    ],
)
async def test_an_agent_that_makes_no_sense_is_refused(scripted_suite: Suite, agent: pb.Agent, field: str) -> None:
    agents = scripted_suite.stub(AgentServiceStub)
    error = await refused(agents.CreateAgent(pb.CreateAgentRequest(request_id=request_id(), agent=agent)))

    assert error.reason == errors_pb2.REASON_INVALID_FIELD
    assert error.metadata["field"] == field


async def test_metadata_has_a_limit(scripted_suite: Suite) -> None:
    agents = scripted_suite.stub(AgentServiceStub)
    agent = pb.Agent()
    agent.metadata.update({"notes": "x" * 20_000})
    error = await refused(agents.CreateAgent(pb.CreateAgentRequest(request_id=request_id(), agent=agent)))

    assert error.reason == errors_pb2.REASON_TEXT_TOO_LONG
    assert error.metadata["limit"] == "16384"


async def test_what_is_not_built_yet_says_so(talk: Talk) -> None:
    agents = talk.agents
    later: list[Any] = [
        agents.ReplayStep(pb.ReplayStepRequest(step_id="step-" + "0" * 32)),
        agents.ExportAgent(pb.ExportAgentRequest(agent_id=talk.agent_id)).read(),
        agents.CreateAgent(
            pb.CreateAgentRequest(request_id=request_id(), agent=pb.Agent(memory_mode=pb.MEMORY_MODE_AUGMENTED))
        ),
    ]
    for running in later:
        assert (await refused(running)).reason == errors_pb2.REASON_NOT_IMPLEMENTED


async def test_lists_are_paged(talk: Talk) -> None:
    for number in range(4):
        await talk.agents.CreateConversation(
            pb.CreateConversationRequest(
                request_id=request_id(), agent_id=talk.agent_id, display_name=f"number {number}"
            )
        )
    names, token = [], ""
    while True:
        page = await talk.agents.ListConversations(
            pb.ListConversationsRequest(agent_id=talk.agent_id, page_size=2, page_token=token)
        )
        names += [conversation.display_name for conversation in page.conversations]
        token = page.next_page_token
        if not token:
            break

    assert names == ["", "number 0", "number 1", "number 2", "number 3"]
    broken = pb.ListConversationsRequest(agent_id=talk.agent_id, page_token="nonsense")
    assert (await refused(talk.agents.ListConversations(broken))).reason == errors_pb2.REASON_INVALID_PAGE_TOKEN


async def test_a_conversation_is_deleted_with_its_messages(model: ScriptedModel, talk: Talk) -> None:
    await talk.send("hello")
    request = pb.DeleteConversationRequest(request_id=request_id(), conversation_id=talk.conversation_id)
    operation = (await talk.agents.DeleteConversation(request)).operation

    assert operation.state == pb.OPERATION_STATE_DONE
    assert all(count.remaining == 0 for step in operation.steps for count in step.counts)
    assert await talk.messages() == []
    gone = await refused(
        talk.agents.SendMessage(
            pb.SendMessageRequest(request_id=request_id(), conversation_id=talk.conversation_id, text="hello?")
        ).read()
    )
    assert gone.reason == errors_pb2.REASON_NOT_FOUND


async def test_an_agent_is_deleted_everywhere(model: ScriptedModel, scripted_suite: Suite, owner_url: str) -> None:
    talk = await open_talk(scripted_suite)
    other = await open_talk(scripted_suite)
    model.answers = [
        calls(
            ("archival_memory_insert", {"content": "Ann likes tea.", "request_heartbeat": False}),
            ("send_message", {"message": "noted"}),
        )
    ]
    await talk.send("I like tea")
    await other.send("and I stay")
    request = pb.DeleteAgentRequest(request_id=request_id(), agent_id=talk.agent_id, delete_blocks=True)
    operation = (await talk.agents.DeleteAgent(request)).operation

    assert operation.state == pb.OPERATION_STATE_DONE
    assert all(count.remaining == 0 for step in operation.steps for count in step.counts)
    assert (await refused(talk.agents.GetAgent(pb.GetAgentRequest(agent_id=talk.agent_id)))).reason in (
        errors_pb2.REASON_NOT_FOUND,
        errors_pb2.REASON_DELETED,
    )
    assert await other.messages()
    async with await psycopg.AsyncConnection.connect(owner_url) as owner:
        await owner.execute("SELECT set_config('app.tenant', 'acme', true)")
        tables = await (
            await owner.execute(
                "SELECT table_name FROM information_schema.columns"
                " WHERE table_schema = 'orchestrator' AND column_name = 'agent_id'"
            )
        ).fetchall()
        for (table,) in tables:
            left = await owner.execute(
                psycopg.sql.SQL("SELECT count(*) FROM {} WHERE agent_id = %s").format(
                    psycopg.sql.Identifier("orchestrator", table)
                ),
                (talk.agent_id,),
            )
            assert await left.fetchone() == (0,), table
