"""Diffs and forgetting, for every history of a text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mneme.core_memory.history import Forgetting, unified_diff

texts = st.lists(st.sampled_from(["", "a", "b", "c", "d"]), max_size=8).map("\n".join)


def patched(before: str, diff: str) -> str:
    """Applies a unified diff, independently of the code that made it."""
    source, result, position = before.split("\n"), [], 0
    for line in diff.split("\n")[2:]:
        if line.startswith("@@"):
            start, _, count = line.split(" ")[1][1:].partition(",")
            first = int(start) if count == "0" else int(start) - 1
            result += source[position:first]
            position = first
        elif line.startswith("+"):
            result.append(line[1:])
        else:
            assert source[position] == line[1:]
            position += 1
            if line.startswith(" "):
                result.append(line[1:])
    return "\n".join(result + source[position:])


@given(texts, texts)
def test_a_diff_leads_from_one_text_to_the_other(before: str, after: str) -> None:
    diff = unified_diff(before, after, before_name="old", after_name="new")

    assert bool(diff) == (before != after)
    if diff:
        assert diff.startswith("--- old\n+++ new\n")
        assert patched(before, diff) == after


lines = st.integers(0, 3)
edits = st.lists(st.tuples(st.sampled_from(["ann", "bob"]), st.sampled_from(["append", "insert", "remove"]), lines))


@given(st.lists(st.sampled_from(["x", "y"]), max_size=4), edits)
def test_forgetting_takes_a_users_lines_and_leaves_the_others(
    start: list[str], steps: list[tuple[str, str, int]]
) -> None:
    forgetting = Forgetting("ann")
    current = list(start)
    assert forgetting.next("\n".join(current), "") == "\n".join(current)

    for number, (user, what, position) in enumerate(steps):
        current = edited(current, f"{user} {number}", what, position)
        kept = forgetting.next("\n".join(current), user).split("\n")
        assert not [line for line in kept if line.startswith("ann")]
        assert set(kept) <= {*current, ""}


def edited(current: list[str], line: str, what: str, position: int) -> list[str]:
    """Changes a list of lines by one step."""
    if what == "remove":
        return current[:position] + current[position + 1 :]
    at = len(current) if what == "append" else min(position, len(current))
    return [*current[:at], line, *current[at:]]


def forget(*versions: tuple[str, str]) -> list[str]:
    """What is left of versions when ann is forgotten."""
    forgetting = Forgetting("ann")
    return [forgetting.next(value, user) for value, user in versions]


def test_lines_of_others_stay_where_they_were() -> None:
    assert forget(("rules", ""), ("rules\nI am Ann", "ann"), ("rules\nI am Ann\nI am Bob", "bob")) == [
        "rules",
        "rules",
        "rules\nI am Bob",
    ]


def test_a_line_rewritten_by_another_is_still_the_users() -> None:
    assert forget(("", ""), ("Ann is allergic", "ann"), ("She is allergic", "bob")) == ["", "", ""]


def test_a_line_repeated_by_another_is_still_the_users() -> None:
    assert forget(("a", ""), ("a\nsecret", "ann"), ("a", "bob"), ("a\nsecret", "bob"))[-1] == "a"


def test_a_line_the_user_only_moved_stays() -> None:
    assert set(forget(("a\nb", ""), ("b\na", "ann"))[-1].split("\n")) == {"a", "b"}
