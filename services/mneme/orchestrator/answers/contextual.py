"""Questions that a model could not answer for all users: while nothing changes, it is not asked so again."""

from __future__ import annotations

import time
from collections import OrderedDict

_KEPT = 4096
_SECONDS = 600.0


class Contextual:
    """The newest of them in this process, by digest; no text is kept."""

    def __init__(self) -> None:
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def add(self, digest: bytes, *, seconds: float = _SECONDS) -> None:
        """Notes a question that needs its context, or that cannot be answered for all users for some seconds."""
        self._until[digest] = time.monotonic() + seconds
        self._until.move_to_end(digest)
        if len(self._until) > _KEPT:
            self._until.popitem(last=False)

    def __contains__(self, digest: bytes) -> bool:
        return self._until.get(digest, 0.0) > time.monotonic()
