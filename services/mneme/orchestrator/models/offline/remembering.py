"""What to write to memory for a message, and what became of the writes already made."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mneme.orchestrator.models.offline.answering import memory_lines
from mneme.orchestrator.models.offline.facts import MAX_LINE_CHARS, Fact, fact, updates
from mneme.orchestrator.models.offline.view import Block, Call, View
from mneme.orchestrator.models.offline.words import same_text

MAX_LINES = 12
"""Facts of one message that go to core memory; the rest goes to archival memory in one piece."""
_HOME = "human"
_WRITES = ("core_memory_append", "core_memory_replace", "archival_memory_insert")

PlannedCall = tuple[str, dict[str, Any]]
"""A tool's name and its arguments."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a message's facts."""

    saved: tuple[str, ...] = ()
    updated: tuple[tuple[str, str], ...] = ()
    """Pairs of old and new line."""
    archived: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    """Lines that memory held before."""
    problem: str = ""
    """Why some fact could not be saved; empty when all were."""


def facts(statements: Sequence[str]) -> list[Fact]:
    """A fact for each statement."""
    return [fact(statement) for statement in statements]


def plan(view: View, wanted: Sequence[Fact]) -> list[PlannedCall]:
    """The writes that are still to be made: first attempts, then the next best place for those that
    failed.
    """
    block = _target(view.blocks)
    room = block.limit - len(block.text) if block else 0
    appended: list[str] = []
    archived: list[str] = []
    calls: list[PlannedCall] = []
    for one in wanted:
        tried = _attempts(view, one.line)
        if any(call.ok for call in tried) or (not tried and _is_known(view, one)):
            continue
        if not tried and block and (old := _older(block, one)):
            room -= len(one.line) - len(old)
            calls.append(_replace(block, old, one.line) if room >= 0 else _archive(one.line))
        elif block and _fits(one, room, tried) and len(appended) < MAX_LINES:
            room -= len(one.line) + 1
            appended.append(one.line)
        elif not any(call.name == "archival_memory_insert" for call in tried):
            archived.append(one.line)
    if appended and block:
        calls.insert(0, ("core_memory_append", {"label": block.label, "content": "\n".join(appended)}))
    if archived:
        calls.append(_archive("\n".join(archived)))
    return [call for call in calls if call[0] in view.tools]


def outcome(view: View, wanted: Sequence[Fact]) -> Outcome:
    """What became of the facts, by the calls made."""
    saved: list[str] = []
    updated: list[tuple[str, str]] = []
    archived: list[str] = []
    known: list[str] = []
    problem = ""
    for one in wanted:
        tried = _attempts(view, one.line)
        done = next((call for call in tried if call.ok), None)
        if done is None:
            if not tried and _is_known(view, one):
                known.append(one.line)
            else:
                problem = tried[-1].result if tried else "there is no tool and no writable block for it"
        elif done.name == "core_memory_replace":
            updated.append((str(done.arguments.get("old_content", "")), one.line))
        else:
            (archived if done.name == "archival_memory_insert" else saved).append(one.line)
    return Outcome(tuple(saved), tuple(updated), tuple(archived), tuple(known), problem)


def _attempts(view: View, line: str) -> list[Call]:
    """The writes that held this line."""
    return [
        call
        for call in view.called(*_WRITES)
        if line in str(call.arguments.get("new_content", call.arguments.get("content", ""))).split("\n")
    ]


def _target(blocks: Sequence[Block]) -> Block | None:
    """The block that facts about the user go to: `human`, else the first writable one that is not the
    persona.
    """
    writable = [block for block in blocks if not block.read_only and block.label != "persona"]
    return next((block for block in writable if block.label == _HOME), writable[0] if writable else None)


def _is_known(view: View, one: Fact) -> bool:
    return any(same_text(line, one.line) for _, line in memory_lines(view.blocks))


def _older(block: Block, one: Fact) -> str:
    """The line that the fact replaces, if it stands there exactly once; else an empty text."""
    return next((line for line in block.lines if updates(one, line) and block.text.count(line) == 1), "")


def _fits(one: Fact, room: int, tried: Sequence[Call]) -> bool:
    """True where an append is worth trying: short enough, and not refused before."""
    refused = any(call.name == "core_memory_append" or "limit" in call.result for call in tried)
    return not refused and len(one.line) <= MAX_LINE_CHARS and len(one.line) + 1 <= room


def _replace(block: Block, old: str, new: str) -> PlannedCall:
    return "core_memory_replace", {"label": block.label, "old_content": old, "new_content": new}


def _archive(text: str) -> PlannedCall:
    return "archival_memory_insert", {"content": text}
