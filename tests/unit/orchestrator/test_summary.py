"""Summaries are recursive, come in pieces when their input overflows, and never depend on the model to go on."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime

from mneme.orchestrator.models.port import Finished, ModelOutput, ModelRequest, StopReason, StreamEvent, Usage
from mneme.orchestrator.summary import mechanical, summarise
from mneme.orchestrator.window import Message

NOW = datetime(2026, 1, 2, tzinfo=UTC)


class Echo:
    """Answers with a numbered marker and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def stream(self, request: ModelRequest) -> AsyncGenerator[StreamEvent, None]:
        self.asked.append(request.turns[0].text)
        text = f"summary {len(self.asked)}"
        yield Finished(ModelOutput(text, (), (), StopReason.END_TURN, Usage(), request.model))

    async def close(self) -> None:
        return


def said(count: int) -> list[Message]:
    return [Message(f"message-{i}", "user", f"fact {i}", i, NOW, 5) for i in range(1, count + 1)]


async def run(model: Echo, old: str, messages: list[Message], input_tokens: int = 1000) -> str:
    return await summarise(model, "echo", old, messages, input_tokens=input_tokens, max_tokens=100, count_tokens=len)


async def test_the_old_summary_goes_into_the_new_one() -> None:
    model = Echo()
    assert await run(model, "marker of the first generation", said(2)) == "summary 1"
    assert "marker of the first generation" in model.asked[0]
    assert "fact 2" in model.asked[0]


async def test_an_overflowing_input_is_summarised_in_pieces_on_top_of_each_other() -> None:
    model = Echo()
    assert await run(model, "", said(10), input_tokens=40) == f"summary {len(model.asked)}"
    assert len(model.asked) > 2
    assert all(f"summary {i}" in text for i, text in enumerate(model.asked[1:], start=1))
    assert all(any(f"fact {i}" in text for text in model.asked) for i in range(1, 11))


async def test_one_message_larger_than_the_window_still_fits_a_piece() -> None:
    model = Echo()
    huge = [Message("message-1", "user", "a" * 100_000, 1, NOW, 25_000)]
    await run(model, "", huge, input_tokens=9_000)
    assert len(model.asked[0]) < 10_000


async def test_nothing_evicted_changes_nothing() -> None:
    model = Echo()
    assert await run(model, "old", []) == "old"
    assert not model.asked


def test_the_mechanical_summary_keeps_the_newest_words_within_its_limit() -> None:
    text = mechanical("old", said(100), max_chars=200)
    assert len(text) == 200
    assert text.endswith("fact 100")
