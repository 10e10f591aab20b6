"""Makes the suite's ids: a type prefix, a dash and 32 hex digits."""

from __future__ import annotations

import secrets
import time
import uuid

_NAMESPACE = uuid.UUID("6d6e656d-652d-5000-8000-6d656d6f7279")


def new(prefix: str) -> str:
    """Returns a fresh id such as `block-0193…`; text order is the order of creation, to the millisecond."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds << 80) | (0x7 << 76) | (secrets.randbits(12) << 64) | (0b10 << 62) | secrets.randbits(62)
    return f"{prefix}-{value:032x}"


def derived(prefix: str, *parts: str | int) -> str:
    """Returns the id that always belongs to these parts: a repeated effect meets its own earlier row."""
    return f"{prefix}-{_uuid5(parts).hex}"


def derived_uuid(*parts: str | int) -> str:
    """Returns the UUID, in its canonical text form, that always belongs to these parts; for `request_id`."""
    return str(_uuid5(parts))


def _uuid5(parts: tuple[str | int, ...]) -> uuid.UUID:
    # A length before each part keeps ("ab", "c") and ("a", "bc") apart.
    texts = [str(part) for part in parts]
    return uuid.uuid5(_NAMESPACE, "".join(f"{len(text)}:{text}" for text in texts))
