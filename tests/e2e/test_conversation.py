"""A conversation through all six services: facts are kept, found again, streamed, undone and kept apart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from mneme.client import Client, Error, new_request_id
from mneme.core_memory.v1 import core_memory_pb2
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.recall.v1 import recall_pb2
from tests.support.deployment import Deployment
from tests.support.talking import new_agent, new_conversation, say


@pytest.mark.parametrize(
    ("told", "asked", "word"),
    [
        ("My name is Ann and I am allergic to nuts", "What must I not eat?", "nuts"),
        ("我叫小安，我对花生过敏。", "我不能吃什么？", "花生"),
    ],
    ids=["english", "chinese"],
)
async def test_a_fact_is_known_in_the_next_conversation(client: Client, told: str, asked: str, word: str) -> None:
    agent_id = await new_agent(client)
    first = await say(client, await new_conversation(client, agent_id), told)
    assert first.of("memory_edit")
    second = await say(client, await new_conversation(client, agent_id), asked)
    assert word in second.text


async def test_every_message_is_in_recall_with_calls_and_results_paired(client: Client) -> None:
    agent_id = await new_agent(client)
    conversation_id = await new_conversation(client, agent_id)
    for text in ("My dog is called Bruno.", "What is my dog called?"):
        await say(client, conversation_id, text)
    listed = await client.recall.ListMessages(
        recall_pb2.ListMessagesRequest(
            agent_id=agent_id,
            filter=recall_pb2.MessageFilter(conversation_id=conversation_id, include_hidden=True),
        )
    )
    messages = listed.messages
    assert [message.sequence for message in messages] == list(range(1, len(messages) + 1))
    assert [message.role for message in messages].count(recall_pb2.ROLE_USER) == 2
    called = [call.id for message in messages for call in message.tool_calls]
    answered = [message.tool_call_id for message in messages if message.role == recall_pb2.ROLE_TOOL]
    assert called
    assert called == answered


async def test_tokens_arrive_before_the_message_and_add_up_to_it(client: Client) -> None:
    agent_id = await new_agent(client)
    turn = await say(client, await new_conversation(client, agent_id), "I live in Oslo.")
    streamed = ""
    for event in turn.of("token_delta"):
        assert event.sequence == 0
        assert event.token_delta.offset == len(streamed)
        streamed += event.token_delta.text
    assert streamed == turn.text
    kinds = [event.WhichOneof("event") for event in turn.events]
    assert kinds.index("token_delta") < kinds.index("assistant_message")


async def test_the_same_request_id_attaches_to_the_same_run(client: Client) -> None:
    agent_id = await new_agent(client)
    conversation_id = await new_conversation(client, agent_id)
    request_id = new_request_id()
    first = await say(client, conversation_id, "I collect stamps.", request_id=request_id)
    again = await say(client, conversation_id, "I collect stamps.", request_id=request_id, stream_tokens=False)
    assert again.run_id == first.run_id
    assert again.text == first.text
    runs = await client.agents.ListRuns(pb.ListRunsRequest(conversation_id=conversation_id))
    assert len(runs.runs) == 1
    with pytest.raises(Error) as refused:
        await say(client, conversation_id, "Something else.", request_id=request_id)
    assert refused.value.reason_name == "REQUEST_ID_REUSED"


async def test_a_watcher_gets_the_stored_events_after_a_sequence(client: Client) -> None:
    agent_id = await new_agent(client)
    turn = await say(client, await new_conversation(client, agent_id), "My car is a blue Saab.")
    durable = [event for event in turn.events if event.sequence]
    half = durable[len(durable) // 2].sequence
    seen = [event async for event in client.watch(turn.run_id, after_sequence=half)]
    assert [event.sequence for event in seen] == [event.sequence for event in durable if event.sequence > half]


async def test_watching_past_the_end_is_refused_and_names_the_newest_event(client: Client) -> None:
    agent_id = await new_agent(client)
    turn = await say(client, await new_conversation(client, agent_id), "My cat is called Minka.")
    newest = turn.end.sequence
    assert not [event async for event in _stream(client, turn.run_id, newest)]
    with pytest.raises(Error) as refused:
        [event async for event in _stream(client, turn.run_id, newest + 1)]
    assert refused.value.reason_name == "INVALID_FIELD"
    assert str(newest) in refused.value.message


async def _stream(client: Client, run_id: str, after_sequence: int) -> AsyncIterator[pb.RunEvent]:
    """The bare stream, which nobody takes up again."""
    async for response in client.agents.WatchRun(pb.WatchRunRequest(run_id=run_id, after_sequence=after_sequence)):
        yield response.event


async def test_a_turn_whose_agent_is_deleted_still_has_an_end(client: Client) -> None:
    agent_id = await new_agent(client)
    conversation_id = await new_conversation(client, agent_id)
    turn = asyncio.create_task(say(client, conversation_id, "I was born in Turku. What do you know about me?"))
    async with asyncio.timeout(20):
        while not (await client.agents.ListRuns(pb.ListRunsRequest(conversation_id=conversation_id))).runs:
            pass
    await client.agents.DeleteAgent(pb.DeleteAgentRequest(request_id=new_request_id(), agent_id=agent_id))
    # `say` itself asserts that the last event is a terminal one.
    async with asyncio.timeout(30):
        await turn


async def test_one_message_larger_than_the_window_does_not_stop_a_conversation(client: Client) -> None:
    agent_id = await new_agent(client, model=pb.ModelConfig(context_window_tokens=4000))
    conversation_id = await new_conversation(client, agent_id)
    await client.recall.AppendMessages(
        recall_pb2.AppendMessagesRequest(
            request_id=new_request_id(),
            agent_id=agent_id,
            conversation_id=conversation_id,
            messages=[recall_pb2.Message(role=recall_pb2.ROLE_USER, text="a long story " * 3000)],
        )
    )
    turn = await say(client, conversation_id, "My favourite fruit is the quince.")
    assert turn.end.WhichOneof("event") == "completed", turn.end
    assert turn.of("evicted")
    assert turn.text


async def test_an_edit_can_be_undone(client: Client) -> None:
    agent_id = await new_agent(client)
    await say(client, await new_conversation(client, agent_id), "My favourite colour is green.")
    turn = await say(client, await new_conversation(client, agent_id), "My favourite colour is now orange.")
    edit = turn.of("memory_edit")[0].memory_edit
    assert "orange" in edit.after
    restored = await client.core_memory.RestoreVersion(
        core_memory_pb2.RestoreVersionRequest(
            request_id=new_request_id(), block_id=edit.resource_id, version=edit.version - 1
        )
    )
    assert restored.block.value == edit.before
    assert "orange" not in restored.block.value


async def test_users_of_one_agent_do_not_see_each_other(client: Client) -> None:
    agent_id = await new_agent(client)
    await say(client, await new_conversation(client, agent_id, "user-a"), "My password hint is walrus.")
    other = await say(client, await new_conversation(client, agent_id, "user-b"), "What is my password hint?")
    assert "walrus" not in other.text
    own = await say(client, await new_conversation(client, agent_id, "user-a"), "What is my password hint?")
    assert "walrus" in own.text


async def test_tenants_do_not_see_each_other(client: Client, deployment: Deployment) -> None:
    agent_id = await new_agent(client)
    conversation_id = await new_conversation(client, agent_id)
    turn = await say(client, conversation_id, "My favourite poet is Sappho.")
    block_id = turn.of("memory_edit")[0].memory_edit.resource_id
    async with deployment.client("intruder") as intruder:
        calls = (
            intruder.agents.GetAgent(pb.GetAgentRequest(agent_id=agent_id)),
            intruder.agents.GetRun(pb.GetRunRequest(run_id=turn.run_id)),
            intruder.agents.GetConversation(pb.GetConversationRequest(conversation_id=conversation_id)),
            intruder.core_memory.GetBlock(
                core_memory_pb2.GetBlockRequest(ref=core_memory_pb2.BlockRef(block_id=block_id))
            ),
            say(intruder, conversation_id, "Who am I?"),
        )
        for call in calls:
            with pytest.raises(Error) as refused:
                await call
            assert refused.value.reason_name == "NOT_FOUND"
        found = await intruder.recall.ListMessages(recall_pb2.ListMessagesRequest(agent_id=agent_id))
        assert not found.messages


async def test_a_full_window_evicts_but_loses_nothing(client: Client) -> None:
    agent_id = await new_agent(client, model=pb.ModelConfig(context_window_tokens=4000))
    conversation_id = await new_conversation(client, agent_id)
    filler = "The meeting about the quarterly figures went on and on without any result worth telling. " * 6
    evicted = []
    for number in range(14):
        turn = await say(client, conversation_id, f"Note {number}: {filler}")
        assert turn.end.WhichOneof("event") == "completed", turn.end
        evicted += turn.of("evicted")
    assert evicted
    window = await client.recall.GetWindow(
        recall_pb2.GetWindowRequest(agent_id=agent_id, conversation_id=conversation_id)
    )
    assert window.evicted_count > 0
    assert window.summary
    found = await client.recall.SearchMessages(
        recall_pb2.SearchMessagesRequest(agent_id=agent_id, text=recall_pb2.TextQuery(text="Note 0"), limit=50)
    )
    assert any(result.message.text.find("Note 0:") >= 0 for result in found.results)


async def test_the_context_window_shows_the_prompt_and_its_bill(client: Client) -> None:
    agent_id = await new_agent(client, instructions="Answer briefly.")
    conversation_id = await new_conversation(client, agent_id)
    await say(client, conversation_id, "I play the cello.")
    shown = await client.agents.GetContextWindow(pb.GetContextWindowRequest(conversation_id=conversation_id))
    kinds = {part.kind for part in shown.parts}
    assert {"instructions", "memory", "message", "tools"} <= kinds
    assert shown.token_count == sum(part.token_count for part in shown.parts)
    assert any("cello" in part.text for part in shown.parts if part.kind == "memory")
    steps = await client.agents.ListRuns(pb.ListRunsRequest(conversation_id=conversation_id))
    listed = await client.agents.ListSteps(pb.ListStepsRequest(run_id=steps.runs[0].run_id))
    assert listed.steps
    assert all(len(step.prompt_sha256) == 64 for step in listed.steps)
