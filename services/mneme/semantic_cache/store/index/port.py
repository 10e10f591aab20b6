"""What the cache asks of an index."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

from mneme.semantic_cache.addresses import Partition
from mneme.semantic_cache.neighbours import Vectors


def send(client: Any, *command: Any) -> Awaitable[Any]:
    """Sends a command that the client library has no typed method for, to a client or into a pipeline."""
    answer: Awaitable[Any] = client.execute_command(*command)
    return answer


class VectorIndex(Protocol):
    """Proposes entries; the stored rows decide. It may forget, lag behind, or name what is gone.

    Every method raises CacheDown when the server does not answer or refuses.
    """

    @property
    def name(self) -> str:
        """`search`, `vector_set` or `process`."""
        ...

    async def add(self, partition: Partition, digest: str, vector: Vectors, ends: float) -> None:
        """Adds an entry that is stored already, or replaces it.

        Args:
            partition: Where it belongs.
            digest: 64 hex digits of its address.
            vector: float32[dimensions].
            ends: When it ends, in Unix seconds.
        """
        ...

    async def search(self, partition: Partition, vector: Vectors, limit: int) -> list[str]:
        """Returns the digests of the nearest entries, about in order; none for an unknown partition."""
        ...

    async def drop(self, partition: Partition, digests: Sequence[str]) -> None:
        """Removes entries that were found gone."""
        ...

    async def close(self) -> None:
        """Ends background work."""
        ...
