"""Summaries by extraction: the stated facts, on top of the summary before."""

import re
from collections.abc import Sequence

from mneme.orchestrator.models.offline.facts import Fact, fact, updates
from mneme.orchestrator.models.offline.understanding import understand
from mneme.orchestrator.models.offline.view import plain
from mneme.orchestrator.models.offline.words import same_text, sentences

_PARTS = re.compile(
    r"^Summary of everything before:\n(?P<old>.*?)\n+Messages that follow:\n(?P<messages>.*)$", re.DOTALL
)
_SPEAKER = re.compile(r"^(?P<role>user|assistant|system|tool):[ \t]?", re.MULTILINE)
_TITLE = re.compile(r"^Summary (?P<number>\d+)\b.*$")
_KEPT_QUESTIONS = 5
_CHARS_PER_TOKEN = 2
"""Cautious for Chinese, where a token is about one character."""


def summarise(text: str, max_tokens: int) -> str:
    """A new summary of a summariser's request: the old one's lines and the facts and questions that follow.

    Args:
        text: Old summary and messages, as the summariser's prompt lays them out; other text is cut to its
        first
            sentences.
        max_tokens: Bound of the result, kept by leaving out the oldest lines.
    """
    parts = _PARTS.match(text.strip())
    if parts is None:
        return " ".join(sentences(text)[:3])[: max_tokens * _CHARS_PER_TOKEN]
    old_lines = [line.strip() for line in parts["old"].splitlines() if line.strip() and line.strip() != "(none)"]
    number = 1
    if old_lines and (heading := _TITLE.match(old_lines[0])):
        number = int(heading["number"]) + 1
        old_lines = old_lines[1:]
    elif old_lines:
        number = 2
    lines = [line.removeprefix("- ") for line in old_lines]
    asked: list[str] = []
    for message in _user_messages(parts["messages"]):
        understood = understand(message)
        lines = _merged(lines, [fact(statement) for statement in understood.statements])
        asked += [f"The user asked: {question}" for question in understood.questions]
    title = f"Summary {number}" + (f", continues summary {number - 1}." if number > 1 else ".")
    return _bounded(title, lines + asked[-_KEPT_QUESTIONS:], max_tokens * _CHARS_PER_TOKEN)


def _user_messages(text: str) -> list[str]:
    """The user's messages in a transcript of `role: text` lines."""
    starts = list(_SPEAKER.finditer(text))
    bounds = [*(match.start() for match in starts), len(text)]
    return [
        plain(text[match.end() : end].strip())
        for match, end in zip(starts, bounds[1:], strict=True)
        if match["role"] == "user"
    ]


def _merged(lines: list[str], new: Sequence[Fact]) -> list[str]:
    """The lines with the new facts behind them, without what they repeat or replace."""
    for one in new:
        lines = [line for line in lines if not same_text(line, one.line) and not updates(one, line)]
        lines.append(one.line)
    return lines


def _bounded(title: str, lines: Sequence[str], max_chars: int) -> str:
    """Title and lines within a size; the newest lines stay."""
    kept: list[str] = []
    room = max_chars - len(title)
    for line in reversed(lines):
        room -= len(line) + 3
        if room < 0:
            break
        kept.append(f"- {line}")
    return "\n".join([title, *reversed(kept)])
