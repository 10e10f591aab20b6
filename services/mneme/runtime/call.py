"""The running call: who is behind it and how long it may take. A context variable holds it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from opentelemetry import trace

from mneme.errors.v1 import errors_pb2
from mneme.runtime.errors import Error


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is behind a call, as the credential says."""

    tenant: str
    """Tenant whose data the call may touch."""
    actor: str
    """Who acts, for the audit: a user credential's subject, or what a service acts for (`model:<name>`)."""
    user: str = ""
    """User the credential is bound to, or whom a service acts for; empty for none."""
    service: str = ""
    """Calling service of the suite; empty for a user credential."""
    scopes: frozenset[str] = frozenset()
    """Scopes of a user credential."""


@dataclass(frozen=True, slots=True)
class Call:
    """One running RPC, or one task of a background worker."""

    principal: Principal
    """Who is behind it."""
    deadline: float = math.inf
    """When it must be done, on the event loop's clock in seconds; infinity for never."""
    method: str = ""
    """Full name of the RPC, `mneme.recall.v1.RecallService/AppendMessages`; empty in a worker."""


_current: ContextVar[Call] = ContextVar("mneme_call")


def current() -> Call:
    """Returns the running call.

    Raises:
        LookupError: Nothing entered one.
    """
    return _current.get()


def find() -> Call | None:
    """Returns the running call, or None outside one."""
    return _current.get(None)


def tenant() -> str:
    """Returns the tenant of the running call."""
    return _current.get().principal.tenant


@contextmanager
def enter(call: Call) -> Iterator[Call]:
    """Makes `call` the running one inside the block and in the tasks started there."""
    token = _current.set(call)
    try:
        yield call
    finally:
        _current.reset(token)


def remaining() -> float | None:
    """Returns the seconds left until the deadline, at least 0; None outside a call or without a deadline."""
    call = _current.get(None)
    if call is None or call.deadline == math.inf:
        return None
    return max(0.0, call.deadline - asyncio.get_running_loop().time())


def span_context() -> trace.SpanContext:
    """Returns the ids of the current span; invalid ones (zero) without a span."""
    return trace.get_current_span().get_span_context()


def trace_id() -> str:
    """Returns the current span's trace id as 32 hex digits; empty without a span."""
    context = span_context()
    return format(context.trace_id, "032x") if context.trace_id else ""


def acting_user(requested: str) -> str:
    """Returns the user a request concerns: the one asked for, else the credential's, else empty.

    Raises:
        Error: REASON_USER_NOT_ALLOWED, when a credential bound to one user asks for another.
    """
    bound = _current.get().principal.user
    if bound and requested and requested != bound:
        raise Error(
            errors_pb2.REASON_USER_NOT_ALLOWED,
            "the credential is bound to one user and may not act for another",
            metadata={"field": "user_id"},
        )
    return requested or bound
