"""Terms of many scripts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mneme.runtime import lexical


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n…!?— 🙂", []),
        ("Running runs", ["run", "run"]),
        ("Ann's allergies", ["ann", "allergi"]),
        ("Ann’s", ["ann"]),
        ("SKU-4711", ["sku-4711", "sku", "4711"]),
        ("10.5", ["10.5", "10", "5"]),
        ("1,200 or 3,4", ["1200", "1", "200", "or", "3", "4"]),
        ("RTX4090", ["rtx4090", "rtx", "4090"]),
        ("C++ and C#", ["c++", "c", "and", "c#", "c"]),
        ("ＡＢＣ１", ["abc1", "abc", "1"]),
        ("Café Müller", ["cafe", "muller"]),
        ("Straße", ["strass"]),
        ("坚果", ["坚", "果", "坚果"]),
        ("茶", ["茶"]),
        ("我喝iPhone15的茶", ["我", "喝", "我喝", "iphone15", "iphon", "15", "的", "茶", "的茶"]),
        ("ありがとう", ["あり", "りが", "がと", "とう"]),
        ("안녕하세요 세계", ["안녕", "녕하", "하세", "세요", "세계"]),
        ("привет мир", ["привет", "мир"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("first.second", ["first.second", "first", "second"]),
        ("ann@example.com", ["ann@example.com", "ann", "exampl", "com"]),
    ],
)
def test_terms(text: str, expected: list[str]) -> None:
    assert lexical.terms(text) == expected


def test_a_query_drops_common_words_only_while_others_remain() -> None:
    assert lexical.query_terms("What is the name of my dog?") == ["name", "dog"]
    assert lexical.query_terms("Who are you?") == ["who", "are", "you"]
    assert lexical.query_terms("我喜欢喝什么茶？")[0] == "喜"


@given(st.text())
def test_any_text_gives_bounded_terms_without_spaces(text: str) -> None:
    for term in lexical.terms(text):
        assert 0 < len(term) <= 64
        assert not any(char.isspace() for char in term)


@given(st.text(), st.text())
def test_terms_of_texts_apart_are_the_terms_of_each(first: str, second: str) -> None:
    assert lexical.terms(f"{first} \n {second}") == lexical.terms(first) + lexical.terms(second)


@given(st.text(st.characters(codec="ascii")))
def test_a_text_in_ascii_has_the_terms_that_it_has_beside_another_script(text: str) -> None:
    assert lexical.terms(f"{text} 茶") == [*lexical.terms(text), "茶"]


def test_a_long_text_is_cut() -> None:
    assert len(lexical.terms("word " * 30_000)) == 20_000
    assert lexical.terms("x" * 5_000) == ["x" * 64]


def test_a_document_counts_its_terms() -> None:
    doc = lexical.document(scope="s", document_id="d", text="tea tea cake")
    assert (doc.length, dict(doc.frequencies)) == (3, {"tea": 2, "cake": 1})
