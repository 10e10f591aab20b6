"""The embedded default works without a network and keeps to the port."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest

from mneme.embedding import provider as providers
from mneme.embedding.provider import Embedded, InputType, Provider, Result, TooLong
from mneme.settings import EmbeddingSettings, ModelsSettings


@pytest.fixture
async def local() -> AsyncIterator[Provider]:
    provider = providers.build(ModelsSettings(), EmbeddingSettings())
    yield provider
    await provider.close()


async def embed(local: Provider, *texts: str, truncate: bool = False) -> list[Result]:
    return await local.embed(texts, InputType.DOCUMENT, truncate=truncate)


async def test_a_text_has_one_unit_vector_whatever_stands_beside_it(local: Provider) -> None:
    (alone,) = await embed(local, "I am allergic to nuts")
    beside, _, long = await embed(local, "I am allergic to nuts", "我对坚果过敏", "filler " * 2000)
    assert isinstance(alone, Embedded)
    assert isinstance(beside, Embedded)
    assert isinstance(long, Embedded)
    np.testing.assert_array_equal(alone.vector, beside.vector)
    assert alone.vector.shape == (256,)
    assert np.linalg.norm(long.vector) == pytest.approx(1.0, abs=1e-5)
    assert alone.token_count > 0


async def test_like_texts_are_nearer_than_unlike_ones(local: Provider) -> None:
    found = await embed(local, "a small dog", "the little dog", "interest rates rise")
    vectors = [item.vector for item in found if isinstance(item, Embedded)]
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]


async def test_a_text_over_the_limit_is_reported_or_cut(local: Provider) -> None:
    (refused,) = await embed(local, "word " * 9000)
    assert isinstance(refused, TooLong)
    assert refused.limit == 8192
    (cut,) = await embed(local, "word " * 9000, truncate=True)
    assert isinstance(cut, Embedded)
    assert cut.truncated
    assert cut.token_count == 8192


@pytest.mark.parametrize("text", [" ", "\n", "🙂", "\u200b", "é", "。"])
async def test_the_smallest_texts_have_a_vector(local: Provider, text: str) -> None:
    (found,) = await embed(local, text)
    assert isinstance(found, Embedded)


def test_another_size_is_refused_by_the_setting_that_asks_for_it() -> None:
    with pytest.raises(ValueError, match="embedding_dimensions"):
        providers.build(ModelsSettings(embedding_dimensions=512), EmbeddingSettings())
