"""Counts are kept by tenant and agent, in bounded memory, and lose nothing of a tenant's sum."""

from __future__ import annotations

from mneme.semantic_cache.statistics import Statistics


def test_an_agent_that_is_no_longer_kept_still_counts_for_its_tenant() -> None:
    statistics = Statistics(most_agents=2)
    for agent in ("agent-1", "agent-2", "agent-3"):
        statistics.of("acme", agent).lookups += 1
        statistics.of("acme", agent).misses[1, ""] += 1
    assert statistics.total("acme").lookups == 3
    assert statistics.total("acme").misses == {(1, ""): 3}
    assert statistics.total("acme", "agent-1").lookups == 0
    assert statistics.total("acme", "agent-3").lookups == 1
    assert statistics.total("other").lookups == 0
