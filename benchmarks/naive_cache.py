"""The cache as commonly published: an MD5 key for the same question, and for others `KEYS`, one `GET` an entry, and the
cosine in Python, with one threshold.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence

import redis.asyncio

_PREFIX = "semantic_cache"


class NaiveCache:
    """Entries as JSON texts in Redis."""

    def __init__(self, client: redis.asyncio.Redis, threshold: float) -> None:
        """Args:
        client: The server.
        threshold: Cosine from which an entry is served.
        """
        self._client = client
        self._threshold = threshold

    @staticmethod
    def item(question: str, vector: Sequence[float], answer: str) -> tuple[str, str]:
        """Returns key and value of an entry."""
        key = f"{_PREFIX}:{hashlib.md5(question.encode(), usedforsecurity=False).hexdigest()}"
        return key, json.dumps({"query": question, "embedding": list(vector), "response": answer})

    async def look_up(self, question: str, vector: Sequence[float]) -> str | None:
        """Returns the answer of the same question, else of the nearest above the threshold."""
        exact = await self._client.get(self.item(question, (), "")[0])
        if exact:
            return str(json.loads(exact)["response"])
        best, answer = self._threshold, None
        for key in await self._client.keys(f"{_PREFIX}:*"):
            entry = json.loads(await self._client.get(key) or "{}")
            score = _cosine(vector, entry["embedding"])
            if score >= best:
                best, answer = score, str(entry["response"])
        return answer


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    return dot / (math.sqrt(sum(a * a for a in one)) * math.sqrt(sum(b * b for b in other)))
