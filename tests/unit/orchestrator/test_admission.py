"""Which questions have an answer that changes by itself."""

from __future__ import annotations

import pytest

from mneme.orchestrator.answers.admission import rests_on_time


@pytest.mark.parametrize(
    "question",
    [
        "What time is it?",
        "Which lamps are on sale today?",
        "Is the shop open now?",
        "What day is it?",
        "How long ago did I order?",
        "What happened last week?",
        "What is the date?",
        "How many days until Christmas?",
        "现在几点？",
        "今天有什么活动？",
        "下周开门吗？",
    ],
)
def test_some_answers_change_by_themselves(question: str) -> None:
    assert rests_on_time(question)


@pytest.mark.parametrize(
    "question",
    [
        "How long may a customer return a lamp?",
        "What is the capital of France?",
        "How do I reset my password?",
        "Do you know the delivery fee?",
        "Is the time switch dimmable?",
        "What time does the shop open on Mondays?",
        "How old must I be to order wine?",
        "退货期限是多少天？",
        "台灯的保修期多长？",
    ],
)
def test_others_stay_as_they_are(question: str) -> None:
    assert not rests_on_time(question)
