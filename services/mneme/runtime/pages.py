"""Page sizes and page tokens of list methods.

A token holds where the next page starts and a hash of the request it belongs to (all fields but `page_token`
and `page_size`, and the tenant): used with another request it is refused. It is opaque, not secret.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import TypeVar

from google.protobuf.message import Message

from mneme.errors.v1 import errors_pb2
from mneme.runtime import call
from mneme.runtime.errors import Error, invalid

PAGE_BYTES = 3 * 1024 * 1024
"""Largest content of a page, unless its first item alone is larger: a client that sets nothing accepts 4 MiB."""

_HASH_BYTES = 12

M = TypeVar("M", bound=Message)


def page_size(requested: int, *, default: int, maximum: int) -> int:
    """Returns the number of items of a page: the default for 0, the maximum for more than it.

    Raises:
        Error: REASON_INVALID_FIELD, when it is negative.
    """
    if requested < 0:
        raise invalid("page_size", f"{requested} is negative", value=str(requested))
    return min(requested or default, maximum)


def fitting(items: Iterable[M]) -> list[M]:
    """Returns the first messages that fit into one page, at least one; those after them are not made."""
    size = 0
    shown: list[M] = []
    for item in items:
        size += item.ByteSize()
        if shown and size > PAGE_BYTES:
            break
        shown.append(item)
    return shown


def encode(request: Message, cursor: Sequence[str | int]) -> str:
    """Returns the token of the page that starts after `cursor`, for `next_page_token`."""
    body = json.dumps(list(cursor), separators=(",", ":"), ensure_ascii=False).encode()
    return base64.urlsafe_b64encode(_binding(request) + body).decode().rstrip("=")


def decode(request: Message) -> list[str | int] | None:
    """Returns the cursor in the request's `page_token`; None when it asks for the first page.

    Raises:
        Error: REASON_INVALID_PAGE_TOKEN, when the token was not made for this request and tenant.
    """
    token: str = request.page_token  # type: ignore[attr-defined]
    if not token:
        return None
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        cursor = json.loads(raw[_HASH_BYTES:])
    except (binascii.Error, ValueError, RecursionError):
        raise _refused() from None
    if raw[:_HASH_BYTES] != _binding(request) or not isinstance(cursor, list):
        raise _refused()
    if not all(isinstance(part, str | int) and not isinstance(part, bool) for part in cursor):
        raise _refused()
    return cursor


def _refused() -> Error:
    return invalid("page_token", "was not issued for this request", errors_pb2.REASON_INVALID_PAGE_TOKEN)


def _binding(request: Message) -> bytes:
    bound = type(request)()
    bound.CopyFrom(request)
    for name in ("page_token", "page_size"):
        if name in bound.DESCRIPTOR.fields_by_name:
            bound.ClearField(name)
    text = f"{bound.DESCRIPTOR.full_name}\0{call.tenant()}\0".encode()
    return hashlib.sha256(text + bound.SerializeToString(deterministic=True)).digest()[:_HASH_BYTES]
