"""Texts that wait for a provider: urgent ones first, and fair between tenants.

Within one urgency, tenants share the provider by self-clocked fair queueing (Golestani, "A Self-Clocked Fair Queueing
Scheme for Broadband Applications", INFOCOM 1994): a text is stamped with the virtual time at which it would be done if
its tenant had its share of the provider alone, and the smallest stamp goes first. So a tenant that waits with ten
thousand texts delays another one's single text by about one of its own.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Generic, NamedTuple, TypeVar

from mneme.embedding.provider import InputType


class Urgency(IntEnum):
    """Who goes first."""

    INTERACTIVE = 0
    """Somebody waits."""
    BULK = 1
    """Goes when nobody waits."""


class Kind(NamedTuple):
    """What the texts of one call have in common."""

    input_type: InputType
    truncate: bool


@dataclass(slots=True, eq=False)
class Ticket:
    """A place in the queue."""

    tenant: str
    kind: Kind
    urgency: Urgency
    cost: float
    """Work of the provider, in any unit that all tickets share; above 0."""
    entered: float = 0.0
    """When it entered, in seconds of a monotonic clock."""
    waiting: bool = field(default=False, init=False)
    """True while it is in the queue."""
    served: bool = field(default=False, init=False)
    """True once it was taken; when it comes again, its tenant has paid for it already."""


T = TypeVar("T", bound=Ticket)


class FairQueue(Generic[T]):
    """Tickets by urgency, then by their tenants' shares."""

    def __init__(self, weight: Callable[[str], float]) -> None:
        """Args:
        weight: Share of a tenant beside the others', above 0.
        """
        self._lanes = {urgency: _Lane[T](urgency, weight) for urgency in Urgency}

    def __len__(self) -> int:
        return sum(len(lane) for lane in self._lanes.values())

    def count(self, urgency: Urgency) -> int:
        """Returns how many of an urgency wait."""
        return len(self._lanes[urgency])

    def enter(self, ticket: T) -> None:
        """Puts a ticket in its tenant's place; one that was taken before comes first of its urgency."""
        self._lanes[ticket.urgency].enter(ticket)

    def hurry(self, ticket: T) -> None:
        """Makes a ticket interactive, also one that waits as bulk."""
        if ticket.urgency is Urgency.INTERACTIVE:
            return
        if ticket.waiting:
            self._lanes[Urgency.BULK].leave(ticket)
        ticket.urgency = Urgency.INTERACTIVE
        if ticket.waiting:
            self.enter(ticket)

    def first(self) -> tuple[T, int] | None:
        """Returns the ticket that goes next, and how many could go with it, itself included; None when empty."""
        for lane in self._lanes.values():
            if len(lane):
                return lane.first()
        return None

    def take(self, most: int) -> list[T]:
        """Removes and returns the tickets of the next call: of one urgency and kind, at most so many."""
        for lane in self._lanes.values():
            if len(lane):
                return lane.take(most)
        return []


class _Lane(Generic[T]):
    """Tickets of one urgency, in a heap a kind. Entries of tickets that left are passed over when they come up."""

    def __init__(self, urgency: Urgency, weight: Callable[[str], float]) -> None:
        self._urgency = urgency
        self._weight = weight
        self._order = itertools.count()
        self._heaps: dict[Kind, list[tuple[float, int, T]]] = {}
        self._sizes: Counter[Kind] = Counter()
        self._now = 0.0
        self._last: dict[str, float] = {}

    def __len__(self) -> int:
        return self._sizes.total()

    def enter(self, ticket: T) -> None:
        stamp = 0.0
        if not ticket.served:
            begin = max(self._now, self._last.get(ticket.tenant, 0.0))
            stamp = self._last[ticket.tenant] = begin + ticket.cost / self._weight(ticket.tenant)
        heapq.heappush(self._heaps.setdefault(ticket.kind, []), (stamp, next(self._order), ticket))
        self._sizes[ticket.kind] += 1
        ticket.waiting = True

    def leave(self, ticket: T) -> None:
        self._sizes[ticket.kind] -= 1

    def first(self) -> tuple[T, int]:
        kind = self._next_kind()
        return self._heaps[kind][0][2], self._sizes[kind]

    def take(self, most: int) -> list[T]:
        kind = self._next_kind()
        heap, taken = self._heaps[kind], list[T]()
        while len(taken) < most and self._sizes[kind]:
            stamp, _, ticket = heapq.heappop(heap)
            if self._holds(ticket):
                self._now = max(self._now, stamp)
                self._sizes[kind] -= 1
                ticket.waiting, ticket.served = False, True
                taken.append(ticket)
        if not len(self):
            # Nobody waits: whoever comes next owes nothing to anybody.
            self._heaps.clear()
            self._last.clear()
            self._now = 0.0
        return taken

    def _next_kind(self) -> Kind:
        kinds = [kind for kind, size in self._sizes.items() if size]
        for kind in kinds:
            heap = self._heaps[kind]
            while not self._holds(heap[0][2]):
                heapq.heappop(heap)
        return min(kinds, key=lambda kind: self._heaps[kind][0][:2])

    def _holds(self, ticket: T) -> bool:
        return ticket.waiting and ticket.urgency is self._urgency
