"""`mneme cache` against a running suite."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mneme.cli.app import app
from tests.support.suite import Serve

Run = Callable[..., Awaitable[Result]]

PAIR = {"q1": "How do I return shoes?", "q2": "What is the best way to send back shoes?", "same": 1}


@pytest.fixture
async def run(serve: Serve, tmp_path: Path) -> Run:
    """Runs a command as the tenant's operator, in a thread, as the suite lives in this one's loop."""
    suite = await serve()
    token = tmp_path / "token"
    token.write_text(suite.token())

    async def invoke(*arguments: str) -> Result:
        target = ("--address", suite.address, "--token-file", str(token))
        return await asyncio.to_thread(CliRunner().invoke, app, ["cache", *arguments, *target])

    return invoke


async def test_counts_come_with_what_is_known_of_their_precision(run: Run) -> None:
    shown = await run("stats")
    assert shown.exit_code == 0
    assert "hit rate" in shown.stdout
    assert "precision" in shown.stdout
    assert json.loads((await run("stats", "--json")).stdout)["available"] is True


async def test_two_questions_are_compared_as_the_cache_does(run: Run) -> None:
    hit = await run("explain", PAIR["q1"], "--against", PAIR["q2"], "--json")
    assert hit.exit_code == 0
    assert json.loads(hit.stdout)["hit"]["score"] > 0.5
    refused = await run("explain", "Can I return 30 shoes?", "--against", "Can I return 40 shoes?")
    assert refused.exit_code == 1
    assert "number" in refused.stdout
    elliptical = await run("explain", "And the other one?", "--against", PAIR["q1"], "--json")
    assert json.loads(elliptical.stdout)["miss"]["reason"] == "MISS_REASON_ELLIPTICAL"


async def test_what_is_stored_is_explained_and_removed(run: Run) -> None:
    shown = await run("explain", "How do I return shoes?", "--agent", "agent-none", "--json")
    assert shown.exit_code == 1
    assert json.loads(shown.stdout)["miss"]["reason"] == "MISS_REASON_NOT_FOUND"
    assert "--against" in str((await run("explain", "How do I return shoes?")).exception)
    assert (await run("invalidate", "--agent", "agent-none")).exit_code == 0
    assert json.loads((await run("invalidate", "--author", "nobody", "--json")).stdout) == {"removed_count": 0}
    assert "exactly one of" in str((await run("invalidate")).exception)


async def test_a_dry_run_shows_what_would_hit_what(run: Run, tmp_path: Path) -> None:
    questions = tmp_path / "questions.txt"
    texts = [PAIR["q1"], "how do i return shoes", PAIR["q2"], "How do I return boots?", "And the other ones?"]
    questions.write_text("\n".join(map(str, texts)), encoding="utf-8")
    seen = json.loads((await run("shadow", str(questions), "--json")).stdout)
    assert [one["outcome"] for one in seen] == ["miss", "exact", "semantic", "miss", "elliptical"]
    assert seen[2]["of"] == PAIR["q1"]
    assert "2 of 5 would be served" in (await run("shadow", str(questions))).stdout
    strict = json.loads((await run("shadow", str(questions), "--threshold", "1", "--json")).stdout)
    assert [one["outcome"] for one in strict] == ["miss", "exact", "miss", "miss", "elliptical"]


async def test_a_space_is_calibrated_only_by_enough_pairs(run: Run, tmp_path: Path) -> None:
    pairs, out = tmp_path / "pairs.jsonl", tmp_path / "own.json"
    line = json.dumps(PAIR) + "\n"
    pairs.write_text(line, encoding="utf-8")
    refused = await run("calibrate", str(pairs), "--out", str(out))
    assert refused.exit_code == 1
    assert "no threshold is sure" in str(refused.exception)
    assert not out.exists()
    pairs.write_text(line * 320, encoding="utf-8")
    chosen = await run("calibrate", str(pairs), "--out", str(out))
    assert chosen.exit_code == 0
    assert "chosen" in chosen.stdout
    written = json.loads(out.read_text(encoding="utf-8"))
    assert written["space_id"] == "wordllama@256"
    assert written["measured"]["precision_lower_bound"] >= 0.99
    pairs.write_text("no pair\n", encoding="utf-8")
    assert "line 1: not a pair" in str((await run("calibrate", str(pairs))).exception)
