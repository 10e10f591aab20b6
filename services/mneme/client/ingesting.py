"""How an ingest is sent: in streams of a bounded size, so that a cut costs at most one of them again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import grpc

from mneme.archival.v1 import archival_pb2
from mneme.errors.v1 import errors_pb2
from mneme.runtime.errors import Error

WINDOW_ITEMS = 1024
"""Items of one stream; what it settled is told when it ends, and never sent again."""
RECONNECT_SECONDS = 30.0
"""Longest wait for a server that went away, before the cut is raised."""

_CUTS = 5
_CUT_CODES = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED})


class Sending:
    """The part of an ingest that the server has not settled yet."""

    def __init__(
        self, owner: archival_pb2.PassageOwner, items: Iterable[archival_pb2.PassageItem | str], request_id: str
    ) -> None:
        """Args:
        owner: Who shall own the passages.
        items: What to store; a text stands for an item with nothing else. Read only as far as it is sent.
        request_id: Names the ingest.
        """
        self.request_id = request_id
        self._owner = owner
        self._items = iter(items)
        self._waiting: list[archival_pb2.PassageItem] = []
        self._next_index = 0
        self._answered = False
        self._cuts = 0

    def more(self) -> bool:
        """Returns whether a stream is to be sent: items wait, or no answer tells of those that were sent."""
        wanted = WINDOW_ITEMS - len(self._waiting)
        self._waiting += (_item(one) for one in islice(self._items, wanted))
        return bool(self._waiting) or not self._answered

    def requests(self) -> Iterator[archival_pb2.IngestPassagesRequest]:
        """Returns the messages of the next stream."""
        start = archival_pb2.IngestStart(request_id=self.request_id, owner=self._owner, first_index=self._next_index)
        yield archival_pb2.IngestPassagesRequest(start=start)
        for item in list(self._waiting):
            yield archival_pb2.IngestPassagesRequest(item=item)

    def answered(self, next_index: int) -> None:
        """Notes the answer to a stream: all items before a position are settled."""
        self._settled(next_index)
        self._answered = True

    def go_on(self, next_index: int) -> None:
        """Notes where to go on after a cut."""
        self._settled(next_index)
        self._answered = False

    def _settled(self, next_index: int) -> None:
        if next_index > self._next_index:
            self._cuts = 0
        del self._waiting[: next_index - self._next_index]
        self._next_index = next_index

    def skip(self, next_index: int) -> None:
        """Begins behind items that an earlier run of the program had settled."""
        next(islice(self._items, next_index, next_index), None)
        self._next_index = next_index

    def cut(self, error: Error) -> None:
        """Notes that a stream failed; raises when another one would fail like it."""
        self._cuts += 1
        if error.code not in _CUT_CODES or self._cuts > _CUTS:
            raise error

    def place(self) -> archival_pb2.GetIngestRequest:
        """Returns the question where to go on."""
        return archival_pb2.GetIngestRequest(request_id=self.request_id)


def is_unknown(error: Error) -> bool:
    """Returns whether a server knows of no such ingest: nothing of it was settled."""
    return error.reason == errors_pb2.REASON_NOT_FOUND


def _item(one: archival_pb2.PassageItem | str) -> archival_pb2.PassageItem:
    return archival_pb2.PassageItem(passage=archival_pb2.Passage(text=one)) if isinstance(one, str) else one
