"""Random writes and passes of the job in any order: a search finds what brute force finds, every time."""

from __future__ import annotations

import os

import numpy as np
import pytest

from mneme.runtime.vectors import SERVING
from mneme.settings import MaintenanceSettings
from tests.contract.vectors.conftest import Archive, Owner, agent

_ALWAYS = MaintenanceSettings(exact_rows=256, fold_rows=1, build_memory_mb=64)


async def _write(archive: Archive, random: np.random.Generator) -> None:
    """One random write."""
    known = list(archive.truth["agent-1"])
    step = random.integers(10)
    if step < 4:
        await archive.insert(agent(), int(random.integers(1, 40)))
    elif step < 7:
        await archive.move(known[int(random.integers(len(known)))])
    else:
        await archive.delete(known[int(random.integers(len(known)))])


async def _play(archive: Archive, owner: Owner, seed: int, steps: int) -> None:
    random = np.random.default_rng(seed)
    await archive.insert(agent(), 280)
    hits = wanted_hits = 0
    for _ in range(steps):
        await _write(archive, random)
        if random.random() < 0.3:
            await owner.maintain(_ALWAYS)
        assert _out_of_place(owner) == []
        query = archive.vectors(1)[0]
        limit = int(random.integers(1, 30))
        found = await archive.search(query, limit=limit)
        assert len(found) == len(set(found)) == limit
        assert set(found) <= set(archive.truth["agent-1"])
        hits += len(set(found) & set(archive.nearest(query, ["agent-1"], limit=limit)))
        wanted_hits += limit
    assert hits >= 0.98 * wanted_hits
    assert [one["state"] for one in owner.tables()] == [SERVING]


def _out_of_place(owner: Owner) -> list[dict[str, object]]:
    """Vectors that a side table lacks although it says that it is complete, holds otherwise, or holds of nobody."""
    found = []
    for side in owner.tables():
        found += owner.as_tenant(
            "acme",
            f"""
            SELECT coalesce(v.id, p.id) AS id FROM archival.vector_{side["number"]} v FULL JOIN (
                SELECT * FROM archival.agent_passages WHERE owner_id = '{side["owner_id"]}'
            ) p ON p.id = v.id
            WHERE p.id IS NULL OR (p.revision <= {side["folded"]} AND p.embedding IS DISTINCT FROM v.embedding)
            """,
        )
    return found


async def test_random_writes_and_passes_in_any_order(archive: Archive, owner: Owner) -> None:
    await _play(archive, owner, seed=11, steps=40)


@pytest.mark.soak
async def test_random_writes_and_passes_for_long(archive: Archive, owner: Owner) -> None:
    await _play(archive, owner, seed=int(os.environ.get("SOAK_SEED", "1")), steps=int(os.environ.get("SOAK_N", "500")))
