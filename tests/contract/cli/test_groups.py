"""The groups of commands, against a running suite: what they print for people and for programs, and how they fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from mneme.cli.app import GROUPS, app
from tests.support.suite import Serve, Suite

Run = Callable[..., Awaitable[Result]]


@pytest.fixture
async def suite(serve: Serve) -> Suite:
    """All six services."""
    return await serve()


@pytest.fixture
def run(suite: Suite, tmp_path: Path) -> Run:
    """Runs a command as the tenant's operator, in a thread, as the suite lives in this one's loop."""
    token = tmp_path / "token"
    token.write_text(suite.token())

    async def invoke(*arguments: str, text: str | None = None) -> Result:
        target = ("--address", suite.address, "--token-file", str(token))
        return await asyncio.to_thread(CliRunner().invoke, app, [*arguments, *target], text)

    return invoke


async def _json(run: Run, *arguments: str) -> Any:
    result = await run(*arguments, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


async def test_two_agents_share_a_block_and_an_edit_is_undone(run: Run) -> None:
    for name in ("support", "sales"):
        await _json(run, "agents", "create", "--name", name)
    block = await _json(run, "blocks", "create", "policy", "Be brief.", "--attach", "support", "--attach", "sales")
    await _json(run, "blocks", "append", "support/policy", "Say please.", "--reason", "manners")
    assert (await _json(run, "blocks", "show", "sales/policy"))["block"]["value"] == "Be brief.\nSay please."
    history = await run("blocks", "history", "sales/policy")
    assert "manners" in history.stdout
    assert "+Say please." in (await run("blocks", "diff", block["block_id"], "1")).stdout
    undone = await _json(run, "blocks", "undo", "sales/policy")
    assert (undone["value"], undone["version"]) == ("Be brief.", "3")
    again = await run("blocks", "undo", "support/persona")
    assert again.exit_code == 1
    assert "nothing to undo" in str(again.exception)


async def test_a_folder_is_ingested_searched_and_ingested_again(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "handbook"
    folder.mkdir()
    (folder / "returns.md").write_text("Unused goods may be returned within thirty days.")
    (folder / "long.txt").write_text("\n\n".join(f"Paragraph {n}: " + "about lamps. " * 40 for n in range(60)))
    (folder / "facts.jsonl").write_text(
        '{"text": "Gift cards never expire.", "tags": ["gift"]}\n"Gloves come in pairs."\n'
    )
    (folder / "picture.png").write_bytes(b"\x89PNG")
    await _json(run, "kb", "create", "handbook")
    first = await _json(run, "kb", "ingest", "handbook", str(folder))
    assert (first["inserted_count"], int(first["passage_count"]) > 20) == ("4", True)
    found = await run("kb", "search", "handbook", "How long may I return goods?", "--limit", "1")
    assert "returned within thirty days" in found.stdout
    assert "returns.md" in found.stdout
    (folder / "returns.md").write_text("Unused goods may be returned within sixty days.")
    second = await _json(run, "kb", "ingest", "handbook", str(folder))
    assert second["passage_count"] == "1"
    found = await _json(run, "kb", "search", "handbook", "How long may I return goods?")
    texts = [one["passage"]["text"] for one in found["results"]]
    assert any("sixty" in text for text in texts)
    assert not any("thirty" in text for text in texts)
    tagged = await _json(run, "kb", "passages", "handbook", "--tag", "gift")
    assert [one["text"] for one in tagged] == ["Gift cards never expire."]


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"\xff\xfe\x00", "not UTF-8"), (b'{"txet": 1}', "facts.jsonl:1"), (b"[1]", "a text or an object")],
)
async def test_a_file_that_cannot_be_read_is_named(run: Run, tmp_path: Path, content: bytes, problem: str) -> None:
    await _json(run, "kb", "create", "handbook")
    name = "facts.jsonl" if content.startswith((b"{", b"[")) else "facts.txt"
    (tmp_path / name).write_bytes(content)
    result = await run("kb", "ingest", "handbook", str(tmp_path / name))
    assert result.exit_code == 1
    assert problem in str(result.exception)


async def test_a_user_is_exported_and_forgotten(run: Run, tmp_path: Path) -> None:
    await _json(run, "agents", "create", "--name", "support", "--user", "ann")
    await _json(run, "archival", "insert", "support", "Ann rows.", "--user", "ann")
    target = tmp_path / "ann.jsonl"
    assert (await run("users", "export", "ann", "--to", str(target))).exit_code == 0
    lines = [json.loads(line) for line in target.read_text().splitlines()]
    assert [line["record"]["text"] for line in lines if line["kind"] == "passage"] == ["Ann rows."]
    assert lines[-1]["kind"] == "end"
    refused = await run("users", "forget", "ann", text="n\n")
    assert refused.exit_code == 1
    report = await run("users", "forget", "ann", "--yes")
    assert report.exit_code == 0
    assert "archival.agent_passages" in report.stdout
    assert "is done" in report.stdout
    operations = await _json(run, "ops", "list")
    assert operations[0]["kind"] == "OPERATION_KIND_FORGET_USER"


async def test_events_are_sent_scheduled_and_watched(run: Run) -> None:
    await _json(run, "agents", "create", "--name", "support")
    conversation = (await _json(run, "conversations", "create", "support"))["conversation_id"]
    sent = await _json(run, "events", "send", conversation, "Ann logged in.", "--kind", "interaction")
    watched = await run("runs", "watch", sent["run_id"])
    assert "completed" in watched.stdout
    assert (await _json(run, "runs", "list", "--state", "completed"))[0]["run_id"] == sent["run_id"]
    assert await _json(run, "runs", "steps", sent["run_id"])
    made = await _json(run, "events", "schedule", conversation, "Hello", "--at", "2099-01-01T08:00")
    assert [one["timer_id"] for one in await _json(run, "events", "list")] == [made["timer_id"]]
    await _json(run, "events", "cancel", made["timer_id"])
    assert await _json(run, "events", "list") == []
    context = await run("conversations", "context", conversation)
    assert "Ann logged in." in context.stdout


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("agents", "show", "nobody"), "no agent is called 'nobody'"),
        (("kb", "show", "nothing"), "no knowledge base is called 'nothing'"),
        (("blocks", "show", "human"), "AGENT/LABEL"),
        (("runs", "list", "--state", "bogus"), "one of cancelled, completed"),
        (("events", "schedule", "conversation-1", "x"), "--at or --cron"),
        (("recall", "search", "agent-1", "x", "--after", "yesterday"), "is no time"),
    ],
)
async def test_what_is_wrong_is_said_with_its_cure(run: Run, arguments: tuple[str, ...], problem: str) -> None:
    result = await run(*arguments)
    assert result.exit_code == 1
    assert problem in str(result.exception)


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_teaches_by_examples(group: str) -> None:
    shown = CliRunner().invoke(app, [group, "--help"])
    assert shown.exit_code == 0
    assert f"mneme {group}" in shown.stdout
