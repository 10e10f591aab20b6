"""The window, eviction and deletion."""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING

import grpc.aio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mneme.recall.service import build
from mneme.recall.v1 import recall_pb2 as pb
from mneme.recall.v1.recall_pb2_grpc import RecallServiceStub
from mneme.settings import PeersSettings
from tests.contract.recall.conftest import Embedding, Writer, asks, assistant, request_id, result, user
from tests.support.hosting import Hosting, Replica, failure

if TYPE_CHECKING:
    from mneme.recall.v1.recall_pb2_grpc import RecallServiceAsyncStub

_examples = itertools.count(1)


async def test_an_unknown_conversation_has_an_empty_window(writer: Writer) -> None:
    assert await writer.window() == pb.GetWindowResponse(next_sequence=1)


async def test_eviction_moves_the_window_and_keeps_the_messages(writer: Writer) -> None:
    """Peers' complaint 14: a full queue drops the oldest turn before it is kept elsewhere: BAI-LAB/MemoryOS/pull/65."""
    await writer.append(*(user(f"number {n}") for n in range(1, 7)))
    response = await writer.evict(4, "three numbers")
    assert (response.summary_version, response.evicted_count) == (1, 3)
    window = await writer.window()
    assert (window.summary, window.summary_version, window.evicted_count) == ("three numbers", 1, 3)
    assert [message.sequence for message in window.messages] == [4, 5, 6]
    assert (await writer.words("number 2")).results[0].message.text == "number 2"

    assert (await writer.evict(7, "all numbers", version=1)).evicted_count == 3
    window = await writer.window()
    assert (window.summary, window.next_sequence, list(window.messages)) == ("all numbers", 7, [])
    await writer.append(user("number 7"))
    assert [message.sequence for message in (await writer.window()).messages] == [7]
    old = await writer.window(summary_version=1)
    assert (old.summary, old.summary_version) == ("three numbers", 1)
    assert (await failure(writer.window(summary_version=3))).reason_name == "NOT_FOUND"


async def test_what_was_said_is_known_to_every_replica_at_once(
    hosting: Hosting, embedding: Embedding, writer: Writer
) -> None:
    """Peers' complaint 19: an eventually consistent read is taken for a new agent, and its context is lost.

    aws/bedrock-agentcore-sdk-python/issues/564.
    """
    peers = PeersSettings(embedding=embedding.address)
    async with hosting.replica("recall", build, peers=peers) as other:
        stub = await other.stub(RecallServiceStub, service="orchestrator")
        elsewhere = Writer(stub, conversation_id=writer.conversation_id)
        for number in range(8):
            here, there = (writer, elsewhere) if number % 2 else (elsewhere, writer)
            await here.append(user(f"said {number}"), expected=number + 1)
            assert [one.text for one in (await there.window()).messages] == [f"said {n}" for n in range(number + 1)]


async def test_two_evictions_cannot_lose_a_summary(writer: Writer) -> None:
    await writer.append(*(user(f"number {n}") for n in range(1, 7)))
    await writer.evict(3, "first")
    error = await failure(writer.evict(4, "second", version=0))
    assert (error.reason_name, error.code.name) == ("ETAG_MISMATCH", "ABORTED")
    assert (await writer.window()).summary == "first"


async def test_eviction_never_parts_a_call_from_its_result(writer: Writer) -> None:
    await writer.append(user("a"), asks("call-1"), result("call-1"), asks("call-2"))
    for first_kept in (3, 5):
        assert (await failure(writer.evict(first_kept))).reason_name == "INVALID_STATE"
    assert (await writer.window()).summary_version == 0
    await writer.evict(4)
    await writer.append(result("call-2"))
    await writer.evict(6, version=1)


@pytest.mark.parametrize("first_kept", [2, 8])
async def test_eviction_outside_the_window_is_refused(writer: Writer, first_kept: int) -> None:
    await writer.append(*(user(f"number {n}") for n in range(1, 7)))
    await writer.evict(4)
    error = await failure(writer.evict(first_kept, version=1))
    assert error.violations[0].field == "first_kept_sequence"
    assert (await failure(Writer(writer.stub).evict(1))).reason_name == "NOT_FOUND"


async def test_deletion_takes_a_call_and_its_result_together(writer: Writer) -> None:
    stored = (await writer.append(user("giraffe"), asks("call-1"), result("call-1"), user("zebra"))).messages
    ids = [message.message_id for message in stored]

    async def delete(*message_ids: str) -> int:
        request = pb.DeleteMessagesRequest(request_id=request_id(), agent_id=writer.agent_id, message_ids=message_ids)
        return (await writer.stub.DeleteMessages(request)).deleted_count

    for half in (ids[1], ids[2]):
        assert (await failure(delete(half))).reason_name == "INVALID_STATE"
    assert await delete(ids[0], ids[1], ids[2], "message-unknown") == 3
    assert await delete(ids[0]) == 0
    assert [message.text for message in (await writer.window()).messages] == ["zebra"]
    assert (await writer.words("giraffe")).total_count == 0
    assert (await writer.append(asks("call-1"))).messages[0].sequence == 5


async def test_evicted_messages_are_counted_after_a_deletion(writer: Writer) -> None:
    stored = (await writer.append(*(user(f"number {n}") for n in range(1, 7)))).messages
    await writer.evict(4)
    ids = [stored[0].message_id, stored[4].message_id]
    await writer.stub.DeleteMessages(
        pb.DeleteMessagesRequest(request_id=request_id(), agent_id=writer.agent_id, message_ids=ids)
    )
    window = await writer.window()
    assert (window.evicted_count, [message.sequence for message in window.messages]) == (2, [4, 6])


async def test_a_user_sees_and_deletes_own_messages_only(replica: Replica, writer: Writer) -> None:
    writer.user_id = "ann"
    stored = (await writer.append(user("giraffe"))).messages
    bob = Writer(await replica.stub(RecallServiceStub, user="bob"), writer.conversation_id)
    ids = [stored[0].message_id]
    request = pb.DeleteMessagesRequest(request_id=request_id(), agent_id=writer.agent_id, message_ids=ids)
    assert (await bob.stub.DeleteMessages(request)).deleted_count == 0
    assert not (await bob.window()).messages
    assert not await bob.list()
    assert (await bob.words("giraffe")).total_count == 0
    got = await bob.stub.GetMessages(pb.GetMessagesRequest(agent_id=writer.agent_id, message_ids=ids))
    assert not got.messages
    ann = Writer(await replica.stub(RecallServiceStub, user="ann"), writer.conversation_id)
    assert (await ann.words("giraffe")).total_count == 1
    assert (await failure(ann.list(filter=pb.MessageFilter(user_id="bob")))).reason_name == "USER_NOT_ALLOWED"
    request.request_id = request_id()
    assert (await ann.stub.DeleteMessages(request)).deleted_count == 1


async def test_get_keeps_the_order_asked(writer: Writer) -> None:
    stored = (await writer.append(user("a"), user("b"), user("c"))).messages
    ids = [stored[2].message_id, "message-unknown", stored[0].message_id]
    got = await writer.stub.GetMessages(pb.GetMessagesRequest(agent_id=writer.agent_id, message_ids=ids))
    assert [message.text for message in got.messages] == ["c", "a"]
    stranger = pb.GetMessagesRequest(agent_id="agent-2", message_ids=ids)
    assert not (await writer.stub.GetMessages(stranger)).messages


_turns = st.lists(st.sampled_from(["user", "assistant", "pair", "open", "close", "evict"]), min_size=1, max_size=25)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=_turns, data=st.data())
async def test_a_window_is_always_a_whole_tail(
    stub: RecallServiceAsyncStub, turns: list[str], data: st.DataObject
) -> None:
    """Whatever happens, the window holds the last messages in order, and each result in it has its call."""
    writer = Writer(stub, f"conversation-property-{next(_examples)}")
    length, version, start, calls = 0, 0, 1, itertools.count()
    waiting: list[str] = []
    for turn in turns:
        if turn == "evict":
            first_kept = data.draw(st.integers(1, length + 2))
            with contextlib.suppress(grpc.aio.AioRpcError):
                await writer.evict(first_kept, f"up to {first_kept}", version)
                version, start = version + 1, first_kept
        else:
            batch = _batch(turn, waiting, calls)
            length += len(batch)
            await writer.append(*batch, expected=length - len(batch) + 1)
        window = await writer.window()
        assert [message.sequence for message in window.messages] == list(range(start, length + 1))
        assert (window.summary_version, window.evicted_count) == (version, start - 1)
        asked: set[str] = set()
        for message in window.messages:
            asked.update(call.id for call in message.tool_calls)
            assert not message.tool_call_id or message.tool_call_id in asked


def _batch(turn: str, waiting: list[str], calls: itertools.count[int]) -> list[pb.Message]:
    if turn == "pair":
        call_id = f"call-{next(calls)}"
        return [asks(call_id), result(call_id)]
    if turn == "open":
        waiting.append(f"call-{next(calls)}")
        return [asks(waiting[-1])]
    if turn == "close" and waiting:
        return [result(waiting.pop())]
    return [assistant("hello") if turn == "assistant" else user("hello")]
