"""The judge of served pairs against a server that speaks the OpenAI protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from pydantic import SecretStr

from mneme.semantic_cache.judging import Judge, OpenAiJudge
from mneme.settings import ModelsSettings
from tests.support.openai_server import OpenAIServer
from tests.support.replies import Fault, Said

PAIR = ("How do I return shoes?", "What is the way to send shoes back?")


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as running:
        assert isinstance(running, OpenAIServer)
        yield running


@pytest.fixture
async def judge(server: OpenAIServer) -> AsyncIterator[Judge]:
    settings = ModelsSettings(openai_base_url=f"{server.url}/v1", openai_api_key=SecretStr("k"))
    made = OpenAiJudge(settings, "judge")
    yield made
    await made.close()


@pytest.mark.parametrize(
    ("said", "fits"), [("YES", True), ("yes.", True), ("NO", False), ("Perhaps", None), ("", None)]
)
async def test_only_a_clear_word_is_a_verdict(server: OpenAIServer, judge: Judge, said: str, fits: bool | None) -> None:
    server.script.replies.append(Said(text=said))
    assert await judge.fits(*PAIR, "By mail.") is fits
    (request,) = server.script.requests
    asked = request.body["messages"][-1]["content"]
    assert all(text in asked for text in (*PAIR, "By mail."))


async def test_an_answer_that_is_gone_is_said_to_be(server: OpenAIServer, judge: Judge) -> None:
    server.script.replies.append(Said(text="NO"))
    assert await judge.fits(*PAIR, "") is False
    assert "not kept" in server.script.requests[0].body["messages"][-1]["content"]


async def test_a_refusal_is_no_verdict(server: OpenAIServer, judge: Judge) -> None:
    server.script.replies.append(Fault("denied"))
    assert await judge.fits(*PAIR, "By mail.") is None
