"""How the loop waits for what does not answer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc
import grpc.aio
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_never, wait_random_exponential

from mneme.errors.v1 import errors_pb2
from mneme.runtime import errors
from mneme.runtime.errors import Error
from mneme.settings import OrchestratorSettings

T = TypeVar("T")

TRANSIENT = frozenset(
    {
        errors_pb2.REASON_PEER_UNAVAILABLE,
        errors_pb2.REASON_STORE_UNAVAILABLE,
        errors_pb2.REASON_STORE_FULL,
        errors_pb2.REASON_DEADLINE_EXCEEDED,
        errors_pb2.REASON_SHUTTING_DOWN,
        errors_pb2.REASON_TOO_MANY_CALLS,
        errors_pb2.REASON_QUOTA_EXCEEDED,
        errors_pb2.REASON_PROVIDER_THROTTLED,
        errors_pb2.REASON_PROVIDER_UNAVAILABLE,
        errors_pb2.REASON_UNAUTHENTICATED,
        errors_pb2.REASON_CREDENTIAL_EXPIRED,
        errors_pb2.REASON_INTERNAL,
    }
)
"""Reasons for which a run waits and tries again until its time is over."""


class Patience:
    """Repeats what fails for a passing reason, with jitter, until the task is cancelled at the run's end."""

    def __init__(self, settings: OrchestratorSettings, noticed: Callable[[Error], Awaitable[None]]) -> None:
        """Args:
        settings: Says how long to wait.
        noticed: Told of each failure before the wait; may raise to give up.
        """
        self._noticed = noticed
        self._settings = settings

    async def call(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """The result of the first attempt that does not fail for a passing reason.

        Raises:
            Error: For any other reason.
        """
        try:
            return await typed(attempt)
        except Error as error:
            if not is_transient(error):
                raise
            await self._noticed(error)
            await asyncio.sleep(self._first_wait(error))
        async for trial in AsyncRetrying(
            retry=retry_if_exception(is_transient),
            wait=self._wait,
            stop=stop_never,
            before_sleep=self._notice,
            reraise=True,
        ):
            with trial:
                return await typed(attempt)
        raise AssertionError("unreachable")

    def _first_wait(self, error: Error) -> float:
        wanted = error.retry_after.total_seconds() if error.retry_after is not None else 0.0
        return max(wanted, self._settings.retry_min * random.random())  # noqa: S311 - jitter

    def _wait(self, state: RetryCallState) -> float:
        wait = wait_random_exponential(multiplier=self._settings.retry_min, max=self._settings.retry_max)(state)
        failure = state.outcome.exception() if state.outcome else None
        if isinstance(failure, Error) and failure.retry_after is not None:
            return max(wait, failure.retry_after.total_seconds())
        return wait

    async def _notice(self, state: RetryCallState) -> None:
        failure = state.outcome.exception() if state.outcome else None
        if isinstance(failure, Error):
            await self._noticed(failure)


async def typed(attempt: Callable[[], Awaitable[T]]) -> T:
    """The result, or the typed error in place of a peer's status.

    Raises:
        Error: What a peer answered.
    """
    try:
        return await attempt()
    except grpc.aio.AioRpcError as error:
        raise errors.from_rpc_error(error) from error


def is_transient(error: BaseException) -> bool:
    """True when trying again later makes sense."""
    return isinstance(error, Error) and error.reason in TRANSIENT
