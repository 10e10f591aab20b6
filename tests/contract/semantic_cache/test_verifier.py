"""The pair verifier against a server that speaks the OpenAI protocol: whatever is no clear answer refuses."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator

import pytest
from pydantic import SecretStr

from mneme.semantic_cache.guards import PairVerifier
from mneme.semantic_cache.verifying import OpenAiVerifier
from mneme.settings import ModelsSettings
from tests.support.openai_server import OpenAIServer
from tests.support.replies import Fault, Reply, Said

ASKED, STORED = "How do I return shoes?", "What is the way to send shoes back?"


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as running:
        assert isinstance(running, OpenAIServer)
        yield running


@pytest.fixture
async def verifier(server: OpenAIServer) -> AsyncIterator[PairVerifier]:
    settings = ModelsSettings(openai_base_url=f"{server.url}/v1", openai_api_key=SecretStr("k"))
    made = OpenAiVerifier(settings, "judge", timeout=0.5)
    yield made
    await made.close()


@pytest.mark.parametrize(
    ("said", "probability"),
    [("YES", 1.0), ("yes.", 1.0), ("NO", 0.0), ("No!", 0.0), ("Perhaps", None), ("", None), ("YES or NO", None)],
)
async def test_only_a_clear_word_counts(
    said: str, probability: float | None, server: OpenAIServer, verifier: PairVerifier
) -> None:
    server.script.replies.append(Said(text=said))
    assert await verifier.same_answer(ASKED, STORED) == probability
    (request,) = server.script.requests
    assert ASKED in request.body["messages"][-1]["content"]
    assert STORED in request.body["messages"][-1]["content"]


@pytest.mark.parametrize(
    "reply",
    [
        Fault("throttled"),
        Fault("denied"),
        Fault("down"),
        Fault("drop"),
        Fault("down", in_stream=True),
        Said(text="YES", cut_after=1),
    ],
    ids=["throttled", "denied", "down", "dropped", "error inside the stream", "cut"],
)
async def test_a_verifier_that_fails_refuses(reply: Reply, server: OpenAIServer, verifier: PairVerifier) -> None:
    """A failing verifier lets pass what it should have judged (semantic-router issue 3162)."""
    server.script.replies.append(reply)
    assert await verifier.same_answer(ASKED, STORED) is None


async def test_a_verifier_that_is_too_slow_refuses(server: OpenAIServer, verifier: PairVerifier) -> None:
    held = threading.Event()
    server.script.replies.append(Said(text="YES, they are the same", hold=held))
    try:
        assert await verifier.same_answer(ASKED, STORED) is None
    finally:
        held.set()
