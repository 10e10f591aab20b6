"""A turn that is answered from the cache beside one that asks a slow model, and the mean over a whole stream of them.

The model of the published figure takes 23.9 s for an answer. Nobody waits for that here: the suite is measured with a
model that answers at once, and 23.9 s are added to the time of each turn that asked it.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import store_stream
from benchmarks.processes import ONE_PROCESS, deployed, fresh_stores
from benchmarks.report import Bar, Row
from benchmarks.store_stream import Asked, Tally
from benchmarks.turn import percentile
from mneme.client import Client, new_request_id
from mneme.orchestrator.v1 import orchestrator_pb2 as pb

PREFIXES = ("cached_",)

MODEL_SECONDS = 23.9
"""Time of the published model for one answer."""
_HALF, _SEED, _LENGTH = "report", 20_261, 1_000
_USERS = 20
_WARM_UP, _TURNS = 30, 200
_TURN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of the stream or beside it."""

    milliseconds: float
    """Of the suite alone."""
    hit: bool
    looked_up: bool
    text: str

    @property
    def seconds(self) -> float:
        """As it would have been with the published model."""
        return self.milliseconds / 1000 + (0.0 if self.hit else MODEL_SECONDS)


async def measure() -> list[Row]:
    """The rows of this part."""
    async with fresh_stores() as stores, deployed(stores, ONE_PROCESS) as suite, suite.client() as client:
        plain = await _turns(client, await _conversations(client, pb.CACHE_POLICY_OFF), _questions(0))
        asked = await _turns(client, await _conversations(client, pb.CACHE_POLICY_SHARED), _questions(0))
        served = await _turns(client, await _conversations(client, pb.CACHE_POLICY_SHARED), _questions(1))
        # On a busy machine a look-up may take longer than the cache is given; such a turn is none that was served.
        served = [turn for turn in served if turn.hit]
        if any(turn.hit for turn in (*plain, *asked)) or len(served) < _TURNS / 2:
            raise RuntimeError("turns were answered otherwise than they should have been")
        return [*_alone(plain, asked, served), *await _stream(client)]


def _alone(plain: Sequence[Turn], asked: Sequence[Turn], served: Sequence[Turn]) -> list[Row]:
    slow = 1000 * MODEL_SECONDS + percentile(_times(plain), 50)
    return [
        Row("cached_turn_p50", percentile(_times(served), 50), "ms", slow),
        Row("cached_turn_p95", percentile(_times(served), 95), "ms", slow),
        Row("cached_turn_missed_p50", percentile(_times(asked), 50), "ms", percentile(_times(plain), 50)),
    ]


async def _stream(client: Client) -> list[Row]:
    questions = store_stream.stream(store_stream.intents(_HALF), _SEED, _LENGTH)
    conversations = await _conversations(client, pb.CACHE_POLICY_SHARED)
    right = {one.text: one.answer for one in questions}
    tally, turns = Tally(), []
    for number, one in enumerate(questions):
        turn = await _turn(client, conversations[number % len(conversations)], one.text)
        tally.count(one, right[turn.text] if turn.hit else None, looked_up=turn.looked_up)
        turns.append(turn)
    return _stream_rows(questions, turns, tally)


def _stream_rows(questions: Sequence[Asked], turns: Sequence[Turn], tally: Tally) -> list[Row]:
    suite = statistics.fmean(turn.milliseconds for turn in turns if not turn.hit) / 1000
    return [
        Row("cached_stream_mean", statistics.fmean(turn.seconds for turn in turns), "s", MODEL_SECONDS + suite),
        Row("cached_stream_hits", 100 * tally.hits / len(questions), "%"),
        Row("cached_stream_reused", 100 * tally.reused / max(1, tally.answerable), "% of answerable"),
        Row(
            "cached_stream_precision",
            100 * (1 - tally.wrong / tally.hits) if tally.hits else 0.0,
            "% of hits",
            bar=Bar(99, at_least=True),
        ),
    ]


def _times(turns: Sequence[Turn]) -> list[float]:
    return [turn.milliseconds for turn in turns]


def _questions(repeats: int) -> list[str]:
    """Questions that differ in a number, or always the same after it was asked once."""
    if repeats:
        return ["How many days does a delivery to Lisbon take?"] * (_TURNS + _WARM_UP)
    return [f"How many days does a delivery to house {number} in Lisbon take?" for number in range(_TURNS + _WARM_UP)]


async def _turns(client: Client, conversations: Sequence[str], questions: Sequence[str]) -> list[Turn]:
    """The turns after those that warm up."""
    turns = []
    for number, question in enumerate(questions):
        turns.append(await _turn(client, conversations[number % len(conversations)], question))
    return turns[_WARM_UP:]


async def _turn(client: Client, conversation_id: str, text: str) -> Turn:
    """Raises RuntimeError for a turn that failed or said nothing, TimeoutError for one that hangs."""
    began, said, missed, hit = time.perf_counter(), "", "", False
    request = pb.SendMessageRequest(
        request_id=new_request_id(), conversation_id=conversation_id, text=text, include_inner_events=True
    )
    async with asyncio.timeout(_TURN_SECONDS):
        async for response in client.agents.SendMessage(request):
            event = response.event
            kind = event.WhichOneof("event")
            hit |= kind == "cache_hit"
            if kind == "cache_miss":
                missed = event.cache_miss.reason
            elif kind == "assistant_message":
                said = event.assistant_message.text
            elif kind == "failed":
                raise RuntimeError(f"a turn failed: {event.failed.failure.message}")
    if not said:
        raise RuntimeError("a turn ended without an answer")
    return Turn(1000 * (time.perf_counter() - began), hit, missed not in ("STATEMENT", "ELLIPTICAL"), said)


async def _conversations(client: Client, policy: pb.CachePolicy.ValueType) -> list[str]:
    """One a user, all with one new agent."""
    agent = pb.Agent(display_name="bench", instructions="You answer the questions of a store.", cache_policy=policy)
    made = await client.agents.CreateAgent(pb.CreateAgentRequest(request_id=new_request_id(), agent=agent))
    requests = [
        pb.CreateConversationRequest(
            request_id=new_request_id(), agent_id=made.agent.agent_id, user_id=f"user-{number}"
        )
        for number in range(_USERS)
    ]
    opened = [await client.agents.CreateConversation(request) for request in requests]
    return [one.conversation.conversation_id for one in opened]
