"""A provider's failures as the suite's own."""

import re
from datetime import timedelta

from mneme.errors.v1 import errors_pb2
from mneme.runtime.errors import Error

DEFAULT_RETRY = timedelta(seconds=2)
_DETAIL_CHARS = 160
_TOO_LONG = re.compile(
    r"too long|too many (?:input )?tokens|context (?:length|window)|maximum context|input length|prompt is too|"
    r"exceeds? the (?:maximum|model|context)|reduce the length",
    re.IGNORECASE,
)


def says_too_long(detail: str) -> bool:
    """True where a provider's refusal says that the prompt does not fit the window."""
    return bool(_TOO_LONG.search(detail))


def throttled(provider: str, model: str, retry_after: timedelta | None = None) -> Error:
    """The provider asks to slow down."""
    return Error(
        errors_pb2.REASON_PROVIDER_THROTTLED,
        f"{provider} throttles model {model}",
        metadata={"provider": provider, "model": model},
        retry_after=retry_after or DEFAULT_RETRY,
    )


def unavailable(provider: str, model: str, detail: str) -> Error:
    """The provider did not answer, or not to the end."""
    return Error(
        errors_pb2.REASON_PROVIDER_UNAVAILABLE,
        f"{provider} does not answer for model {model}: {_short(detail)}",
        metadata={"provider": provider, "model": model, "detail": _short(detail)},
    )


def refused(provider: str, model: str, detail: str) -> Error:
    """The provider will not answer this request, however often it is asked."""
    return Error(
        errors_pb2.REASON_PROVIDER_REFUSED,
        f"{provider} refuses the request for model {model}: {_short(detail)}",
        metadata={"provider": provider, "model": model, "detail": _short(detail)},
    )


def overflow(provider: str, model: str, window_tokens: int) -> Error:
    """The prompt does not fit the model's window."""
    return Error(
        errors_pb2.REASON_CONTEXT_OVERFLOW,
        f"{provider}: the prompt does not fit the window of model {model} ({window_tokens} tokens)",
        metadata={"provider": provider, "model": model, "window": str(window_tokens)},
    )


def _short(detail: str) -> str:
    flat = " ".join(detail.split())
    return flat if len(flat) <= _DETAIL_CHARS else flat[: _DETAIL_CHARS - 1] + "…"
