"""Listing: every page order and size gives every message once, also while others write."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mneme.recall.v1 import recall_pb2 as pb
from tests.contract.recall.conftest import Writer, user
from tests.support.hosting import failure

if TYPE_CHECKING:
    from mneme.recall.v1.recall_pb2_grpc import RecallServiceAsyncStub

_examples = itertools.count(1)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seconds=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3)), min_size=1, max_size=12),
    size=st.integers(1, 5),
    newest_first=st.booleans(),
    one_conversation=st.booleans(),
)
async def test_pages_hold_every_message_once_in_order(
    stub: RecallServiceAsyncStub,
    seconds: list[tuple[int, int]],
    size: int,
    newest_first: bool,
    one_conversation: bool,
) -> None:
    agent = f"agent-page-{next(_examples)}"
    writers = [Writer(stub, agent_id=agent), Writer(stub, agent_id=agent)]
    for number, (writer, second) in enumerate(seconds):
        await writers[writer].append(user(str(number), create_time=Timestamp(seconds=second)))
    order = pb.LIST_ORDER_NEWEST_FIRST if newest_first else pb.LIST_ORDER_OLDEST_FIRST
    wanted = pb.MessageFilter(conversation_id=writers[0].conversation_id if one_conversation else "")
    listed = await writers[0].list(filter=wanted, order=order, page_size=size)

    def place(message: pb.Message) -> tuple[object, ...]:
        if one_conversation:
            return (message.sequence,)
        return (message.create_time.seconds, message.conversation_id, message.sequence)

    places = [place(message) for message in listed]
    assert places == sorted(places, reverse=newest_first)
    expected = [n for n, (writer, _) in enumerate(seconds) if not one_conversation or writer == 0]
    assert sorted(int(message.text) for message in listed) == expected


async def test_a_listing_is_stable_under_writes(writer: Writer) -> None:
    await writer.append(*(user(str(n)) for n in range(4)))
    request = pb.ListMessagesRequest(
        agent_id=writer.agent_id,
        filter=pb.MessageFilter(conversation_id=writer.conversation_id),
        order=pb.LIST_ORDER_NEWEST_FIRST,
        page_size=2,
    )
    first = await writer.stub.ListMessages(request)
    await writer.append(user("new"))
    request.page_token = first.next_page_token
    second = await writer.stub.ListMessages(request)
    assert [message.text for message in (*first.messages, *second.messages)] == ["3", "2", "1", "0"]
    assert second.next_page_token == ""


async def test_large_messages_make_shorter_pages(writer: Writer) -> None:
    for n in range(10):
        await writer.append(user(f"{n} " + "x" * 1_048_000))
    request = pb.ListMessagesRequest(agent_id=writer.agent_id, page_size=10)
    page = await writer.stub.ListMessages(request)
    assert 1 < len(page.messages) < 10
    assert [message.text[0] for message in await writer.list(page_size=10)] == list("0123456789")


async def test_bad_pages_are_refused(writer: Writer) -> None:
    await writer.append(user("a"), user("b"))
    request = pb.ListMessagesRequest(agent_id=writer.agent_id, page_size=1)
    token = (await writer.stub.ListMessages(request)).next_page_token
    for changed in (
        pb.ListMessagesRequest(agent_id=writer.agent_id, page_token="broken"),
        pb.ListMessagesRequest(agent_id="agent-2", page_token=token),
        pb.ListMessagesRequest(agent_id=writer.agent_id, page_token=token, order=pb.LIST_ORDER_NEWEST_FIRST),
    ):
        assert (await failure(writer.stub.ListMessages(changed))).reason_name == "INVALID_PAGE_TOKEN"
    error = await failure(writer.stub.ListMessages(pb.ListMessagesRequest(agent_id=writer.agent_id, page_size=-1)))
    assert error.violations[0].field == "page_size"
    assert (
        len((await writer.stub.ListMessages(pb.ListMessagesRequest(agent_id="agent-1", page_size=10**6))).messages) == 2
    )
