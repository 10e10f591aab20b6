"""An optional second look at what a search found: a model that reads the question and each text together.

A cross-encoder judges pairs better than any distance between vectors, and is too slow for more than the best few
(Nogueira and Cho 2019, arXiv 1901.04085): a search ranks as always, and gives the head of its list to the reranker.
Off unless `models.rerank_model` names one. What it cannot tell in time changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import openai
import structlog

from mneme.settings import ModelsSettings

_MOST_CHARS = 4_000
"""Of one text: models of this kind read little more."""

log = structlog.stdlib.get_logger("mneme.runtime.reranking")


class Reranker(Protocol):
    """Scores texts by how well they answer a question."""

    @property
    def depth(self) -> int:
        """Most texts that are looked at; the best of the search before."""
        ...

    async def scores(self, query: str, texts: Sequence[str]) -> list[float] | None:
        """Returns a score for each text, in their order, higher is better; None where it cannot tell."""
        ...


class RerankEndpoint:
    """`POST <base>/rerank` as Cohere, Jina, vLLM, llama.cpp and Text Embeddings Inference behind a gateway speak it."""

    def __init__(self, settings: ModelsSettings) -> None:
        """Opens nothing yet; see `models.rerank_*` for the settings."""
        self.depth = settings.rerank_depth
        self._model = settings.rerank_model
        key = settings.rerank_api_key if settings.rerank_base_url else settings.openai_api_key
        self._client = openai.AsyncOpenAI(
            base_url=settings.rerank_base_url or settings.openai_base_url or None,
            api_key=key.get_secret_value() or "none",
            timeout=settings.rerank_timeout,
            max_retries=0,
        )

    async def scores(self, query: str, texts: Sequence[str]) -> list[float] | None:
        """Returns the relevance scores of the endpoint; None when it fails, is late or leaves a text out."""
        body = {"model": self._model, "query": query, "documents": list(texts), "top_n": len(texts)}
        try:
            answer = await self._client.post("/rerank", cast_to=object, body=body)
            return _in_order(answer, len(texts))
        except (openai.OpenAIError, ValueError, KeyError, TypeError) as error:
            log.warning("rerank_failed", model=self._model, error=type(error).__name__)
            return None


async def order(reranker: Reranker | None, query: str, texts: Sequence[str]) -> list[tuple[int, float | None]]:
    """Returns the positions of texts in the order to show them, each with the reranker's score.

    The best `depth` of them are looked at and come first; what is behind them, and everything where there is no
    reranker or it cannot tell, stays as it was and has no score.
    """
    asis: list[tuple[int, float | None]] = [(position, None) for position in range(len(texts))]
    head = [text[:_MOST_CHARS] for text in texts[: reranker.depth]] if reranker else []
    scores = await reranker.scores(query, head) if reranker and len(head) > 1 and query.strip() else None
    if scores is None:
        return asis
    best = sorted(range(len(head)), key=lambda position: -scores[position])
    return [*((position, scores[position]) for position in best), *asis[len(head) :]]


def build_reranker(settings: ModelsSettings) -> Reranker | None:
    """Returns the deployment's reranker; None where there is none."""
    return RerankEndpoint(settings) if settings.rerank_model else None


def _in_order(answer: Any, count: int) -> list[float]:
    """The scores by position. Raises ValueError, KeyError or TypeError for an answer that does not cover all texts."""
    found = {int(one["index"]): float(one["relevance_score"]) for one in answer["results"]}
    if found.keys() != set(range(count)):
        raise ValueError("the answer leaves texts out")
    return [found[position] for position in range(count)]
