"""Appending: sequences, retries, pairs of calls and results, who may write what."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from mneme.common.v1 import common_pb2
from mneme.recall.v1 import recall_pb2 as pb
from mneme.recall.v1.recall_pb2_grpc import RecallServiceStub
from tests.contract.recall.conftest import Embedding, Writer, asks, assistant, request_id, result, texts, user
from tests.support.hosting import Replica, failure

if TYPE_CHECKING:
    from mneme.recall.v1.recall_pb2_grpc import RecallServiceAsyncStub


async def test_messages_come_back_as_they_were_given(writer: Writer) -> None:
    content = '{"reasoning": [{"signature": "c2ln", "n": 9007199254740993, "a": 5.0}], "before": "\\u0000 ü"}'
    given = pb.Message(
        message_id="message-given",
        role=pb.ROLE_ASSISTANT,
        text="I look it up. 我查一下。",
        content_json=content,
        tool_calls=[common_pb2.ToolCall(id="call-1", name="send_message", arguments_json='{"message": "hi \\u0000"}')],
        step_id="step-1",
        run_id="run-1",
        token_count=12,
        provenance=common_pb2.Provenance(reason="asked", trust_level=common_pb2.TRUST_LEVEL_AGENT),
        hidden=True,
        speaker="Ann",
        kind=pb.MESSAGE_KIND_AGENT_MESSAGE,
    )
    given.create_time.FromJsonString("2026-01-02T03:04:05.678901Z")
    response = await writer.append(given)

    assert response.next_sequence == 2
    assert response.messages[0].sequence == 1
    assert response.messages[0].text == ""
    stored = (await writer.window()).messages[0]
    assert stored.index_state == common_pb2.INDEX_STATE_PENDING or stored.index_state == common_pb2.INDEX_STATE_INDEXED
    assert stored.agent_id == writer.agent_id
    assert stored.conversation_id == writer.conversation_id
    for name in ("agent_id", "conversation_id", "sequence", "index_state"):
        stored.ClearField(name)
    assert stored == given


async def test_the_kind_of_a_message_fits_its_role(writer: Writer) -> None:
    await writer.append(
        user("hello"),
        pb.Message(role=pb.ROLE_SYSTEM, text="logged in", kind=pb.MESSAGE_KIND_INTERACTION),
        pb.Message(role=pb.ROLE_SYSTEM, text="notice"),
    )
    assert [message.kind for message in (await writer.window()).messages] == [
        pb.MESSAGE_KIND_USER_MESSAGE,
        pb.MESSAGE_KIND_INTERACTION,
        pb.MESSAGE_KIND_SYSTEM_EVENT,
    ]
    error = await failure(writer.append(user("x", kind=pb.MESSAGE_KIND_TIMED)))
    assert (error.reason_name, error.violations[0].field) == ("INVALID_FIELD", "messages[0].kind")


async def test_a_result_says_whether_the_call_succeeded(writer: Writer) -> None:
    failed = result("call-1")
    failed.tool_ok = False
    await writer.append(asks("call-1"), failed, user("hello"))
    stored = (await writer.window()).messages
    assert [(one.HasField("tool_ok"), one.tool_ok) for one in stored] == [(False, False), (True, False), (False, False)]
    open_one = result("call-2")
    open_one.ClearField("tool_ok")
    for wrong in ([asks("call-2"), open_one], [asks("call-2"), user("x", tool_ok=True)]):
        assert (await failure(writer.append(*wrong))).violations[0].field == "messages[1].tool_ok"


async def test_a_message_is_found_by_its_speaker(writer: Writer, embedding: Embedding) -> None:
    await writer.append(user("I like nuts", speaker="Ann"), user("I like tea", speaker="Bob"))
    assert texts(await writer.words("what did Ann say")) == ["I like nuts"]
    await writer.indexed()
    assert "Ann: I like nuts" in embedding.fake.texts


@pytest.mark.parametrize("content", ["[1]", "{", '{"n": NaN}', '{"n": 1} x', "[" * 100_000, "null"])
async def test_content_is_a_json_object(writer: Writer, content: str) -> None:
    error = await failure(writer.append(user("hello"), user("x", content_json=content)))
    assert error.reason_name == "INVALID_FIELD"
    assert error.violations[0].field == "messages[1].content_json"


async def test_content_may_hold_numbers_of_any_length(writer: Writer) -> None:
    content = f'{{"n": {"9" * 5000}}}'
    await writer.append(user("x", content_json=content))
    assert (await writer.window()).messages[0].content_json == content


async def test_two_writers_leave_no_gap(stub: RecallServiceAsyncStub) -> None:
    first, second = Writer(stub, "conversation-shared"), Writer(stub, "conversation-shared")
    turns = [
        writer.append(user(f"{name} {n}"), assistant("yes"))
        for n in range(10)
        for name, writer in (("a", first), ("b", second))
    ]
    responses = await asyncio.gather(*turns)

    starts = sorted(response.messages[0].sequence for response in responses)
    assert starts == list(range(1, 41, 2))
    window = await first.window()
    assert [message.sequence for message in window.messages] == list(range(1, 41))
    assert [message.role for message in window.messages] == [pb.ROLE_USER, pb.ROLE_ASSISTANT] * 20
    times = [message.create_time.ToNanoseconds() for message in window.messages]
    assert times == sorted(times)


async def test_conversations_of_one_agent_are_written_side_by_side(stub: RecallServiceAsyncStub) -> None:
    writers = [Writer(stub) for _ in range(8)]
    words = ["the", "same", "words", "in", "another", "order", "for", "each", "of", "these", "writers"]
    await asyncio.gather(
        *(writer.append(user(" ".join(words[n % 11 :] + words[: n % 11]))) for n in range(10) for writer in writers)
    )
    assert (await writers[0].words("same words order")).total_count == 80


async def test_an_expected_sequence_must_be_next(writer: Writer) -> None:
    assert (await failure(writer.append(user("hello"), expected=2))).reason_name == "SEQUENCE_MISMATCH"
    await writer.append(user("hello"), expected=1)
    error = await failure(writer.append(user("again"), expected=1))
    assert (error.reason_name, error.code.name) == ("SEQUENCE_MISMATCH", "ABORTED")
    assert error.metadata == {"conversation_id": writer.conversation_id, "expected": "1", "actual": "2"}
    await writer.append(user("again"), expected=2)
    assert (await writer.window()).next_sequence == 3


async def test_a_retry_gets_the_first_response(writer: Writer) -> None:
    """Peers' complaint 29: without a client's id a retry writes twice: redis-developer/adk-redis/issues/24."""
    same = request_id()
    first = await writer.append(user("once"), request=same)
    assert await writer.append(user("once"), request=same) == first
    assert len((await writer.window()).messages) == 1
    assert (await failure(writer.append(user("other"), request=same))).reason_name == "REQUEST_ID_REUSED"


async def test_the_same_messages_under_another_request_are_not_doubled(writer: Writer) -> None:
    """Peers' complaint 23, a check before an insert that races: mem0ai/mem0/issues/6531."""
    batch = [user("eat", message_id="message-a"), asks("call-1"), result("call-1")]
    batch[1].message_id, batch[2].message_id = "message-b", "message-c"
    first = await writer.append(*batch, expected=1)
    again = await writer.append(*batch, expected=1)
    assert [message.sequence for message in again.messages] == [1, 2, 3]
    assert again.next_sequence == first.next_sequence
    await writer.append(user("more"))
    assert (await writer.append(*batch)).next_sequence == 5

    batch[0].text = "drink"
    error = await failure(writer.append(*batch))
    assert (error.reason_name, error.metadata) == ("ALREADY_EXISTS", {"resource": "message-a"})
    elsewhere = Writer(writer.stub)
    assert (await failure(elsewhere.append(user("eat", message_id="message-a")))).reason_name == "ALREADY_EXISTS"
    assert (await elsewhere.window()).next_sequence == 1


async def test_a_result_follows_its_call(writer: Writer) -> None:
    error = await failure(writer.append(user("hello"), result("call-1")))
    assert error.reason_name == "INVALID_TOOL_CALL"
    assert error.violations[0].field == "messages[1].tool_call_id"
    assert (await writer.window()).next_sequence == 1

    await writer.append(user("hello"), asks("call-1"))
    await writer.append(result("call-1"))
    assert (await failure(writer.append(result("call-1")))).reason_name == "INVALID_TOOL_CALL"
    assert (await failure(writer.append(asks("call-1")))).reason_name == "ALREADY_EXISTS"
    assert (await failure(writer.append(result("call-2"), asks("call-2")))).reason_name == "INVALID_TOOL_CALL"
    assert [message.tool_call_id for message in (await writer.window()).messages] == ["", "", "call-1"]


def _call(arguments: str, call_id: str = "call-1", name: str = "tool") -> pb.Message:
    call = common_pb2.ToolCall(id=call_id, name=name, arguments_json=arguments)
    return pb.Message(role=pb.ROLE_ASSISTANT, tool_calls=[call])


@pytest.mark.parametrize(
    ("message", "reason", "field"),
    [
        (user(""), "INVALID_FIELD", "messages[0].text"),
        (pb.Message(text="who speaks?"), "INVALID_FIELD", "messages[0].role"),
        (pb.Message(role=42, text="who speaks?"), "UNKNOWN_ENUM_VALUE", "messages[0].role"),  # type: ignore[arg-type]
        (user("x" * 1_048_577), "TEXT_TOO_LONG", "messages[0].text"),
        (user("a\0b"), "INVALID_TEXT", "messages[0].text"),
        (user("hello", message_id="msg-1"), "INVALID_FIELD", "messages[0].message_id"),
        (user("hello", token_count=-1), "INVALID_FIELD", "messages[0].token_count"),
        (pb.Message(role=pb.ROLE_TOOL, text="42"), "INVALID_ROLE", "messages[0].role"),
        (user("hello", tool_call_id="call-1"), "INVALID_ROLE", "messages[0].role"),
        (_call('{"query": '), "INVALID_TOOL_CALL", "messages[0].tool_calls[0].arguments_json"),
        (_call("[" * 100_000), "INVALID_TOOL_CALL", "messages[0].tool_calls[0].arguments_json"),
        (_call("[]"), "INVALID_TOOL_CALL", "messages[0].tool_calls[0].arguments_json"),
        (_call("{}", call_id=""), "INVALID_TOOL_CALL", "messages[0].tool_calls[0].id"),
        (_call("{}", name=""), "INVALID_TOOL_CALL", "messages[0].tool_calls[0].name"),
    ],
)
async def test_bad_messages_are_refused_whole(writer: Writer, message: pb.Message, reason: str, field: str) -> None:
    error = await failure(writer.append(message, user("and this")))
    assert error.reason_name == reason
    assert error.violations[0].field == field
    assert (await writer.window()).next_sequence == 1


async def test_bad_requests_are_refused(writer: Writer) -> None:
    assert (await failure(writer.append())).violations[0].field == "messages"
    assert (await failure(writer.append(user("x"), request="no-uuid"))).violations[0].field == "request_id"
    twice = user("x", message_id="message-1")
    assert (await failure(writer.append(twice, twice))).violations[0].field == "messages[1].message_id"
    assert (await failure(Writer(writer.stub, agent_id="").append(user("x")))).violations[0].field == "agent_id"
    await writer.append(user("x"))
    stranger = Writer(writer.stub, writer.conversation_id, agent_id="agent-2")
    assert (await failure(stranger.append(user("x")))).reason_name == "NOT_FOUND"


async def test_a_user_credential_appends_plain_words_of_its_user_only(replica: Replica, writer: Writer) -> None:
    ann = Writer(await replica.stub(RecallServiceStub, user="ann"), agent_id=writer.agent_id)
    await ann.append(user("hello"))
    assert (await ann.window()).messages[0].user_id == "ann"
    for message in (assistant("I am the agent"), pb.Message(role=pb.ROLE_SYSTEM, text="obey")):
        assert (await failure(ann.append(message))).reason_name == "INVALID_ROLE"
    for forged in (user("x", hidden=True), user("x", run_id="run-1"), user("x", content_json="{}")):
        assert (await failure(ann.append(forged))).reason_name == "INVALID_FIELD"

    bob = Writer(await replica.stub(RecallServiceStub, user="bob"), ann.conversation_id)
    assert (await failure(bob.append(user("x")))).reason_name == "NOT_FOUND"
    bob.user_id = "ann"
    assert (await failure(bob.append(user("x")))).reason_name == "USER_NOT_ALLOWED"
    writer.conversation_id, writer.user_id = ann.conversation_id, "bob"
    assert (await failure(writer.append(user("x")))).violations[0].field == "user_id"
    writer.user_id = ""
    assert (await writer.append(assistant("hello Ann"))).messages[0].user_id == "ann"


async def test_only_the_orchestrator_evicts_and_purges(replica: Replica) -> None:
    person = Writer(await replica.stub(RecallServiceStub))
    await person.append(user("hello"))
    assert (await failure(person.evict(1))).reason_name == "CALLER_NOT_ALLOWED"
    purge = person.stub.PurgeData(
        pb.PurgeDataRequest(request_id=request_id(), subject=common_pb2.PurgeSubject(agent_id="agent-1"))
    )
    assert (await failure(purge)).reason_name == "CALLER_NOT_ALLOWED"
