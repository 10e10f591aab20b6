"""Answers for all users of an agent: made once, from nothing that is anybody's own, and true as long as they last."""

from __future__ import annotations

import pytest

from mneme.archival.v1 import archival_pb2
from mneme.archival.v1.archival_pb2_grpc import ArchivalServiceStub
from mneme.common.v1 import common_pb2
from mneme.core_memory.v1 import core_memory_pb2
from mneme.core_memory.v1.core_memory_pb2_grpc import CoreMemoryServiceStub
from mneme.errors.v1 import errors_pb2
from mneme.orchestrator.models.port import ModelOutput, ModelRequest, StopReason, Usage
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.runtime.errors import Error
from tests.contract.orchestrator.scripted import (
    ScriptedModel,
    Talk,
    calls,
    echo,
    kinds,
    open_talk,
    request_id,
    says,
    texts,
    thinks,
)
from tests.support.suite import Suite

QUESTION = "How long may a customer return a lamp?"
PUBLIC_TOOLS = ["send_message", "needs_context"]


def is_public(request: ModelRequest) -> bool:
    """Whether a prompt is one for all users."""
    return [tool.name for tool in request.tools] == PUBLIC_TOOLS


def shown(request: ModelRequest) -> str:
    """All text of a prompt."""
    return "\n".join([part.text for part in request.system] + [turn.text for turn in request.turns])


def needs_context(request: ModelRequest) -> ModelOutput:
    """Hands every question on that is to be answered for all."""
    return calls(("needs_context", {"reason": "user"})) if is_public(request) else echo(request)


@pytest.fixture
async def ann(scripted_suite: Suite) -> Talk:
    """Ann's conversation with an agent whose answers all users share."""
    return await open_talk(scripted_suite, agent=shared_agent())


def shared_agent(**fields: object) -> pb.Agent:
    """An agent that serves everybody."""
    agent = pb.Agent(instructions="You work in a shop.", cache_policy=pb.CACHE_POLICY_SHARED)
    agent.MergeFrom(pb.Agent(**fields))  # type: ignore[arg-type]
    return agent


async def with_user(talk: Talk, user: str) -> Talk:
    """Another user's conversation with the same agent."""
    opened = await talk.agents.CreateConversation(
        pb.CreateConversationRequest(request_id=request_id(), agent_id=talk.agent_id, user_id=user)
    )
    return Talk(talk.suite, talk.agent_id, opened.conversation.conversation_id)


async def knowledge_base(talk: Talk, *passages: str) -> str:
    """A knowledge base of the agent's."""
    archival = talk.suite.stub(ArchivalServiceStub)
    made = await archival.CreateKnowledgeBase(
        archival_pb2.CreateKnowledgeBaseRequest(
            request_id=request_id(), knowledge_base=archival_pb2.KnowledgeBase(display_name=talk.agent_id)
        )
    )
    id_ = made.knowledge_base.knowledge_base_id
    await archival.AttachKnowledgeBase(
        archival_pb2.AttachKnowledgeBaseRequest(request_id=request_id(), knowledge_base_id=id_, agent_id=talk.agent_id)
    )
    for text in passages:
        await add_passage(talk, id_, text)
    return id_


async def add_passage(talk: Talk, owner: str, text: str, **fields: object) -> str:
    """A passage that search finds at once."""
    place = {"knowledge_base_id": owner} if owner.startswith("kb-") else {"agent_id": owner}
    made = await talk.suite.stub(ArchivalServiceStub).InsertPassage(
        archival_pb2.InsertPassageRequest(
            request_id=request_id(),
            owner=archival_pb2.PassageOwner(**place),
            passage=archival_pb2.Passage(text=text, **fields),  # type: ignore[arg-type]
        )
    )
    return made.passage.passage_id


async def add_block(talk: Talk, label: str, value: str, visibility: common_pb2.BlockVisibility.ValueType) -> str:
    """A block of the agent's that all users' conversations see."""
    memory = talk.suite.stub(CoreMemoryServiceStub)
    block = core_memory_pb2.Block(label=label, value=value, visibility=visibility)
    made = await memory.CreateBlock(core_memory_pb2.CreateBlockRequest(request_id=request_id(), block=block))
    await memory.AttachBlock(
        core_memory_pb2.AttachBlockRequest(
            request_id=request_id(),
            block_id=made.block.block_id,
            attachment=core_memory_pb2.BlockAttachment(agent_id=talk.agent_id),
        )
    )
    return made.block.block_id


async def append(talk: Talk, block_id: str, text: str) -> None:
    """Edits a block."""
    await talk.suite.stub(CoreMemoryServiceStub).AppendText(
        core_memory_pb2.AppendTextRequest(
            request_id=request_id(), ref=core_memory_pb2.BlockRef(block_id=block_id), text=text
        )
    )


def hit(events: list[pb.RunEvent]) -> pb.CacheHit | None:
    """The answer that was served, if one was."""
    return next((event.cache_hit for event in events if event.WhichOneof("event") == "cache_hit"), None)


async def test_the_second_user_is_answered_without_the_model(model: ScriptedModel, ann: Talk) -> None:
    model.answers = [says("Thirty days.")]
    asked = await (await with_user(ann, "ann")).send(QUESTION, stream_tokens=True)
    bob = await with_user(ann, "bob")
    again = await bob.send(QUESTION)

    assert texts(asked) == texts(again) == ["Thirty days."]
    assert "".join(e.token_delta.text for e in asked if e.WhichOneof("event") == "token_delta") == "Thirty days."
    assert asked[-1].completed.stop_reason == pb.STOP_REASON_END_TURN
    assert len(model.requests) == 1
    assert kinds(again) == ["queued", "cache_hit", "assistant_message", "completed"]
    served = hit(again)
    assert served is not None
    assert served.shared
    assert served.exact
    assert served.question == ""
    assert [m.text for m in await bob.messages()] == [QUESTION, "Thirty days.", "Sent."]
    steps = (await ann.agents.ListSteps(pb.ListStepsRequest(run_id=asked[0].run_id))).steps
    assert [call.name for call in steps[0].tool_calls] == ["send_message"]


async def test_the_public_prompt_holds_nothing_that_is_anybodys_own(model: ScriptedModel, ann: Talk) -> None:
    await add_block(ann, "house", "The shop closes at six.", common_pb2.BLOCK_VISIBILITY_SHARED)
    await add_block(ann, "notes", "Secret margin of 40 percent.", common_pb2.BLOCK_VISIBILITY_PRIVATE)
    kb = await knowledge_base(ann, "A lamp may be returned within thirty days.")
    await add_passage(ann, kb, "A lamp of user seven may be returned within ninety days.", user_id="user-7")
    await add_passage(ann, ann.agent_id, "A lamp was returned by Zoe after two days.")
    talk = await with_user(ann, "user-7")
    await talk.send("My name is Zoe.")
    await talk.send(QUESTION, speaker="Zoe")

    request = model.requests[-1]
    assert is_public(request)
    seen = shown(request)
    assert "The shop closes at six." in seen
    assert "You work in a shop." in seen
    assert "within thirty days" in seen
    for private in ("margin", "ninety", "Zoe", "user-7", "20"):
        assert private not in seen.replace(kb, ""), private
    assert [turn.text for turn in request.turns if turn.role == "user"] == [QUESTION]


async def test_a_model_that_needs_the_conversation_gets_it_and_nothing_is_kept(model: ScriptedModel, ann: Talk) -> None:
    model.script = needs_context
    talk = await with_user(ann, "ann")
    first = await talk.send(QUESTION)
    assert texts(first) == [f"echo {QUESTION}"]
    assert [is_public(request) for request in model.requests] == [True, False]
    assert first[-1].completed.usage.model_calls == 2

    second = await (await with_user(ann, "bob")).send(QUESTION)
    assert hit(second) is None
    assert [is_public(request) for request in model.requests] == [True, False, False]
    misses = [event.cache_miss.reason for event in second if event.WhichOneof("event") == "cache_miss"]
    assert misses == ["NEEDS_CONTEXT"]
    assert [m.text for m in await talk.messages()] == [QUESTION, f"echo {QUESTION}", "Sent."]
    rows = (await ann.agents.GetUsage(pb.GetUsageRequest(agent_id=ann.agent_id))).rows
    assert {(row.purpose, row.usage.model_calls) for row in rows} == {("public", 1), ("", 2)}
    run = (await ann.agents.GetRun(pb.GetRunRequest(run_id=first[0].run_id))).run
    assert run.usage == first[-1].completed.usage


NO_ANSWERS: dict[str, ModelOutput | Error] = {
    "text alone": thinks("It is thirty days."),
    "another tool": calls(("core_memory_append", {"label": "human", "content": "x"})),
    "an invalid call": calls(("send_message", {"text": "x"})),
    "an answer and a wish for context": calls(
        ("send_message", {"message": "x"}), ("needs_context", {"reason": "time"})
    ),
    "cut": ModelOutput("", says("Thirty").tool_calls, (), StopReason.MAX_TOKENS, Usage(), "m"),
    "a refusal": ModelOutput("No.", (), (), StopReason.REFUSAL, Usage(), "m"),
    "too long": Error(errors_pb2.REASON_CONTEXT_OVERFLOW, "too long"),
}


async def test_only_a_whole_answer_counts_as_one(model: ScriptedModel, scripted_suite: Suite) -> None:
    for name, answer in NO_ANSWERS.items():
        ann = await open_talk(scripted_suite, agent=shared_agent())
        model.answers = [answer]
        first = await ann.send(QUESTION)
        assert texts(first) == [f"echo {QUESTION}"], name
        assert hit(await ann.send(QUESTION)) is None, name


async def test_statements_and_elliptical_questions_take_the_usual_way(model: ScriptedModel, ann: Talk) -> None:
    for text, reason in (("I like lamps.", "STATEMENT"), ("And the other one?", "ELLIPTICAL")):
        events = await ann.send(text)
        assert [e.cache_miss.reason for e in events if e.WhichOneof("event") == "cache_miss"] == [reason]
        assert not is_public(model.requests[-1])


async def test_it_is_served_only_as_long_as_what_all_users_see_is_the_same(model: ScriptedModel, ann: Talk) -> None:
    public = await add_block(ann, "house", "Thirty days.", common_pb2.BLOCK_VISIBILITY_SHARED)
    private = await add_block(ann, "notes", "Be kind.", common_pb2.BLOCK_VISIBILITY_PRIVATE)
    await ann.send(QUESTION)

    await append(ann, private, "Very kind.")
    assert hit(await ann.send(QUESTION)) is not None
    await append(ann, public, "No: sixty.")
    assert hit(await ann.send(QUESTION)) is None
    assert "sixty" in shown(model.requests[-1])
    await knowledge_base(ann, "A lamp may be returned within ninety days.")
    assert hit(await ann.send(QUESTION)) is None
    assert "ninety" in shown(model.requests[-1])


async def test_a_knowledge_base_that_moved_elsewhere_takes_no_answer_away(model: ScriptedModel, ann: Talk) -> None:
    lamps = [f"A lamp of kind {n} may be returned by a customer within thirty days." for n in range(8)]
    kb = await knowledge_base(ann, *lamps)
    await ann.send(QUESTION)

    await add_passage(ann, kb, "Our head office has a blue door.")
    assert hit(await ann.send(QUESTION)) is not None
    await add_passage(ann, kb, "How long may a customer return a lamp? Sixty days.")
    assert hit(await ann.send(QUESTION)) is None


async def test_so_many_users_must_have_asked_before_anybody_is_served(
    model: ScriptedModel, scripted_suite: Suite
) -> None:
    operator = await open_talk(scripted_suite, agent=shared_agent(shared_after_users=2))
    ann, bob, eve = [await with_user(operator, name) for name in ("ann", "bob", "eve")]
    assert hit(await ann.send(QUESTION)) is None
    assert hit(await ann.send(QUESTION)) is None
    assert hit(await bob.send(QUESTION)) is not None
    assert hit(await eve.send(QUESTION)) is not None
    assert len(model.requests) == 2


async def test_tenants_and_agents_share_nothing(model: ScriptedModel, ann: Talk) -> None:
    await ann.send(QUESTION)
    stranger = await open_talk(ann.suite, tenant="other", agent=shared_agent())
    sibling = await open_talk(ann.suite, agent=shared_agent())

    assert hit(await stranger.send(QUESTION)) is None
    assert hit(await sibling.send(QUESTION)) is None
    assert hit(await ann.send(QUESTION)) is not None


async def test_an_answer_that_changes_by_itself_is_not_kept(model: ScriptedModel, ann: Talk) -> None:
    question = "Which lamps are on sale today?"
    await ann.send(question)
    assert hit(await ann.send(question)) is None
