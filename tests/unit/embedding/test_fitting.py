"""A provider that refuses a batch for its length: the text to blame is found, then reported or cut."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mneme.embedding.fitting import Overlong, fit
from mneme.embedding.provider import Embedded, Model, TooLong
from mneme.embedding.vectors import unit
from mneme.errors.v1 import errors_pb2
from mneme.runtime.errors import Error

MODEL = Model("test", "test", 2, 100, 8)


class Picky:
    """One token a character; refuses a call in which a text has more than `limit`."""

    def __init__(self, *, limit: int = 100, tells: bool = True) -> None:
        self.limit = limit
        self.tells = tells
        self.calls = 0

    async def __call__(self, texts: Sequence[str]) -> list[Embedded]:
        self.calls += 1
        longest = max(map(len, texts))
        if longest > self.limit:
            raise Overlong(longest if self.tells else None)
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


async def test_a_provider_that_takes_nothing_is_given_up() -> None:
    with pytest.raises(Error) as caught:
        await fit(MODEL, ["x" * 1000], Picky(limit=0), truncate=True)
    assert caught.value.reason == errors_pb2.REASON_PROVIDER_REFUSED
