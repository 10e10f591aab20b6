"""The fusion: what wins between words and meaning, and what never happens."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mneme.runtime import ranking, wording
from mneme.runtime.ranking import Candidate, Evidence, Statistics, query

KNOWN = Statistics({1: 4.0, 2: 3.0, 3: 2.0}, mean_length=12.0, document_count=80)

_numbers = st.frozensets(st.integers(1, 3))
_candidates = st.lists(
    st.builds(
        Candidate,
        id=st.integers(0, 999).map(str),
        cosine=st.one_of(st.none(), st.floats(-1, 1)),
        bm25=st.one_of(st.none(), st.floats(0.01, 40)),
        time=st.integers(0, 5).map(float),
        terms=_numbers,
        preference=st.booleans(),
        instruction=st.booleans(),
        by_user=st.booleans(),
        text=st.sampled_from(["", "It is now red", "I love boats", "Always use metres"]),
    ),
    max_size=8,
    unique_by=lambda one: one.id,
)
_questions = st.sampled_from(["where is the red boat now", "boat", "SKU-4711", "what did you suggest", "红色的船在哪"])


@given(_candidates, _questions, st.floats(0, 60), st.randoms(use_true_random=False))
def test_the_order_is_total_bounded_and_repeatable(
    found: list[Candidate], question: str, best: float, order: random.Random
) -> None:
    asked = query(question)
    ranked = ranking.mixed(found, asked, best)
    assert sorted(one.candidate.id for one in ranked) == sorted(one.id for one in found)
    assert all(-1e-9 <= one.score <= 1 + 1e-9 for one in ranked)
    shuffled = list(found)
    order.shuffle(shuffled)
    assert ranking.mixed(shuffled, asked, best) == ranked
    final = ranking.newer_first(ranked, asked, KNOWN)
    assert {one.candidate.id for one in final[:10]} == {one.candidate.id for one in ranked[:10]}
    assert [one.candidate.id for one in final[10:]] == [one.candidate.id for one in ranked[10:]]
    assert all(a.score >= b.score for a, b in itertools.pairwise(final))


@given(_candidates, st.floats(0, 60))
def test_a_code_is_never_lost(found: list[Candidate], best: float) -> None:
    """What holds the code that was asked for comes before all that does not."""
    asked = query("what about the order SKU-4711?")
    (code,) = asked.codes
    holders = {one.id for one in found if code in one.terms}
    ranked = [one.candidate.id for one in ranking.mixed(found, asked, best)]
    assert set(ranked[: len(holders)]) == holders


@given(_candidates, st.floats(0, 60))
def test_the_share_of_words_is_a_share(found: list[Candidate], best: float) -> None:
    assert 0.0 <= ranking.words_share(found, best) <= 1.0


def test_words_decide_where_they_cover_the_query_and_meaning_where_not() -> None:
    near, exact = Candidate("near", cosine=0.8), Candidate("exact", cosine=0.5, bm25=9.0)
    asked = query("red boat")
    assert [one.candidate.id for one in ranking.mixed([near, exact], asked, best=10.0)] == ["exact", "near"]
    assert [one.candidate.id for one in ranking.mixed([near, exact], asked, best=90.0)] == ["near", "exact"]
    assert ranking.words_share([Candidate("a", bm25=1.0)], 10.0) == 1.0


def test_a_need_that_is_not_named_finds_a_preference() -> None:
    plain, preference = Candidate("plain", cosine=0.62), Candidate("preference", cosine=0.6, preference=True)
    found = [plain, preference, Candidate("far", cosine=0.1)]
    assert ranking.mixed(found, query("what shall we cook?"), best=30.0)[0].candidate.id == "preference"


@given(st.dictionaries(st.integers(1, 3), st.integers(1, 9)), st.integers(1, 400), st.integers(1, 400))
def test_context_adds_to_a_short_text_and_hardly_to_a_long_one(
    frequencies: dict[int, int], length: int, before: int
) -> None:
    silent = Evidence({}, length)
    assert ranking.bm25(silent, None, KNOWN) is None
    assert ranking.bm25(silent, Evidence({}, before), KNOWN) is None
    own = ranking.bm25(Evidence(frequencies, length), None, KNOWN)
    borrowed = ranking.bm25(silent, Evidence(frequencies, before), KNOWN)
    if frequencies:
        assert own is not None
        assert borrowed is not None
        assert borrowed > 0
        longer = ranking.bm25(replace(silent, length=length + 500), Evidence(frequencies, before), KNOWN)
        assert longer is not None
        assert longer < borrowed


def test_a_chain_of_updates_ends_with_its_newest_on_top() -> None:
    asked = query("where is the boat now?")
    texts = frozenset({1, 2})
    chain = [
        Candidate(str(n), cosine=0.9 - n / 10, terms=texts, time=float(n), by_user=True, text="It moved to a dock" * n)
        for n in range(4)
    ]
    final = ranking.newer_first(ranking.mixed(chain, asked, 0.0), asked, KNOWN)
    assert [one.candidate.id for one in final] == ["3", "2", "1", "0"]
    past = query("where was the boat before?")
    assert ranking.newer_first(ranking.mixed(chain, past, 0.0), past, KNOWN)[0].candidate.id == "0"


def test_what_a_query_could_reach_counts_unknown_words_but_no_unknown_pairs() -> None:
    known = Statistics({1: 2.0}, mean_length=10, document_count=9)
    words = ranking.best_possible(query("boat zeppelin"), known)
    assert words > 2.0
    asked = query("帆船")
    assert asked.terms == ("帆", "船", "帆船")
    assert ranking.best_possible(asked, Statistics({1: 2.0, 2: 1.0}, 10, 9)) == pytest.approx(3.0)


def test_statistics_join_scopes() -> None:
    rows = [["a", 1, 2.0, 10.0, 30], ["b", 1, 3.0, 40.0, 10], ["a", 2, 1.0, 10.0, 30]]
    known = ranking.statistics(rows)
    assert (known.idf, known.mean_length, known.document_count) == ({1: 3.0, 2: 1.0}, 17.5, 30)
    assert ranking.statistics(None) == Statistics()


@pytest.mark.parametrize("text", ["I never eat pork", "We really can't stand jazz", "我不吃香菜", "我对花粉过敏"])
def test_preferences_are_known_by_their_wording(text: str) -> None:
    assert wording.is_standing(text)


@pytest.mark.parametrize("text", ["The train leaves at nine", "Is it raining?", "会议改到三点"])
def test_other_texts_are_no_preferences(text: str) -> None:
    assert not wording.is_standing(text)


@pytest.mark.parametrize(
    "text", ["Always answer in French.", "Fine. Never use tables", "以后都用中文回答", "请务必写上单位"]
)
def test_instructions_are_known_by_their_wording(text: str) -> None:
    assert wording.is_instruction(text)


@pytest.mark.parametrize("text", ["I've always lived here", "They never came back", "永远的朋友"])
def test_other_texts_are_no_instructions(text: str) -> None:
    assert not wording.is_instruction(text)


@pytest.mark.parametrize(
    "text", ["We moved the party to Friday", "She is no longer vegan", "会议改到三点", "现在住在杭州"]
)
def test_changes_are_known_by_their_wording(text: str) -> None:
    assert wording.states_change(text)


@pytest.mark.parametrize("term", ["sku-4711", "tn-2110", "a1b2-99", "20240131", "ann@example.com"])
def test_codes_name_one_thing(term: str) -> None:
    assert wording.is_code(term)


@pytest.mark.parametrize("term", ["13th", "1990s", "250ms", "ps4", "boat", "2024", "2024-03-15"])
def test_other_numbers_are_no_codes(term: str) -> None:
    assert not wording.is_code(term)
