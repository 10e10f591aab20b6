"""Entries whose knowledge bases moved: served on when nothing written there concerns them."""

from __future__ import annotations

import pytest

from mneme.semantic_cache.v1 import semantic_cache_pb2 as pb
from tests.contract.semantic_cache.conftest import Asker
from tests.contract.semantic_cache.peers import SPACE, Peers, direction
from tests.contract.semantic_cache.test_semantic import first, near

KNOWLEDGE = pb.KnowledgeUse(knowledge_base_id="kb-1", passage_ids=["passage-1"], kth_score=0.5)


async def stored(cache: Asker, revision: int) -> None:
    """An answer made from a knowledge base."""
    asked = first(revisions={"agent-1 blocks": 1, "kb-1": revision})
    lease = (await cache.acquire(asked)).lease
    entry = pb.CacheEntry(answer="By mail.", knowledge=[KNOWLEDGE])
    assert (await cache.stub.Commit(pb.CommitRequest(lease_token=lease.lease_token, key=asked, entry=entry))).stored


@pytest.mark.parametrize("asked", [first, near])
async def test_an_answer_is_served_on_and_stamped_anew(asking: Asker, peers: Peers, asked: type) -> None:
    await stored(asking, 4)
    peers.revisions["kb-1"] = 7
    moved = {"agent-1 blocks": 1, "kb-1": 6}
    assert await asking.answer(asked(revisions=moved)) == "By mail."
    (check,) = peers.checks
    assert (check.knowledge_base_id, check.since_revision, list(check.passage_ids)) == ("kb-1", 4, ["passage-1"])
    assert check.kth_score == 0.5
    assert check.vector.space_id == SPACE
    assert list(check.vector.values) == pytest.approx(direction("password").tolist(), abs=1e-3)
    assert await asking.answer(asked(revisions=moved)) == "By mail."
    assert len(peers.checks) == 1


@pytest.mark.parametrize("asked", [first, near])
async def test_what_a_write_concerns_is_not_served(asking: Asker, peers: Peers, asked: type) -> None:
    await stored(asking, 4)
    peers.revisions["kb-1"] = 5
    peers.concerned["kb-1"] = 5
    assert await asking.reason(asked(revisions={"agent-1 blocks": 1, "kb-1": 5})) == "BASIS_CHANGED"


@pytest.mark.parametrize(
    "revisions",
    [
        {"agent-1 blocks": 2, "kb-1": 5},
        {"agent-1 blocks": 1, "kb-1": 4, "kb-2": 1},
        {"agent-1 blocks": 1},
    ],
)
async def test_where_more_than_used_knowledge_moved_nobody_is_asked(
    asking: Asker, peers: Peers, revisions: dict[str, int]
) -> None:
    await stored(asking, 4)
    peers.revisions |= {"kb-1": 9, "kb-2": 9}
    assert await asking.reason(first(revisions=revisions)) == "BASIS_CHANGED"
    assert not peers.checks


async def test_an_archive_that_is_behind_or_down_does_not_vouch(asking: Asker, peers: Peers) -> None:
    await stored(asking, 4)
    peers.revisions["kb-1"] = 5
    moved = first(revisions={"agent-1 blocks": 1, "kb-1": 6})
    assert await asking.reason(moved) == "BASIS_CHANGED"
    peers.revisions["kb-1"] = 6
    peers.down = True
    assert await asking.reason(moved) == "BASIS_CHANGED"
