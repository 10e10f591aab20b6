"""Pieces: where they say they are, nothing lost, within their limits; and what a new text changes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mneme.archival.chunking import Cut, Span, changes, pieces

WORDS = st.sampled_from(
    [
        "tea",
        "茶",
        "。",
        "！",
        "？",
        "；",
        ". ",
        "! ",
        "\n\n",
        "\n",
        " ",
        "\r\n",
        "\t",
        "e\u0301",
        "👩‍👩‍👧",
        "\u3000",
        "Dr. ",
        "3.5",
        "很好",
    ]
)
TEXTS = st.one_of(st.lists(WORDS, max_size=300).map("".join), st.text(max_size=400))


@st.composite
def cuts(draw: st.DrawFn) -> Cut:
    most = draw(st.integers(20, 120))
    return Cut(most, draw(st.integers(0, most // 2)))


@given(TEXTS, cuts())
def test_pieces_are_where_they_say_and_lose_nothing(text: str, cut: Cut) -> None:
    found = pieces(text, cut)
    assert all(text[piece.start : piece.end] == piece.text for piece in found)
    assert all(piece.text.strip() and len(piece.text) <= cut.max_chars for piece in found)
    assert [piece.start for piece in found] == sorted(piece.start for piece in found)
    covered = {position for piece in found for position in range(piece.start, piece.end)}
    assert all(character.isspace() for position, character in enumerate(text) if position not in covered)
    overlaps = [before.end - after.start for before, after in pairwise(found)]
    assert all(overlap <= cut.overlap_chars for overlap in overlaps)


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("One is short. Two is short too. Three ends here. Four is last.", "."),
        ("第一句话不长。第二句话也不长！第三句话呢？第四句话到此为止。", "。！？"),
    ],
)
def test_pieces_end_with_their_sentences(text: str, ends: str) -> None:
    found = pieces(text, Cut(max_chars=len(text) // 2 + 4, overlap_chars=0))
    assert len(found) > 1
    assert all(piece.text[-1] in ends for piece in found)


def test_pieces_rather_end_with_their_paragraphs() -> None:
    paragraphs = ["First sentence. Second sentence.", "Third sentence. Fourth sentence."]
    assert [piece.text for piece in pieces("\n\n".join(paragraphs), Cut(40, 0))] == paragraphs


@given(TEXTS, TEXTS, TEXTS, cuts())
def test_a_new_text_keeps_the_pieces_that_it_still_has(start: str, middle: str, end: str, cut: Cut) -> None:
    before = [piece.text for piece in pieces(start + end, cut)]
    text = start + middle + end
    found = pieces(text, cut, before=before)
    assert all(text[piece.start : piece.end] == piece.text for piece in found)
    assert all(piece.text.strip() and len(piece.text) <= cut.max_chars for piece in found)
    covered = {position for piece in found for position in range(piece.start, piece.end)}
    assert all(character.isspace() for position, character in enumerate(text) if position not in covered)


def test_an_insertion_moves_no_border_behind_it() -> None:
    paragraphs = [f"Paragraph {n} says something about {n * n} things." for n in range(20)]
    cut = Cut(max_chars=100, overlap_chars=0)
    before = [piece.text for piece in pieces("\n\n".join(paragraphs), cut)]
    text = "\n\n".join([*paragraphs[:5], "Something new stands here, of one line.", *paragraphs[5:]])
    found = [piece.text for piece in pieces(text, cut, before=before)]
    assert len(set(before) - set(found)) <= 2
    assert [piece.text for piece in pieces(text, cut, before=found)] == found


def test_an_empty_text_has_no_pieces() -> None:
    assert pieces(" \n\n ", Cut(100, 10)) == []


@given(
    st.dictionaries(st.integers(0, 9), st.tuples(st.integers(0, 50), st.integers(1, 20)), max_size=8),
    st.dictionaries(st.integers(0, 9), st.tuples(st.integers(0, 50), st.integers(1, 20)), min_size=1, max_size=8),
)
def test_every_piece_of_before_is_kept_moved_or_followed(
    before: dict[int, tuple[int, int]], after: dict[int, tuple[int, int]]
) -> None:
    old = {key: Span(start, start + length) for key, (start, length) in before.items()}
    new = {key: Span(start, start + length) for key, (start, length) in after.items()}
    found = changes(old, new)
    assert set(found.gone) == set(old) - set(new)
    assert set(found.gone.values()) <= set(new)
    assert found.moved == {key: new[key] for key in set(old) & set(new) if old[key] != new[key]}


def test_a_piece_is_followed_by_the_one_in_its_place() -> None:
    before = {"a": Span(0, 10), "b": Span(10, 20), "c": Span(20, 30)}
    after = {"a": Span(0, 10), "x": Span(10, 15), "y": Span(15, 40)}
    found = changes(before, after)
    assert found.gone == {"b": "x", "c": "y"}
    assert found.moved == {}
