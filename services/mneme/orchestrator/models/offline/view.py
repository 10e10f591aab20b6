"""A request as the offline model reads it: blocks, what is to be answered, and what was done about it
already.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Any

from mneme.orchestrator.models.port import ModelRequest, ToolUse, Turn

_BLOCK = re.compile(r"<block\s(?P<attributes>[^>]*)>\n?(?P<text>.*?)\n?</block>", re.DOTALL)
_ATTRIBUTE = re.compile(r'([\w-]+)="([^"]*)"')
_STAMP = re.compile(r"^(?:\[(?P<stamp>[^\]\n]{0,120})\]\s*)")
_SCORE = re.compile(r"\s*\(score -?[\d.]+\)$")
_RESULT_START = re.compile(r"^\[(?P<meta>[^\]\n]*\d{4}-\d{2}-\d{2}[^\]\n]*)\]\s*", re.MULTILINE)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True, slots=True)
class Block:
    """A core memory block, as the prompt shows it."""

    label: str
    text: str
    limit: int
    read_only: bool

    @property
    def lines(self) -> list[str]:
        """The lines that hold something."""
        return [line.strip() for line in self.text.splitlines() if line.strip()]


@dataclass(frozen=True, slots=True)
class Call:
    """A call already made for the present event, and what came of it."""

    name: str
    arguments: dict[str, Any]
    ok: bool
    result: str


@dataclass(frozen=True, slots=True)
class Hit:
    """A search result."""

    text: str
    source: str
    """`conversation` or `archive`."""
    date: str = ""
    """Day as YYYY-MM-DD, empty when not told."""
    role: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """What the model has to go by."""

    blocks: tuple[Block, ...]
    message: str
    """The user's newest message without its time stamp; empty when nobody waits for an answer."""
    today: date | None
    """Day of that message; None where it bears no time stamp."""
    event: str
    """An event that is no message of the user and stands last, without its time stamp; empty for none."""
    timed: bool
    """True where that event is a timed one."""
    pressure: bool
    """True where a memory-pressure notice has not been acted upon yet."""
    earlier: tuple[str, ...]
    """Earlier messages of the user in view, oldest first."""
    summary: tuple[str, ...]
    """Lines of the summary of what has left the window."""
    passages: tuple[str, ...]
    """Passages that were put into the prompt."""
    calls: tuple[Call, ...]
    """Calls made since the newest message or event."""
    first: bool
    """True where no answer of the model is in view or summarised."""
    tools: frozenset[str]

    def called(self, *names: str) -> list[Call]:
        """The calls of these tools, in order."""
        return [call for call in self.calls if call.name in names]


def look(request: ModelRequest) -> View:
    """The request, taken apart."""
    turns = request.turns
    start = max(
        (i for i, turn in enumerate(turns) if turn.role in {"user", "system"} and not _is_notice(turn)), default=-1
    )
    last = turns[start] if start >= 0 else None
    since = turns[start + 1 :]
    text = plain(last.text) if last else ""
    is_user = last is not None and last.role == "user"
    return View(
        blocks=_blocks("\n".join(part.text for part in request.system)),
        message=text if is_user else "",
        today=_day(last.text) if last else None,
        event="" if is_user else text,
        timed=not is_user and last is not None and bool(_TIMED.match(last.text.strip())),
        pressure=_unheeded_pressure(turns),
        earlier=tuple(plain(turn.text) for turn in turns[: max(start, 0)] if turn.role == "user"),
        summary=_summary(turns),
        passages=_passages(turns),
        calls=_calls(since),
        first=not any(turn.role == "assistant" for turn in turns[: max(start, 0)]) and not _summary(turns),
        tools=frozenset(tool.name for tool in request.tools),
    )


def plain(text: str) -> str:
    """A message's own text, without the time stamps in front or the JSON around it."""
    text = text.strip()
    if text.startswith("{"):
        text = _packed(text)
    while (stamp := _STAMP.match(text)) and (_DATE.search(stamp["stamp"]) or "memory" in stamp["stamp"]):
        text = text[stamp.end() :]
    return text.strip()


def _day(text: str) -> date | None:
    """The day in a message's time stamp."""
    stamp = _STAMP.match(text.strip())
    found = _DATE.search(stamp["stamp"]) if stamp else None
    try:
        return date.fromisoformat(found[0]) if found else None
    except ValueError:
        return None


def hits(call: Call) -> list[Hit]:
    """The results in a search's answer, best first; empty for a failed search."""
    if not call.ok:
        return []
    source = "archive" if call.name.startswith("archival") else "conversation"
    starts = list(_RESULT_START.finditer(call.result))
    bounds = [*(match.start() for match in starts), len(call.result)]
    found = []
    for match, end in zip(starts, bounds[1:], strict=True):
        meta = match["meta"]
        text = plain(_SCORE.sub("", call.result[match.end() : end].strip()))
        date = _DATE.search(meta)
        role = next((word for word in ("user", "assistant", "system", "tool") if meta.endswith(word)), "")
        if text:
            found.append(Hit(text, source, date[0] if date else "", role))
    return found


@lru_cache(maxsize=64)
def _blocks(text: str) -> tuple[Block, ...]:
    found = []
    for match in _BLOCK.finditer(text):
        attributes = dict(_ATTRIBUTE.findall(match["attributes"]))
        limit = attributes.get("limit", "")
        found.append(
            Block(
                label=attributes.get("label", ""),
                text=match["text"].replace("&lt;", "<"),
                limit=int(limit) if limit.isdigit() else 2_000,
                read_only=attributes.get("read_only") == "true",
            )
        )
    return tuple(found)


def _is_notice(turn: Turn) -> bool:
    """True for turns that report something and are no event to act upon."""
    return _is_pressure(turn) or (turn.role == "system" and bool(_QUIET.match(turn.text)))


def _is_pressure(turn: Turn) -> bool:
    return turn.role == "system" and turn.text.startswith("[memory pressure]")


_TIMED = re.compile(r"^\[[^\]\n]*\b(?:timer|timed|scheduled?)\b", re.IGNORECASE)
_QUIET = re.compile(r"^\[(?:summary|from memory)\b", re.IGNORECASE)
_PASSAGE = re.compile(r"^\[from memory, passage\b[^\]\n]*\]\s*", re.IGNORECASE)


def _unheeded_pressure(turns: Sequence[Turn]) -> bool:
    noticed = [i for i, turn in enumerate(turns) if _is_pressure(turn)]
    return bool(noticed) and not any(turn.role == "assistant" for turn in turns[noticed[-1] + 1 :])


def _summary(turns: Sequence[Turn]) -> tuple[str, ...]:
    texts = [turn.text for turn in turns if turn.role == "system" and turn.text.startswith("[summary]")]
    return tuple(line.strip("- ").strip() for text in texts for line in text.splitlines()[1:] if line.strip("- "))


def _passages(turns: Sequence[Turn]) -> tuple[str, ...]:
    found = [(turn.text, _PASSAGE.match(turn.text)) for turn in turns if turn.role == "system"]
    return tuple(text[match.end() :].strip() for text, match in found if match)


def _calls(turns: Sequence[Turn]) -> tuple[Call, ...]:
    uses: dict[str, ToolUse] = {}
    calls: list[Call] = []
    for turn in turns:
        uses.update({use.id: use for use in turn.tool_calls})
        for outcome in turn.outcomes:
            use = uses.pop(outcome.tool_call_id, None)
            if use is not None:
                calls.append(Call(use.name, _arguments(use), outcome.ok, outcome.content))
    return tuple(calls)


def _arguments(use: ToolUse) -> dict[str, Any]:
    try:
        value = json.loads(use.arguments_json)
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _packed(text: str) -> str:
    """The message inside a JSON envelope; the text itself where it is none."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return text
    message = value.get("message") if isinstance(value, dict) else None
    return message if isinstance(message, str) else text
