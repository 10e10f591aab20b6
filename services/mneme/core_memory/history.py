"""Versions of a text: what changed between two of them, and a history without one user's words."""

from __future__ import annotations

import difflib


def unified_diff(before: str, after: str, *, before_name: str, after_name: str) -> str:
    """Returns the unified diff of two texts, line by line; empty when they are equal.

    Lines end at a line feed only, and a last line without one differs from one with it: no change is hidden.
    """
    lines = difflib.unified_diff(
        before.split("\n"), after.split("\n"), fromfile=before_name, tofile=after_name, lineterm=""
    )
    return "\n".join(lines)


class Forgetting:
    """Walks through the versions of one text, oldest first, and leaves out the lines one user brought in.

    A line that later took the place of such a line counts as the user's too, since it may still hold the words,
    and so does every line that repeats one of them. What stood there before the user's first version stays.
    """

    def __init__(self, user: str) -> None:
        self._user = user
        self._lines: list[str] = []
        self._tainted: list[bool] = []
        self._words: set[str] = set()

    def next(self, value: str, user: str) -> str:
        """Returns the text of the next version, written for `user`, without the forgotten user's lines."""
        before, by_user = self._lines, user == self._user
        after = value.split("\n")
        tainted: list[bool] = []
        matcher = difflib.SequenceMatcher(a=before, b=after)
        for tag, from_start, from_end, to_start, to_end in matcher.get_opcodes():
            if tag == "equal":
                tainted += self._tainted[from_start:from_end]
            else:
                bad = by_user or any(self._tainted[from_start:from_end])
                tainted += [bad] * (to_end - to_start)
        if by_user:
            known = set(before) - self._words
            tainted = [bad and line not in known for line, bad in zip(after, tainted, strict=True)]
        self._words.update(line for line, bad in zip(after, tainted, strict=True) if bad and line.strip())
        self._lines = after
        self._tainted = [bad or line in self._words for line, bad in zip(after, tainted, strict=True)]
        return "\n".join(line for line, bad in zip(after, self._tainted, strict=True) if not bad)
