"""Where the words of a query stand in a text."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mneme.recall.highlighting import MAX_RANGES, Highlighter
from mneme.runtime import lexical


def marked(query: str, text: str) -> list[str]:
    return [text[start:end] for start, end in Highlighter(query).ranges(text)]


@pytest.mark.parametrize(
    ("query", "text", "words"),
    [
        ("What allergies are there?", "Ann's allergy: nuts.", ["allergy"]),
        ("nuts", "NUTS, nut and (nut)", ["NUTS", "nut", "nut"]),
        ("sku-4711", "order SKU-4711, not 4712", ["SKU", "4711"]),
        ("我对什么坚果过敏", "她对坚果过敏，喜欢喝绿茶", ["坚果过敏"]),
        ("绿茶 tea", "喝green tea或绿茶", ["tea", "绿茶"]),
        ("zebra", "nothing of it", []),
        ("the", "", []),
        ("x" * 10, "word " * 10, []),
    ],
)
def test_the_words_of_the_query_are_marked(query: str, text: str, words: list[str]) -> None:
    assert marked(query, text) == words


@given(st.text(max_size=80), st.text(max_size=200))
@example("¨", "0¨")
def test_ranges_are_in_order_inside_the_text_and_hold_a_term(query: str, text: str) -> None:
    ranges = Highlighter(query).ranges(text)

    assert all(0 <= start < end <= len(text) for start, end in ranges)
    assert all(first[1] < second[0] for first, second in pairwise(ranges))
    wanted = set(lexical.query_terms(query))
    assert all(wanted & set(lexical.terms(text[start:end])) for start, end in ranges)


def test_a_text_full_of_hits_gives_a_bounded_number() -> None:
    assert len(Highlighter("nut").ranges("nut, " * 5000)) == MAX_RANGES
