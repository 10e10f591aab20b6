"""An exact repeat is answered from the cache exactly as long as nothing that the answer rests on has changed."""

from __future__ import annotations

from mneme.archival.v1 import archival_pb2
from mneme.client import Client, new_request_id
from mneme.core_memory.v1 import core_memory_pb2
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from tests.support.talking import new_agent, new_conversation, say

QUESTION = "What is my favourite tea?"


async def prepared(client: Client) -> tuple[str, str]:
    """An agent that was told a fact and asked once; the agent and a conversation."""
    agent_id = await new_agent(client, cache_policy=pb.CACHE_POLICY_PER_USER)
    conversation_id = await new_conversation(client, agent_id, "user-1")
    await say(client, conversation_id, "My favourite tea is Darjeeling.")
    first = await say(client, conversation_id, QUESTION)
    assert "Darjeeling" in first.text
    assert not first.of("cache_hit")
    return agent_id, conversation_id


async def test_a_repeat_is_served_without_the_model(client: Client) -> None:
    _agent_id, conversation_id = await prepared(client)
    again = await say(client, conversation_id, QUESTION)
    assert again.of("cache_hit")
    assert "Darjeeling" in again.text
    assert again.end.completed.stop_reason == pb.STOP_REASON_CACHE_HIT
    assert again.end.completed.usage.model_calls == 0


async def test_an_edit_of_memory_ends_it_at_once(client: Client) -> None:
    agent_id, conversation_id = await prepared(client)
    await client.core_memory.AppendText(
        core_memory_pb2.AppendTextRequest(
            request_id=new_request_id(),
            ref=core_memory_pb2.BlockRef(
                agent_label=core_memory_pb2.AgentLabel(agent_id=agent_id, label="human", user_id="user-1")
            ),
            text="Plays chess.",
        )
    )
    again = await say(client, conversation_id, QUESTION)
    assert not again.of("cache_hit")


async def test_a_turn_with_the_model_in_between_ends_it(client: Client) -> None:
    _agent_id, conversation_id = await prepared(client)
    await say(client, conversation_id, "My favourite tea is Assam now.")
    again = await say(client, conversation_id, QUESTION)
    assert not again.of("cache_hit")
    assert "Assam" in again.text


async def test_another_user_is_never_served_from_it(client: Client) -> None:
    agent_id, _conversation_id = await prepared(client)
    other = await say(client, await new_conversation(client, agent_id, "user-2"), QUESTION)
    assert not other.of("cache_hit")
    assert "Darjeeling" not in other.text


async def test_what_all_users_may_see_is_answered_once_for_all(client: Client) -> None:
    agent_id = await new_agent(client, cache_policy=pb.CACHE_POLICY_SHARED)
    made = await client.archival.CreateKnowledgeBase(
        archival_pb2.CreateKnowledgeBaseRequest(
            request_id=new_request_id(), knowledge_base=archival_pb2.KnowledgeBase(display_name=agent_id)
        )
    )
    id_ = made.knowledge_base.knowledge_base_id
    await client.archival.AttachKnowledgeBase(
        archival_pb2.AttachKnowledgeBaseRequest(request_id=new_request_id(), knowledge_base_id=id_, agent_id=agent_id)
    )
    await client.archival.InsertPassage(
        archival_pb2.InsertPassageRequest(
            request_id=new_request_id(),
            owner=archival_pb2.PassageOwner(knowledge_base_id=id_),
            passage=archival_pb2.Passage(text="The warranty of the desk lamp is three years."),
        )
    )
    question = "How long is the warranty of the desk lamp?"
    first = await say(client, await new_conversation(client, agent_id, "user-1"), question)
    again = await say(client, await new_conversation(client, agent_id, "user-2"), question)
    assert "three years" in first.text
    assert not first.of("cache_hit")
    assert again.text == first.text
    assert again.of("cache_hit")[0].cache_hit.shared


async def test_what_only_the_user_knows_is_not_answered_for_all(client: Client) -> None:
    agent_id = await new_agent(client, cache_policy=pb.CACHE_POLICY_SHARED)
    for user, tea in (("user-1", "Darjeeling"), ("user-2", "Assam")):
        conversation_id = await new_conversation(client, agent_id, user)
        await say(client, conversation_id, f"My favourite tea is {tea}.")
        for _ in range(2):
            answer = await say(client, conversation_id, QUESTION)
            assert tea in answer.text
            assert not answer.of("cache_hit")
