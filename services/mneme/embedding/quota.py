"""How much of the provider a tenant may use: tokens a minute, as a bucket that fills steadily.

The bucket is kept as one number, the time at which it would be full again (the generic cell rate algorithm, ITU-T
I.371, "virtual scheduling"), so that one atomic step on one key decides, here as in Redis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from mneme.errors.v1 import errors_pb2
from mneme.runtime.errors import Error

_WINDOW = 60.0
_BYTES_PER_TOKEN = 4
_TENANTS_KEPT = 10_000


def estimated_tokens(text: str) -> int:
    """Returns about how many tokens a text has, at least 1: the providers do not publish their tokenizers.

    Four bytes a token is the usual rule for English; a Chinese character counts as three quarters of one.
    """
    return max(1, len(text.encode()) // _BYTES_PER_TOKEN)


class Meter(Protocol):
    """Counts what tenants use; processes that share one hold a tenant to its limit together."""

    async def take(self, tenant: str, tokens: int, limit: int) -> float:
        """Returns 0 when the tenant may use the tokens now, else the seconds until it may; nothing is taken then.

        Args:
            tenant: Who.
            tokens: How many.
            limit: Tokens of this tenant in a minute, at least 1.
        """


@dataclass(frozen=True, slots=True)
class Quotas:
    """What each tenant may use."""

    meter: Meter
    """Counts."""
    default: int = 0
    """Tokens a minute of tenants that are not named; 0 for no limit."""
    named: Mapping[str, int] | None = None
    """Tokens a minute by tenant; 0 for no limit."""

    async def charge(self, tenant: str, tokens: int) -> None:
        """Returns when the tenant may use the tokens.

        Raises:
            Error: REASON_QUOTA_EXCEEDED, with the time after which they will be free.
        """
        limit = (self.named or {}).get(tenant, self.default)
        if not limit or not tokens:
            return
        seconds = await self.meter.take(tenant, tokens, limit)
        if seconds > 0:
            raise Error(
                errors_pb2.REASON_QUOTA_EXCEEDED,
                f"tenant '{tenant}' used its {limit} embedding tokens a minute",
                metadata={"quota": "embedding_tokens_per_minute", "limit": str(limit), "tenant": tenant},
                retry_after=timedelta(seconds=seconds),
            )


class LocalMeter:
    """Counts in this process alone."""

    def __init__(self) -> None:
        self._full_at: dict[str, float] = {}

    def take(self, tenant: str, tokens: int, limit: int, now: float) -> float:
        """Returns the seconds until the tenant may use the tokens; takes them when these are 0. See the port.

        Args:
            tenant: Who.
            tokens: How many; more than the limit are granted to a full bucket, which then owes them.
            limit: Tokens in a minute.
            now: Seconds of one monotonic clock.
        """
        if len(self._full_at) > _TENANTS_KEPT:
            self._full_at = {name: at for name, at in self._full_at.items() if at > now}
        owed = max(0.0, self._full_at.get(tenant, now) - now)
        after = owed + _WINDOW * tokens / limit
        if owed and after > _WINDOW:
            return min(after - _WINDOW, owed)
        self._full_at[tenant] = now + after
        return 0.0
