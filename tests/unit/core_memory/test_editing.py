"""Edits of a text: what holds for every text, and the examples that say it in words."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mneme.core_memory import editing
from mneme.core_memory.blocks import Block
from mneme.errors.v1 import errors_pb2
from mneme.runtime.errors import Error

# Few letters, so that texts repeat and overlap themselves often.
texts = st.text(alphabet="ab\n汉", max_size=24)
# Holds a letter that the others lack, so it occurs once wherever it is put.
unique = st.builds("{}Z{}".format, texts, texts)


def block(value: str, limit: int = 5000) -> Block:
    """A block with a text."""
    return Block(id="block-1", label="human", value=value, limit=limit)


@given(texts, st.text(alphabet="ab", min_size=1))
def test_an_append_keeps_what_was_there_and_ends_with_the_text_on_its_own_line(value: str, text: str) -> None:
    result = editing.append(value, text)

    assert result.startswith(value)
    assert result.split("\n")[-1] == text
    assert len(result) - len(value) - len(text) in (0, 1)


@given(texts, unique, texts)
def test_a_replacement_changes_the_one_occurrence_and_nothing_else(before: str, old: str, after: str) -> None:
    value = before + old + after

    assert editing.replace(block(value), old, "NEW") == f"{before}NEW{after}"
    assert editing.replace(block(editing.replace(block(value), old, "NEW")), "NEW", old) == value


@given(texts, texts)
def test_an_edit_is_refused_unless_the_text_occurs_once(value: str, text: str) -> None:
    count = sum(value.startswith(text, start) for start in range(len(value))) if text else 0
    assert editing.occurrences(value, text) == count
    assume(count != 1)

    for edit in (partial(editing.replace, new_text="x"), editing.remove):
        with pytest.raises(Error) as raised:
            edit(block(value), text)
        assert raised.value.reason == errors_pb2.REASON_TEXT_NOT_FOUND
        assert raised.value.metadata["occurrences"] == str(count)


@given(texts, unique, texts)
def test_a_removal_takes_the_text_and_at_most_its_empty_line(before: str, text: str, after: str) -> None:
    rest = before + after

    result = editing.remove(block(before + text + after), text)

    assert result.replace("\n", "") == rest.replace("\n", "")
    assert len(rest) - len(result) in (0, 1)


@pytest.mark.parametrize(
    ("value", "text", "left"),
    [
        ("a\nb\nc", "b", "a\nc"),
        ("a\nb", "b", "a"),
        ("a\nb", "a", "b"),
        ("a", "a", ""),
        ("a\n", "a", ""),
        ("- tea\n- milk", " tea", "-\n- milk"),
        ("a\nb\nc\nd", "b\nc", "a\nd"),
        ("a\nb", "\n", "ab"),
    ],
)
def test_a_line_that_becomes_empty_goes_with_the_text(value: str, text: str, left: str) -> None:
    assert editing.remove(block(value), text) == left


@given(st.text(max_size=60), st.integers(min_value=1, max_value=60))
def test_the_limit_counts_characters(value: str, limit: int) -> None:
    if len(value) <= limit:
        editing.check_limit(block(value, limit))
        return
    with pytest.raises(Error) as raised:
        editing.check_limit(block(value, limit))
    assert raised.value.metadata == {"label": "human", "size": str(len(value)), "limit": str(limit)}


@given(texts.filter(str.strip), texts)
def test_the_closest_text_stands_in_the_block(value: str, text: str) -> None:
    closest = editing.closest_text(value, text)

    assert closest
    assert any(closest in line for line in value.split("\n"))


def test_the_closest_text_is_the_most_alike() -> None:
    value = "Name: Ann\nlikes green tea\nlives in Bern"

    assert editing.closest_text(value, "Likes tea") == "likes green tea"
    assert editing.closest_text(value, "\nName: Anne\nmore") == "Name: Ann"
    assert editing.closest_text(value, "Name: Ann\nlikes tea") == "likes green tea"
    assert editing.closest_text("喜欢绿茶\n住在上海", "喜欢红茶") == "喜欢绿茶"
    assert editing.closest_text("", "anything") == ""


def test_the_closest_text_is_found_anywhere_in_a_full_block() -> None:
    sentences = [f"Order {number} went to the harbour of town {number * 7919 % 1000}. " for number in range(2000)]
    sentences[1500] = "Ann keeps her bees behind the old mill. "
    for joint in ("", "\n"):
        value = joint.join(sentences)[:100_000]
        assert "keeps her bees behind the old mill" in editing.closest_text(value, "Ann kept her bees by the old mill")


def test_messages_show_the_start_of_a_long_text_only() -> None:
    with pytest.raises(Error) as raised:
        editing.replace(block("short"), "long " * 100, "x")

    assert len(raised.value.message) < 200
    assert "…" in raised.value.message


def test_an_empty_text_is_refused_in_words() -> None:
    with pytest.raises(Error, match="empty text"):
        editing.replace(block("a"), "", "x")
