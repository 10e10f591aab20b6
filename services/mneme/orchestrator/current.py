"""A run in progress: what the parts of the loop share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import structlog

from mneme.orchestrator import events
from mneme.orchestrator.answers.process import Answers
from mneme.orchestrator.events import EventLog
from mneme.orchestrator.executor import Executor
from mneme.orchestrator.models.port import ChatModel, ToolUse
from mneme.orchestrator.patience import Patience
from mneme.orchestrator.profile import Profile
from mneme.orchestrator.records import Bill, Fence, Run, Step, Work
from mneme.orchestrator.relay.watch import Hub
from mneme.orchestrator.store import journal as journal_store
from mneme.orchestrator.tools import InvalidCall, ParsedCall, parse_call
from mneme.orchestrator.window import Window
from mneme.runtime.db import Connection, Database
from mneme.runtime.errors import Error
from mneme.runtime.metrics import Metrics
from mneme.runtime.peers import Peers
from mneme.settings import Settings

T = TypeVar("T")

log = structlog.stdlib.get_logger("mneme.orchestrator.turn")


class CancelledRunError(Exception):
    """The run is to be cancelled, here between two steps."""


class AbandonedError(Exception):
    """The orchestrator's own database failed: the run stays as it is, and is taken up again."""


@dataclass(frozen=True, slots=True)
class Deps:
    """What every turn of this process works with."""

    settings: Settings
    database: Database
    peers: Peers
    executor: Executor
    model: ChatModel
    hub: Hub
    metrics: Metrics
    count_tokens: Callable[[str], int]
    answers: Answers


@dataclass(slots=True)
class Handle:
    """How others in this process reach a running turn."""

    conversation_id: str
    run_id: str = ""
    cancel_requested: bool = False
    task: asyncio.Task[None] | None = None
    thinking: bool = False
    """True while a model or the cache is asked: nothing of the step is stored yet, so it may be broken off."""

    def cancel(self) -> None:
        """Asks the turn to stop after its current step, or at once while a model or the cache is asked."""
        if self.cancel_requested:
            return
        self.cancel_requested = True
        if self.thinking and self.task is not None:
            self.task.cancel()


@dataclass(frozen=True, slots=True)
class Session:
    """What is kept of a conversation between its turns, right as long as the lease's epoch is the same."""

    epoch: int
    window: Window
    token_factor: float
    """The provider's count of a prompt's tokens, by our estimate of it."""


@dataclass(slots=True)
class Current:
    """One attempt at a run."""

    deps: Deps
    work: Work
    profile: Profile
    handle: Handle
    attempt: int
    log: EventLog
    token_factor: float = 1.0
    warned: bool = False
    """True while the model knows of memory pressure."""
    stored_warned: bool = False
    bill: Bill = field(default_factory=Bill)
    """Of the whole run."""
    model_asked: bool = False
    model: str = ""
    """Which one answered last."""
    step_count: int = 0
    last_error: Error | None = None
    """What the run waited for last."""
    times: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Calls and seconds, by service."""
    parsed: dict[str, ParsedCall | InvalidCall] = field(default_factory=dict)
    """Calls as they were checked, by call id."""
    pause: timedelta | None = None
    """For how long timed events are to wait, from the next transaction on."""

    @property
    def fence(self) -> Fence:
        """What every write must pass."""
        return self.work.fence

    def checked(self, call: ToolUse) -> ParsedCall | InvalidCall:
        """A call against its tool's schema."""
        if call.id not in self.parsed:
            self.parsed[call.id] = parse_call(call.name, call.arguments_json, self.profile.tools)
        return self.parsed[call.id]

    def is_broken(self, call: ToolUse) -> bool:
        """True for a call that cannot be run."""
        return isinstance(self.checked(call), InvalidCall)

    def restart(self, reason: str) -> None:
        """Tells watchers to forget the token deltas they have seen; stored with the next transaction."""
        self.attempt += 1
        self.log.add(events.restarted(self.attempt, reason))

    @property
    def run(self) -> Run:
        """The run as it stood when this attempt began."""
        return self.work.run

    @contextmanager
    def timed(self, service: str) -> Iterator[None]:
        """Counts the block as one call of a service."""
        began = time.monotonic()
        try:
            yield
        finally:
            count, seconds = self.times.get(service, (0, 0.0))
            self.times[service] = (count + 1, seconds + time.monotonic() - began)

    async def patiently(self, service: str, attempt: Callable[[], Awaitable[T]], *, cancellable: bool = True) -> T:
        """The result of a call to a service that the run cannot do without; waits until it answers.

        Args:
            cancellable: False inside a step: what the journal holds is carried out before a run is cancelled.

        Raises:
            Error: The service refused for good.
            CancelledRunError: The run was cancelled meanwhile.
        """

        async def timed() -> T:
            with self.timed(service):
                return await attempt()

        async def noticed(error: Error) -> None:
            self.last_error = error
            log.warning("turn_waits", run_id=self.run.run_id, service=service, reason=error.reason_name)
            if cancellable:
                self.stop_if_cancelled()
                # Also learns of a cancellation asked for in another process, and of a lost lease.
                await self.checkpoint()
                self.stop_if_cancelled()

        return await Patience(self.deps.settings.orchestrator, noticed).call(timed)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A transaction on the run's own rows.

        Raises:
            AbandonedError: The database failed.
        """
        try:
            with self.timed("orchestrator"):
                async with self.deps.database.tenant(self.fence.tenant) as tx:
                    yield tx
        except Error as error:
            raise AbandonedError from error

    async def commit(self, step: Step) -> None:
        """Stores a model's output and the events so far, and shows them; nothing may follow from it before.

        Raises:
            LeaseLostError: Another worker holds the conversation.
        """
        async with self.transaction() as tx:
            cancel = await journal_store.commit(tx, self.fence, step, self.log.stored(), warned=self._changed_warned())
        self._shown(cancel=cancel)
        self.bill += step.bill
        self.model = step.model
        self.step_count = step.number

    async def checkpoint(self, *, step_id: str = "", continue_reason: str = "") -> None:
        """Stores the events so far, marks a step as done, and shows them.

        Raises:
            LeaseLostError: Another worker holds the conversation.
        """
        async with self.transaction() as tx:
            cancel = await journal_store.checkpoint(
                tx,
                self.fence,
                self.log.stored(),
                attempt=self.attempt,
                step_id=step_id,
                continue_reason=continue_reason,
                warned=self._changed_warned(),
                pause=self.pause,
            )
        self.pause = None
        self._shown(cancel=cancel)

    @asynccontextmanager
    async def breakable(self) -> AsyncIterator[None]:
        """Lets the block be broken off when the run is cancelled: nothing of it may be stored yet.

        Raises:
            CancelledRunError: The run was cancelled meanwhile.
        """
        self.handle.thinking = True
        try:
            yield
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self.handle.cancel_requested or task is None:
                raise
            task.uncancel()
            raise CancelledRunError from None
        finally:
            self.handle.thinking = False

    def stop_if_cancelled(self) -> None:
        """Raises:
        CancelledRunError: The run is to be cancelled.
        """
        if self.handle.cancel_requested:
            raise CancelledRunError

    def _changed_warned(self) -> bool | None:
        return self.warned if self.warned != self.stored_warned else None

    def _shown(self, *, cancel: bool) -> None:
        self.stored_warned = self.warned
        self.handle.cancel_requested |= cancel
        self.deps.hub.publish(self.run.run_id, self.log.flushed())
