"""Counts of look-ups by tenant and agent, since this process started."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field

_MOST_AGENTS = 10_000


@dataclass(slots=True)
class Counts:
    """What look-ups came to."""

    lookups: int = 0
    exact_hits: int = 0
    semantic_hits: int = 0
    stored: int = 0
    saved_tokens: int = 0
    saved_seconds: float = 0.0
    misses: Counter[tuple[int, str]] = field(default_factory=Counter)
    """By (reason's number, guard)."""

    def add(self, other: Counts) -> None:
        """Adds another's counts to these."""
        self.lookups += other.lookups
        self.exact_hits += other.exact_hits
        self.semantic_hits += other.semantic_hits
        self.stored += other.stored
        self.saved_tokens += other.saved_tokens
        self.saved_seconds += other.saved_seconds
        self.misses += other.misses


class Statistics:
    """Counts of the 10,000 agents asked last; those of others are kept as their tenant's sum."""

    def __init__(self, most_agents: int = _MOST_AGENTS) -> None:
        self._most = most_agents
        self._agents: OrderedDict[tuple[str, str], Counts] = OrderedDict()
        self._past: dict[str, Counts] = {}

    def of(self, tenant: str, agent_id: str) -> Counts:
        """Returns the counts of one agent, to be raised."""
        key = (tenant, agent_id)
        counts = self._agents.get(key)
        if counts is None:
            counts = self._agents[key] = Counts()
            if len(self._agents) > self._most:
                (old_tenant, _), old = self._agents.popitem(last=False)
                self._past.setdefault(old_tenant, Counts()).add(old)
        else:
            self._agents.move_to_end(key)
        return counts

    def total(self, tenant: str, agent_id: str = "") -> Counts:
        """Returns a copy of the counts of one agent, or of the whole tenant for an empty id."""
        total = Counts()
        if not agent_id:
            total.add(self._past.get(tenant, Counts()))
        for (owner, agent), counts in self._agents.items():
            if owner == tenant and agent_id in ("", agent):
                total.add(counts)
        return total
