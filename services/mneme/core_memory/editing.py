"""Edits of a block's text: append, replace, remove. Pure functions from the text before to the text after."""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Iterator

from mneme.core_memory.blocks import Block
from mneme.errors.v1 import errors_pb2
from mneme.runtime.errors import Error

_SHOWN_CHARS = 80
_PIECE_CHARS = 200
_CLOSEST_CANDIDATES = 10


def append(value: str, text: str) -> str:
    """Returns `value` with `text` at its end, on a line of its own."""
    if value and not value.endswith("\n"):
        return f"{value}\n{text}"
    return value + text


def replace(block: Block, old_text: str, new_text: str) -> str:
    """Returns the block's text with the one occurrence of `old_text` replaced.

    Raises:
        Error: REASON_TEXT_NOT_FOUND, when `old_text` is empty or does not occur exactly once.
    """
    start = _only_occurrence(block, old_text)
    return block.value[:start] + new_text + block.value[start + len(old_text) :]


def remove(block: Block, text: str) -> str:
    """Returns the block's text without the one occurrence of `text`; a line left empty by it goes too.

    Raises:
        Error: REASON_TEXT_NOT_FOUND, when `text` is empty or does not occur exactly once.
    """
    start = _only_occurrence(block, text)
    before, after = block.value[:start], block.value[start + len(text) :]
    line_is_empty = (not before or before.endswith("\n")) and (not after or after.startswith("\n"))
    if not line_is_empty:
        return before + after
    return before + after[1:] if after else before[:-1]


def check_limit(block: Block) -> None:
    """Returns when the block's text fits its limit.

    Raises:
        Error: REASON_BLOCK_LIMIT_EXCEEDED, naming size and limit in characters.
    """
    size = len(block.value)
    if size <= block.limit:
        return
    raise Error(
        errors_pb2.REASON_BLOCK_LIMIT_EXCEEDED,
        f"block '{block.label}': {size} characters, its limit is {block.limit}; "
        "shorten it or move details to archival memory",
        metadata={"label": block.label, "size": str(size), "limit": str(block.limit)},
    )


def occurrences(value: str, text: str) -> int:
    """Returns at how many places `text` starts in `value`, overlapping ones included; 0 for an empty text."""
    count, start = 0, value.find(text) if text else -1
    while start >= 0:
        count += 1
        start = value.find(text, start + 1)
    return count


def closest_text(value: str, text: str) -> str:
    """Returns the piece of `value` most like a line of `text`; empty when there is none.

    The line is the first of `text` that `value` does not hold. A piece is a line, or 200 characters of a longer one.
    All pieces are compared by the groups of three characters they share (Dice's coefficient), the ten best of them
    character by character: a hint costs time in proportion to the block.
    """
    lines = [line for line in text.split("\n") if line.strip()]
    wanted = next((line for line in lines if line not in value), lines[0] if lines else text)[:_PIECE_CHARS]
    groups = _groups(wanted)
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(wanted.casefold())

    def rough(piece: str) -> float:
        found = _groups(piece)
        return 2 * len(groups & found) / (len(groups) + len(found))

    def exact(piece: str) -> float:
        matcher.set_seq1(piece.casefold())
        return matcher.ratio()

    return max(heapq.nlargest(_CLOSEST_CANDIDATES, _pieces(value), key=rough), key=exact, default="")


def _groups(piece: str) -> set[str]:
    """Returns the groups of three neighbouring characters; the ends count as neighbours, so none is too short."""
    padded = f"  {piece.casefold()}  "
    return {padded[start : start + 3] for start in range(len(padded) - 2)}


def _pieces(value: str) -> Iterator[str]:
    """Yields the lines that are not blank; a long line in overlapping pieces, so that each text is whole in one."""
    for line in value.split("\n"):
        if not line.strip():
            continue
        for start in range(0, max(1, len(line) - _PIECE_CHARS // 2), _PIECE_CHARS // 2):
            yield line[start : start + _PIECE_CHARS]


def _only_occurrence(block: Block, text: str) -> int:
    start = block.value.find(text) if text else -1
    if start >= 0 and block.value.find(text, start + 1) < 0:
        return start
    count = occurrences(block.value, text)
    closest = closest_text(block.value, text) if not count else ""
    raise Error(
        errors_pb2.REASON_TEXT_NOT_FOUND,
        f"block '{block.label}' {_mismatch(text, count, closest)}",
        metadata={"label": block.label, "occurrences": str(count), "closest": closest},
    )


def _mismatch(text: str, count: int, closest: str) -> str:
    if not text:
        return "cannot be searched for an empty text"
    if count:
        return f"contains {_shown(text)} {count} times; quote more of the text around it, so that it occurs once"
    if not closest:
        return f"does not contain {_shown(text)}; it is empty"
    return f"does not contain {_shown(text)}; closest text: {_shown(closest)}"


def _shown(text: str) -> str:
    return f"'{text}'" if len(text) <= _SHOWN_CHARS else f"'{text[: _SHOWN_CHARS - 1]}…'"
