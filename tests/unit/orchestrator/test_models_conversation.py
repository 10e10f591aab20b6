"""Turns in the shape that providers accept."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from mneme.orchestrator.models.conversation import GO_ON, HIDDEN_START, NOT_RUN, shaped
from mneme.orchestrator.models.port import ToolOutcome, ToolUse, Turn

IDS = st.sampled_from(["a", "b", "c"])
CALLS = st.lists(IDS, unique=True, max_size=3).map(lambda ids: tuple(ToolUse(i, "get_current_time", "{}") for i in ids))
OUTCOMES = st.lists(IDS, unique=True, max_size=3).map(lambda ids: tuple(ToolOutcome(i, True, f"of {i}") for i in ids))
TEXTS = st.sampled_from(["", " ", "text"])
TURNS = st.lists(
    st.builds(Turn, st.sampled_from(["user", "system"]), TEXTS)
    | st.builds(Turn, st.just("assistant"), TEXTS, CALLS)
    | st.builds(Turn, st.just("tool"), st.just(""), st.just(()), OUTCOMES),
    max_size=8,
)


@settings(deadline=None)
@given(TURNS)
def test_every_call_has_exactly_one_outcome_right_behind_it(turns: list[Turn]) -> None:
    result = shaped(turns, with_tools=True)
    for turn, following in zip(result, [*result[1:], None], strict=True):
        if turn.tool_calls:
            assert following is not None
            assert following.role == "tool"
            assert [o.tool_call_id for o in following.outcomes] == [c.id for c in turn.tool_calls]
        elif following is not None:
            assert following.role != "tool"


@settings(deadline=None)
@given(TURNS, st.booleans())
def test_roles_alternate_and_the_last_turn_asks_for_an_answer(turns: list[Turn], with_tools: bool) -> None:
    result = shaped(turns, with_tools=with_tools)
    assert result[0].role == "user"
    assert result[-1].role in {"user", "tool"}
    for turn, following in itertools.pairwise(result):
        assert turn.role != following.role
        assert turn.role in {"user", "assistant", "tool"}


@settings(deadline=None)
@given(TURNS)
def test_without_tools_nothing_but_text_is_left(turns: list[Turn]) -> None:
    result = shaped(turns, with_tools=False)
    assert not any(turn.tool_calls or turn.outcomes for turn in result)
    wanted = [o.content for turn in turns for o in turn.outcomes]
    assert all(any(content in turn.text for turn in result) for content in wanted)


def test_an_empty_conversation_still_asks() -> None:
    assert shaped([], with_tools=True) == [Turn("user", HIDDEN_START)]


def test_a_leading_answer_and_a_trailing_one_are_framed() -> None:
    assert shaped([Turn("assistant", "Hi")], with_tools=True) == [
        Turn("user", HIDDEN_START),
        Turn("assistant", "Hi"),
        Turn("user", GO_ON),
    ]


def test_an_orphaned_call_gets_an_outcome_that_says_so() -> None:
    call = ToolUse("a", "get_current_time", "{}")
    result = shaped([Turn("user", "x"), Turn("assistant", tool_calls=(call,)), Turn("user", "y")], with_tools=True)
    assert result[2].outcomes == (ToolOutcome("a", ok=False, content=NOT_RUN),)
