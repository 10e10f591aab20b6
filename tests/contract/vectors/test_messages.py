"""An agent with many messages: found through its own index as before, also what is said afterwards."""

from __future__ import annotations

import asyncio
import random
import uuid
from typing import Any

from mneme.recall.v1 import recall_pb2 as pb
from mneme.recall.v1.recall_pb2_grpc import RecallServiceStub
from mneme.runtime.auth import ServiceTokens, SuiteKeys
from mneme.runtime.call import Principal
from mneme.runtime.vectors import RETIRED, SERVING
from tests.contract.vectors.conftest import Owner
from tests.support.suite import Serve, Suite

_WORDS = ("river", "train", "window", "seat", "nut", "bread", "music", "garden", "winter", "letter", "doctor", "island")


class Talk:
    """One conversation of an agent, and searches of all that the agent heard."""

    def __init__(self, suite: Suite) -> None:
        self._stub: Any = suite.stub(RecallServiceStub)
        tokens = ServiceTokens(SuiteKeys.load(suite.settings.auth), suite.settings.auth)
        token = tokens.token("orchestrator", "recall", Principal("acme", "tester", "", "orchestrator"))
        self._orchestrator: Any = RecallServiceStub(suite.channel(token=token))

    async def say(self, *texts: str) -> None:
        """Appends messages of the user, and waits until they are indexed."""
        for start in range(0, len(texts), 100):
            messages = [pb.Message(role=pb.ROLE_USER, text=text) for text in texts[start : start + 100]]
            await self._orchestrator.AppendMessages(
                pb.AppendMessagesRequest(
                    request_id=str(uuid.uuid4()),
                    agent_id="agent-1",
                    conversation_id="conversation-1",
                    messages=messages,
                )
            )
        async with asyncio.timeout(20):
            while (await self.found(texts[-1]))[:1] != [texts[-1]]:  # noqa: ASYNC110 - indexing lies behind an RPC
                await asyncio.sleep(0.02)

    async def found(self, text: str) -> list[str]:
        """Texts that a search by meaning finds, best first."""
        response = await self._stub.SearchMessages(
            pb.SearchMessagesRequest(agent_id="agent-1", semantic=pb.SemanticQuery(text=text), limit=10)
        )
        return [one.message.text for one in response.results]

    async def forget(self) -> None:
        """Removes all data of the agent."""
        request = pb.PurgeDataRequest(request_id=str(uuid.uuid4()), operation_id="operation-1")
        request.subject.agent_id = "agent-1"
        await self._orchestrator.PurgeData(request)


async def test_many_messages_are_found_through_their_own_index(serve: Serve, owner: Owner) -> None:
    talk = Talk(await serve("recall", "embedding"))
    draw = random.Random(7)
    await talk.say(*(f"{number} {' '.join(draw.sample(_WORDS, 5))}" for number in range(600)))
    questions = [" ".join(draw.sample(_WORDS, 3)) for _ in range(10)]
    before = [await talk.found(question) for question in questions]
    assert (await owner.maintain()).promoted == 1
    assert [one["state"] for one in owner.tables("recall")] == [SERVING]
    after = [await talk.found(question) for question in questions]
    assert [len(one) for one in after] == [10] * len(questions)
    hits = sum(len(set(one) & set(other)) for one, other in zip(before, after, strict=True))
    assert hits >= 0.98 * 10 * len(questions)
    await talk.say("the lighthouse keeper plays chess on Tuesdays")
    assert (await talk.found("who plays chess in the lighthouse?"))[
        0
    ] == "the lighthouse keeper plays chess on Tuesdays"
    await talk.forget()
    assert [one["state"] for one in owner.tables("recall")] == [RETIRED]
    assert (await owner.maintain()).dropped == 1
    assert owner.tables("recall") == []
