"""A warm plain turn with a model that answers at once: its time, its rate, and what it takes of everything."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from benchmarks.baseline import Baseline
from benchmarks.probe import FLUSH_SECONDS, Probe, Reading, difference, named, per_turn
from benchmarks.processes import ONE_PROCESS, SIX_PROCESSES, Deployment, deployed, fresh_stores
from benchmarks.report import Bar, Row
from mneme.client import Client
from mneme.client.client import new_request_id
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.settings import Settings

PREFIXES = ("turn_", "first_token")

HOPS, COMMITS = 3, 4
"""What a plain turn may take (see "Life of a turn"); the baseline does exactly that much."""
HOPS_TO_TOKEN, COMMITS_TO_TOKEN = 2, 1
"""What of it comes before the first token: SendMessage, the accepted event, RenderMemory."""

_CONVERSATIONS, _WARM_UP, _TURNS = 4, 15, 40
_LANES, _LANE_WARM_UP, _LANE_SECONDS = 12, 3, 6.0
_BASELINE_SAMPLES = 100
_TURN_SECONDS = 20.0
_IDLE_SECONDS = 3.0
_TEXT = "Please keep in mind that Maria likes the window seat, and that we meet at the station at a quarter past {}."


@dataclass(frozen=True, slots=True)
class Turn:
    """Times of one turn in milliseconds since it was asked for."""

    first_token: float
    completed: float


@dataclass(frozen=True, slots=True)
class Alone:
    """Turns one after another, and the baseline measured just before and after them."""

    turns: Sequence[Turn]
    spent: Reading
    """Of one turn."""
    turns_by_hand: Sequence[float]
    tokens_by_hand: Sequence[float]

    def completed(self, name: str, percent: int, bar: Bar | None = None) -> Row:
        """A percentile of the whole turn beside the same of the baseline."""
        value = percentile([turn.completed for turn in self.turns], percent)
        return Row(name, value, "ms", percentile(self.turns_by_hand, percent), bar)

    def first_token(self, name: str, bar: Bar | None = None) -> Row:
        """Median time to the first token."""
        value = percentile([turn.first_token for turn in self.turns], 50)
        return Row(name, value, "ms", percentile(self.tokens_by_hand, 50), bar)


@dataclass(frozen=True, slots=True)
class Busy:
    """Turns of many conversations at once."""

    rate: float
    """Turns a second."""
    spent: Reading
    """Of one turn."""
    rate_by_hand: float


async def measure() -> list[Row]:
    """The rows of this part."""
    async with fresh_stores() as stores, Baseline.open(stores) as baseline:
        cpu_by_hand = await _cpu_by_hand(baseline, stores)
        async with deployed(stores, SIX_PROCESSES) as six:
            apart = await _alone(six, stores, baseline, settle=True)
        async with deployed(stores, ONE_PROCESS) as one:
            together = await _alone(one, stores, baseline)
        async with deployed(stores, (*SIX_PROCESSES, ("orchestrator",))) as two:
            busy = await _busy(two, stores, baseline)
    return [
        together.completed("turn_p50", 50, Bar(15)),
        together.completed("turn_p95", 95),
        apart.completed("turn_p50_six", 50),
        apart.completed("turn_p95_six", 95),
        Row("turn_rate", busy.rate, "turns/s", busy.rate_by_hand, Bar(60, at_least=True)),
        Row("turn_cpu", sum(named(apart.spent, "cpu").values()), "ms/turn", cpu_by_hand),
        together.first_token("first_token", Bar(5)),
        apart.first_token("first_token_six"),
        *_details(apart, together, busy),
    ]


def percentile(values: Sequence[float], percent: int) -> float:
    """A percentile of at least two values."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def _details(apart: Alone, together: Alone, busy: Busy) -> list[Row]:
    """What one turn takes, of whom.

    Hops are those on its path: the client's call and the orchestrator's. Commits and served calls are all there are,
    with what follows in the background.
    """
    asked = named(apart.spent, "asked")
    path = 1.0 + sum(calls for edge, calls in asked.items() if edge.startswith("orchestrator>"))
    database = named(apart.spent, "database")
    rows = [
        Row("turn_hops", path, "calls/turn"),
        *(Row(f"turn_served_{method}", calls, "calls/turn") for method, calls in named(apart.spent, "served").items()),
        Row("turn_commits", database["commits"], "writes/turn"),
        Row("turn_transactions", database["transactions"], "transactions/turn"),
    ]
    for prefix, spent in (("turn_cpu", apart.spent), ("turn_cpu_one", together.spent), ("turn_cpu_busy", busy.spent)):
        rows += [Row(f"{prefix}_{name}", cpu, "ms/turn") for name, cpu in named(spent, "cpu").items()]
    return rows


async def _cpu_by_hand(baseline: Baseline, stores: Settings) -> float:
    """Milliseconds of processor time that the baseline takes of everybody."""
    async with Probe.open(stores, baseline.processes) as probe:
        await _samples(baseline, HOPS, COMMITS)
        before = await probe.read()
        samples = await _samples(baseline, HOPS, COMMITS)
        spent = difference(before, await probe.read())
    return sum(named(spent, "cpu").values()) / len(samples)


async def _samples(baseline: Baseline, hops: int, commits: int) -> list[float]:
    return [await baseline.do(hops, commits) for _ in range(_BASELINE_SAMPLES)]


async def _alone(deployment: Deployment, stores: Settings, baseline: Baseline, *, settle: bool = False) -> Alone:
    """Turns of some conversations, one at a time.

    Args:
        deployment: Who works on them.
        stores: The stores they are worked on.
        baseline: What they are compared with.
        settle: Waits until the database has counted all transactions, which takes a while.
    """
    async with deployment.client() as client, Probe.open(stores, deployment.processes) as probe:
        conversations = [await _conversation(client) for _ in range(_CONVERSATIONS)]
        for conversation in conversations:
            await _turns(client, conversation, _WARM_UP)
        turns_by_hand = await _samples(baseline, HOPS, COMMITS)
        tokens_by_hand = await _samples(baseline, HOPS_TO_TOKEN, COMMITS_TO_TOKEN)
        if settle:
            await asyncio.sleep(FLUSH_SECONDS)
        start = await probe.read()
        await asyncio.sleep(_IDLE_SECONDS)
        before = await probe.read()
        idle = difference(start, before)
        turns = [turn for conversation in conversations for turn in await _turns(client, conversation, _TURNS)]
        spent = per_turn(difference(before, await probe.read()), idle, len(turns))
        if settle:
            await asyncio.sleep(FLUSH_SECONDS)
            counted = per_turn(difference(before, await probe.read()), idle, len(turns))
            # What follows a turn in the background is done by now.
            spent |= {key: value for key, value in counted.items() if key[0] in ("database", "served", "asked")}
        turns_by_hand += await _samples(baseline, HOPS, COMMITS)
        tokens_by_hand += await _samples(baseline, HOPS_TO_TOKEN, COMMITS_TO_TOKEN)
    return Alone(turns, spent, turns_by_hand, tokens_by_hand)


async def _busy(deployment: Deployment, stores: Settings, baseline: Baseline) -> Busy:
    """Conversations that go on side by side, and then the baseline in as many lanes."""
    async with deployment.client() as client, Probe.open(stores, deployment.processes) as probe:
        conversations = [await _conversation(client) for _ in range(_LANES)]
        await asyncio.gather(*(_turns(client, conversation, _LANE_WARM_UP) for conversation in conversations))
        before = await probe.read()
        rate = await _completed_per_second(lambda lane: _turn(client, conversations[lane], _TEXT), _LANE_SECONDS)
        spent = difference(before, await probe.read())
        by_hand = await _completed_per_second(lambda lane: baseline.do(HOPS, COMMITS, lane=lane), _LANE_SECONDS / 2)
    turns = rate * spent["time", "seconds"]
    return Busy(rate, {key: value / turns for key, value in spent.items()}, by_hand)


async def _completed_per_second(work: Callable[[int], Awaitable[object]], seconds: float) -> float:
    """How often a piece of work is done a second, by several lanes at once that each begin anew when they are done."""
    began = time.perf_counter()
    done: list[float] = []

    async def lane(number: int) -> None:
        while time.perf_counter() - began < seconds:
            await work(number)
            done.append(time.perf_counter())

    await asyncio.gather(*(lane(number) for number in range(_LANES)))
    return len(done) / (max(done) - began)


async def _conversation(client: Client) -> str:
    agent = pb.Agent(display_name="bench", instructions="You help with plans.")
    made = await client.agents.CreateAgent(pb.CreateAgentRequest(request_id=new_request_id(), agent=agent))
    request = pb.CreateConversationRequest(request_id=new_request_id(), agent_id=made.agent.agent_id)
    return (await client.agents.CreateConversation(request)).conversation.conversation_id


async def _turns(client: Client, conversation_id: str, number: int) -> list[Turn]:
    return [await _turn(client, conversation_id, _TEXT.format(index)) for index in range(number)]


async def _turn(client: Client, conversation_id: str, text: str) -> Turn:
    """Raises RuntimeError for a turn that did not complete or showed no token, TimeoutError for one that hangs."""
    began = time.perf_counter()
    first_token = completed = 0.0
    async with asyncio.timeout(_TURN_SECONDS):
        async for event in client.ask(conversation_id, text):
            kind = event.WhichOneof("event")
            passed = 1000.0 * (time.perf_counter() - began)
            if kind == "token_delta":
                first_token = first_token or passed
            elif kind == "completed":
                completed = passed
            elif kind == "failed":
                raise RuntimeError(f"a turn failed: {event.failed.failure.message}")
    if not first_token or not completed:
        raise RuntimeError("a turn ended without a token or without an end")
    return Turn(first_token, completed)
