"""A provider that refuses a batch for its length: the text to blame is found, then reported or cut."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mneme.embedding.fitting import Overlong, Rejected, fit
from mneme.embedding.provider import Embedded, Model, TooLong, Unfit
from mneme.embedding.vectors import unit

MODEL = Model("test", "test", 2, 100, 8)


class Picky:
    """One token a character; refuses a call in which a text has more than `limit`, or something it dislikes."""

    def __init__(self, *, limit: int = 100, tells: bool = True, dislikes: str = "\0") -> None:
        self.dislikes = dislikes
        self.limit = limit
        self.tells = tells
        self.calls = 0

    async def __call__(self, texts: Sequence[str]) -> list[Embedded]:
        self.calls += 1
        longest = max(map(len, texts))
        if longest > self.limit:
            raise Overlong(longest if self.tells else None)
        if any(self.dislikes in text for text in texts):
            raise Rejected("no questions")
        made = []
        for text in texts:
            vector = unit([len(text), 1.0], 2)
            assert vector is not None
            made.append(Embedded(vector, len(text)))
        return made


async def test_a_batch_that_fits_is_one_call() -> None:
    picky = Picky()
    found = await fit(MODEL, ["a", "bb"], picky, truncate=False)
    assert [item.token_count for item in found if isinstance(item, Embedded)] == [1, 2]
    assert picky.calls == 1


async def test_only_the_text_to_blame_is_reported() -> None:
    texts = ["a", "bb", "c" * 500, "dddd", "eeeee"]
    found = await fit(MODEL, texts, Picky(), truncate=False)
    assert found[2] == TooLong(100, size=500)
    assert [item.token_count for item in found if isinstance(item, Embedded)] == [1, 2, 4, 5]


@pytest.mark.parametrize("tells", [True, False])
async def test_a_text_is_cut_until_the_provider_takes_it(tells: bool) -> None:
    (found,) = await fit(MODEL, ["x" * 1000], Picky(tells=tells), truncate=True)
    assert isinstance(found, Embedded)
    assert found.truncated
    assert 60 <= found.token_count <= 100


async def test_a_text_that_no_cut_helps_is_given_up() -> None:
    assert isinstance((await fit(MODEL, ["x" * 1000], Picky(limit=0), truncate=True))[0], Unfit)


async def test_a_text_that_is_refused_for_what_it_holds_fails_no_neighbour() -> None:
    picky = Picky(dislikes="?")
    texts = ["a", "what?", "dddd", "?" * 500, "eeeee"]
    first, question, fourth, cut, last = await fit(MODEL, texts, picky, truncate=True)
    assert (question, cut) == (Unfit("no questions"), Unfit("no questions"))
    assert [item.token_count for item in (first, fourth, last) if isinstance(item, Embedded)] == [1, 4, 5]
