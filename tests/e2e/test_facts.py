"""The offline model keeps and finds facts that its rules have never seen: the pairs were written apart from it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from mneme.client import Client
from tests.support.talking import new_agent, new_conversation, say

DATA = Path(__file__).parent / "data"
AT_ONCE = 4


def load(name: str, language: str) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((DATA / name).read_text(encoding="utf-8"))
    return [case for case in cases if case["language"] == language]


def is_right(answer: str, expect: list[list[str]], forbid: list[str]) -> bool:
    text = answer.casefold()
    held = any(all(word.casefold() in text for word in words) for words in expect)
    return held and not any(word.casefold() in text for word in forbid)


async def wrong_answers(client: Client, told: list[str], questions: list[dict[str, Any]]) -> list[str]:
    """Tells facts in one conversation, asks in another; a line for each wrong answer."""
    agent_id = await new_agent(client)
    conversation_id = await new_conversation(client, agent_id)
    for statement in told:
        await say(client, conversation_id, statement)
    conversation_id = await new_conversation(client, agent_id)
    wrong = []
    for question in questions:
        turn = await say(client, conversation_id, question["question"])
        if not is_right(turn.text, question["expect"], question.get("forbid", [])):
            wrong.append(f"{question['question']} -> {turn.text!r}, expected {question['expect']}")
    return wrong


@pytest.mark.parametrize("language", ["en", "zh"])
async def test_each_fact_is_found_again(client: Client, language: str) -> None:
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(case: dict[str, Any]) -> list[str]:
        statements = case["statement"] if isinstance(case["statement"], list) else [case["statement"]]
        async with limit:
            return await wrong_answers(client, statements, [case])

    cases = load("fact_pairs.json", language)
    assert len(cases) == 20
    results = await asyncio.gather(*(one(case) for case in cases))
    wrong = [line for result in results for line in result]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("language", ["en", "zh"])
async def test_the_right_one_of_six_facts_is_found(client: Client, language: str) -> None:
    groups = load("fact_groups.json", language)
    results = await asyncio.gather(
        *(wrong_answers(client, group["statements"], group["questions"]) for group in groups)
    )
    wrong = [line for result in results for line in result]
    assert not wrong, "\n".join(wrong)
