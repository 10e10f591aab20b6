"""Spelling and courtesy are levelled; nothing that may change an answer is."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mneme.semantic_cache.normalising import normalise

SAME = [
    ("What is the fee?", "what is the fee"),
    ("What is the fee?", "  What   is\tthe\nfee ?!"),
    ("What's the fee?", "What’s the fee？"),
    ("Ｗｈａｔ is the fee?", "What is the fee?"),
    ("运费是多少？", "运费是多少"),
    ("Hi, what is the fee? Thanks!", "What is the fee?"),
    ("Hello! Quick question: what is the fee, please?", "What is the fee?"),
    ("What is 5!, please?", "What is 5!"),
    ("客服你好，请问运费是多少？谢谢啦", "运费是多少"),
    ("Wie groß ist Köln?", "WIE GROSS IST KO\u0308LN?"),
]

DIFFERENT = [
    ("What is 2¹⁰?", "What is 210?"),
    ("Is H₂O safe?", "Is H2O safe?"),
    ("What is 5!", "What is 5?"),
    ("What is 5!?", "What is 5!!?"),
    ("What is 5 mW?", "What is 5 MW?"),
    ("How far is 10 km?", "How far is 10 KM?"),
    ("Is 1.5 enough?", "Is 15 enough?"),
    ("Is it -5 or not?", "Is it 5 or not?"),
    ("What is 5!, please?", "What is 5?"),
    ("How do I say thanks?", "How do I say?"),
    ("How do I write: thanks?", "How do I write?"),
    ("Hi-Fi systems?", "Fi systems?"),
    ("英语怎么说谢谢？", "英语怎么说？"),
    ("Thanks!", "Hello!"),
    ("Can I pay?", "Can't I pay?"),
    ("可以付款吗？", "不可以付款吗？"),
    ("What is 1/2?", "What is ½?"),
    ("What is a b?", "What is ab?"),
    ("Which resume?", "Which résumé?"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_spellings_of_one_question_are_equal(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_questions_with_other_answers_stay_apart(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


@given(st.text(max_size=100))
def test_twice_is_once(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(st.text(max_size=100), st.sampled_from(["", " ", "\t ", "\u3000"]), st.sampled_from(["", "?", "？", " ?"]))
def test_space_around_and_a_final_question_mark_do_not_matter(text: str, space: str, mark: str) -> None:
    assert normalise(space + text + mark + space) == normalise(text)


@given(st.text(alphabet=st.characters(categories=["Nd", "No", "Nl"]), min_size=1, max_size=8), st.text(max_size=20))
def test_no_number_is_lost_or_changed(number: str, around: str) -> None:
    kept = [unicodedata.numeric(character) for character in normalise(f"{around} {number} x") if character.isnumeric()]
    given_ = [unicodedata.numeric(character) for character in f"{around} {number}" if character.isnumeric()]
    assert kept == given_


@pytest.mark.parametrize("unit", ["?", "!", "? ", "。", "1 a", "\u0301"])
def test_a_hostile_text_ends_before_the_limit_of_a_test(unit: str) -> None:
    assert normalise(unit * 100_000 + "x").endswith("x")
