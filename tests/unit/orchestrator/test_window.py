"""The window is cut only where no call is parted from its result, and not more than needed."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mneme.orchestrator.models.port import ToolUse
from mneme.orchestrator.window import (
    Message,
    Policy,
    Window,
    plan_eviction,
    safe_cuts,
    should_flush,
    should_warn,
)

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


def message(sequence: int, role: str, tokens: int = 10, calls: tuple[str, ...] = (), answers: str = "") -> Message:
    return Message(
        id=f"message-{sequence}",
        role=role,  # type: ignore[arg-type]
        text="text",
        sequence=sequence,
        created_at=NOW,
        token_count=tokens,
        tool_calls=tuple(ToolUse(call, "tool", "{}") for call in calls),
        tool_call_id=answers,
    )


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Message, ...]:
    """Whole turns: a user message, then steps of an assistant message with its calls, each answered."""
    messages: list[Message] = []

    def add(role: str, calls: tuple[str, ...] = (), answers: str = "") -> None:
        messages.append(message(len(messages) + 1, role, draw(st.integers(1, 50)), calls, answers))

    for turn in range(draw(st.integers(1, 8))):
        add("user")
        for step in range(draw(st.integers(0, 3))):
            calls = tuple(f"call-{turn}-{step}-{index}" for index in range(draw(st.integers(0, 3))))
            add("assistant", calls)
            for call in draw(st.permutations(calls)):
                add("tool", answers=call)
    return tuple(messages)


policies = st.builds(
    Policy,
    window_tokens=st.integers(10, 500),
    target_fraction=st.floats(0.1, 1.0),
    max_turns=st.integers(0, 4),
    keep_last=st.integers(0, 5),
)


@given(messages=conversations(), policy=policies, overhead=st.integers(0, 100))
def test_eviction_never_parts_a_call_from_its_result(
    messages: tuple[Message, ...], policy: Policy, overhead: int
) -> None:
    window = Window(messages=messages, next_sequence=len(messages) + 1)
    tokens = overhead + sum(m.token_count for m in messages)
    first = plan_eviction(window, tokens, policy)
    if first is None:
        return
    gone, kept = window.before(first), tuple(m for m in messages if m.sequence >= first)
    assert gone
    assert kept
    assert kept[0].role != "tool"
    called = {call.id for m in gone for call in m.tool_calls}
    assert not called & {m.tool_call_id for m in kept if m.role == "tool"}


@given(messages=conversations(), policy=policies, overhead=st.integers(0, 100))
def test_eviction_reaches_the_target_or_takes_all_it_may(
    messages: tuple[Message, ...], policy: Policy, overhead: int
) -> None:
    window = Window(messages=messages, next_sequence=len(messages) + 1)
    tokens = overhead + sum(m.token_count for m in messages)
    if not should_flush(tokens, window, policy):
        assert plan_eviction(window, tokens, policy) is None
        return
    first = plan_eviction(window, tokens, policy)
    cuts = safe_cuts(messages)
    if first is None:
        assert not cuts
        return
    index = first - 1
    after = tokens - sum(m.token_count for m in messages[:index])
    preferred = [cut for cut in cuts if cut <= len(messages) - policy.keep_last] or cuts
    small_enough = tokens <= policy.window_tokens or after <= policy.target_fraction * policy.window_tokens
    users = sum(m.role == "user" for m in messages[index:])
    few_enough = not policy.max_turns or users <= policy.max_turns
    assert (small_enough and few_enough) or index == preferred[-1]


def test_a_single_message_leaves_when_another_comes_in() -> None:
    window = Window().appended(message(1, "user", tokens=1000))
    policy = Policy(window_tokens=100)
    assert plan_eviction(window, 1010, policy) is None
    assert plan_eviction(window, 1010, policy, incoming=True) == 2


def test_the_message_that_is_answered_stays_while_older_ones_can_leave() -> None:
    window = Window().appended(
        message(1, "user", 50),
        message(2, "assistant", 50),
        message(3, "user", 200),
        message(4, "assistant", 5, ("call",)),
        message(5, "tool", 5, answers="call"),
        message(6, "assistant", 5),
    )
    policy = Policy(window_tokens=250)
    assert plan_eviction(window, 315, policy) == 4
    assert plan_eviction(window, 315, policy, answering="message-3") == 3


@given(messages=conversations(), policy=policies, overhead=st.integers(0, 100))
def test_a_cut_behind_the_last_message_leaves_no_call_unanswered(
    messages: tuple[Message, ...], policy: Policy, overhead: int
) -> None:
    window = Window(messages=messages, next_sequence=len(messages) + 1)
    tokens = overhead + sum(m.token_count for m in messages)
    first = plan_eviction(window, tokens, policy, incoming=True)
    assert first is None or 2 <= first <= len(messages) + 1


def test_the_turn_mode_keeps_the_last_turns() -> None:
    messages = tuple(message(i + 1, "user" if i % 2 == 0 else "assistant") for i in range(30))
    window = Window(messages=messages, next_sequence=31)
    policy = Policy(window_tokens=100_000, max_turns=10)
    assert should_flush(300, window, policy)
    assert plan_eviction(window, 300, policy) == 11


@pytest.mark.parametrize(("tokens", "warned", "expected"), [(70, False, False), (71, False, True), (99, True, False)])
def test_the_warning_comes_once_above_its_threshold(tokens: int, warned: bool, expected: bool) -> None:
    assert should_warn(tokens, Policy(window_tokens=100), warned=warned) is expected
    assert not should_warn(tokens, Policy(window_tokens=100, warn_fraction=0), warned=warned)


def test_a_window_refuses_a_gap() -> None:
    window = Window().appended(message(1, "user"), message(2, "assistant"))
    with pytest.raises(ValueError, match="sequence 4 where 3 is next"):
        window.appended(message(4, "user"))


def test_an_evicted_window_counts_what_left() -> None:
    window = Window().appended(*(message(i, "user") for i in range(1, 6)))
    after = window.evicted(4, "summary", 1)
    assert [m.sequence for m in after.messages] == [4, 5]
    assert (after.evicted_count, after.next_sequence, after.summary) == (3, 6, "summary")
