"""A watcher's queue: pieces of text that wait become one, everything else keeps its order."""

from __future__ import annotations

from mneme.orchestrator import events
from mneme.orchestrator.relay.watch import Subscription
from mneme.orchestrator.v1 import orchestrator_pb2 as pb


def delta(offset: int, text: str, step_id: str = "step-1", attempt: int = 1) -> pb.RunEvent:
    return events.token_delta("run-1", attempt=attempt, step_id=step_id, offset=offset, text=text)


async def taken(subscription: Subscription) -> list[pb.RunEvent]:
    found = []
    while (event := await subscription.get(0.01)) is not None:
        found.append(event)
    return found


async def test_pieces_that_wait_become_one() -> None:
    subscription = Subscription(tokens=True)
    first = delta(0, "Hel")
    for event in (first, delta(3, "lo "), delta(6, "你好")):
        subscription.put(event)
    (joined,) = await taken(subscription)
    assert (joined.token_delta.offset, joined.token_delta.text) == (0, "Hello 你好")
    assert first.token_delta.text == "Hel", "other watchers hold the same event"


async def test_a_piece_joins_only_what_it_continues() -> None:
    subscription = Subscription(tokens=True)
    message = pb.RunEvent(sequence=2, assistant_message=pb.AssistantMessage(text="a"))
    put = [delta(0, "a"), delta(5, "gap"), delta(8, "b", step_id="step-2"), delta(9, "c", "step-2", attempt=2), message]
    for event in put:
        subscription.put(event)
    assert await taken(subscription) == put


async def test_an_empty_queue_waits_for_its_time_only() -> None:
    subscription = Subscription(tokens=True)
    assert await subscription.get(0.01) is None
    subscription.put(delta(0, "late"))
    assert await subscription.get(0.01) is not None
