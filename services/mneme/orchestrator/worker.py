"""Works the mailbox: takes conversations, runs their turns, keeps this process's lease alive.

One process has one lease. A conversation belongs to it from the transaction that takes it to the one that frees it;
in between its events are worked one after the other. Nothing depends on a notification: it only makes the next look
at the mailbox come earlier.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from datetime import timedelta

import structlog

from mneme.errors.v1 import errors_pb2
from mneme.orchestrator import endings
from mneme.orchestrator.current import AbandonedError, Current, Deps, Handle, Session
from mneme.orchestrator.events import EventLog
from mneme.orchestrator.profile import Profile, profile_of
from mneme.orchestrator.records import Accepted, Fence, Incoming, LeaseLostError, Work
from mneme.orchestrator.store import journal as journal_store
from mneme.orchestrator.store import mailbox
from mneme.orchestrator.turn import Turn
from mneme.runtime import call, errors
from mneme.runtime.call import Call, Principal
from mneme.runtime.db import Connection
from mneme.runtime.errors import Error

_ENDING_SECONDS = 30.0
"""Time a run has to write down its end after its own time is over."""
_PROFILES = 512
_DRAIN_SHARE = 0.8
"""Part of the drain's time in which running turns may finish by themselves."""

log = structlog.stdlib.get_logger("mneme.orchestrator.worker")

Chore = Callable[[], Awaitable[None]]


class Worker:
    """The turns of one process."""

    def __init__(self, deps: Deps, *, worker_id: str, address: str, alone: bool) -> None:
        """Args:
        deps: What turns work with.
        worker_id: Names this process.
        address: Where other replicas dial it.
        alone: True when a lock proves that every other worker of this database is dead.
        """
        self._deps = deps
        self._settings = deps.settings.orchestrator
        self._worker_id = worker_id
        self._address = address
        self._alone = alone
        self._free = self._settings.max_concurrent_turns
        self._held: Counter[str] = Counter()
        """Conversations that this process works on, or is just about to."""
        self._handles: dict[str, Handle] = {}
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._profiles: OrderedDict[tuple[str, str, int], Profile] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loops: list[asyncio.Task[None]] = []
        self._woken = asyncio.Event()
        self._draining = True
        self._chores: list[Chore] = []

    def add_chore(self, chore: Chore) -> None:
        """Has something done at every look at the mailbox (timers, operations)."""
        self._chores.append(chore)

    async def start(self) -> None:
        """Makes this process alive and begins to work."""
        async with self._deps.database.work() as tx:
            if self._alone:
                await mailbox.dismiss_others(tx, worker_id=self._worker_id)
            await self._renew(tx)
        self._draining = False
        for loop in (self._keep_alive, self._claim_for_ever, self._listen, self._do_chores):
            self._loops.append(asyncio.create_task(loop(), name=f"orchestrator-{loop.__name__}"))

    async def accept(self, tenant: str, incoming: Incoming) -> Accepted:
        """Stores an event, and begins its run at once when its conversation and a place are free.

        Raises:
            UnknownConversationError, ClosedConversationError, OtherContentError: as the store says.
        """
        take = self._free > 0 and not self._draining
        self._hold(incoming.conversation_id, place=take)
        started = False
        try:
            async with self._deps.database.tenant(tenant) as tx:
                accepted = await mailbox.accept(tx, tenant, incoming, worker_id=self._worker_id, take=take)
            if accepted.work is not None:
                self._start(accepted.work.fence, accepted.work)
                started = True
        finally:
            if not started:
                self._let_go(incoming.conversation_id, place=take)
        if accepted.work is None:
            self.wake()
        return accepted

    def wake(self) -> None:
        """Has the mailbox looked at now."""
        self._woken.set()

    def cancel(self, run_id: str) -> None:
        """Asks a run of this process to stop."""
        handle = self._handles.get(run_id)
        if handle is not None:
            handle.cancel()

    async def drain(self) -> None:
        """Takes nothing more, lets running turns finish, and hands over those that do not finish in time."""
        self._draining = True
        if self._tasks:
            timeout = self._deps.settings.server.drain_timeout * _DRAIN_SHARE
            _, late = await asyncio.wait(self._tasks, timeout=timeout)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        async with self._deps.database.work() as tx:
            await mailbox.dismiss(tx, worker_id=self._worker_id)

    async def stop(self) -> None:
        """Ends all work at once; what was running is taken up by another process."""
        self._draining = True
        ending = [*self._loops, *self._tasks]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        self._loops.clear()

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_renew)
            try:
                async with self._deps.database.work() as tx:
                    if not self._draining:
                        await self._renew(tx)
                    depth, oldest = await mailbox.depth(tx)
            except Exception as error:  # noqa: BLE001 - a step runner: one broken round must not end all that follow
                log.warning("lease_not_renewed", **errors.logged(error))
                continue
            self._deps.metrics.mailbox_depth.set(depth)
            self._deps.metrics.mailbox_oldest_seconds.set(oldest)

    async def _renew(self, tx: Connection) -> None:
        lease = timedelta(seconds=self._settings.lease_seconds)
        await mailbox.renew(tx, worker_id=self._worker_id, address=self._address, lease=lease)

    async def _listen(self) -> None:
        async with aclosing(self._deps.database.listen(mailbox.CHANNEL)) as hints:
            async for _ in hints:
                self.wake()

    async def _claim_for_ever(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.poll_interval):
                    await self._woken.wait()
            self._woken.clear()
            if self._free <= 0 or self._draining:
                continue
            try:
                await self._claim()
            except Exception as error:  # noqa: BLE001 - a step runner: one broken round must not end all that follow
                log.warning("claim_failed", **errors.logged(error))

    async def _claim(self) -> None:
        async with self._deps.database.work() as tx:
            fences = await mailbox.claim(
                tx,
                worker_id=self._worker_id,
                held=list(self._held),
                limit=self._free,
                ageing=timedelta(seconds=self._settings.ageing),
            )
        for fence in fences:
            self._hold(fence.conversation_id, place=True)
            self._start(fence, None)

    async def _do_chores(self) -> None:
        while True:
            await asyncio.sleep(self._settings.poll_interval)
            for chore in self._chores if not self._draining else ():
                try:
                    await chore()
                except Exception as error:  # noqa: BLE001 - a step runner: one broken round must not end all that follow
                    log.warning("chore_failed", **errors.logged(error))

    def _hold(self, conversation_id: str, *, place: bool) -> None:
        self._held[conversation_id] += 1
        self._free -= place

    def _let_go(self, conversation_id: str, *, place: bool) -> None:
        self._held[conversation_id] -= 1
        if not self._held[conversation_id]:
            del self._held[conversation_id]
        self._free += place

    def _start(self, fence: Fence, work: Work | None) -> None:
        handle = Handle(fence.conversation_id)
        self._enter(handle, fence)
        task = asyncio.create_task(self._work(fence, work, handle), name=f"turn-{fence.run_id}")
        handle.task = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _enter(self, handle: Handle, fence: Fence) -> None:
        self._handles.pop(handle.run_id, None)
        handle.run_id = fence.run_id
        handle.cancel_requested = False
        self._handles[fence.run_id] = handle

    async def _work(self, fence: Fence, work: Work | None, handle: Handle) -> None:
        """Works on a conversation's events, one after the other, until none waits or others wait for the place."""
        following: Fence | None = fence
        try:
            while following is not None:
                self._enter(handle, following)
                following, work = await self._one(following, work, handle), None
        except LeaseLostError:
            log.info("lease_lost", conversation_id=fence.conversation_id)
            self._sessions.pop(fence.conversation_id, None)
        except (AbandonedError, Error) as error:
            log.warning("turn_abandoned", conversation_id=fence.conversation_id, error=repr(error.__cause__ or error))
            self._sessions.pop(fence.conversation_id, None)
        finally:
            self._handles.pop(handle.run_id, None)
            crowded = self._free <= 0
            self._let_go(fence.conversation_id, place=True)
            if crowded or following is not None:
                self.wake()

    async def _one(self, fence: Fence, work: Work | None, handle: Handle) -> Fence | None:
        """Works on one run; returns what to work on next."""
        if work is None:
            async with self._deps.database.tenant(fence.tenant) as tx:
                work = await mailbox.begin(tx, fence)
                if work is None:
                    # It ended between the look at the mailbox and the claim.
                    await mailbox.release(tx, fence)
                    return await mailbox.take_next(tx, fence, timedelta(seconds=self._settings.ageing))
        current = self._current(work, handle)
        deadline = asyncio.get_running_loop().time() + current.profile.run_timeout.total_seconds()
        principal = Principal(fence.tenant, work.event.actor, work.run.user_id)
        with (
            call.enter(Call(principal, deadline + _ENDING_SECONDS)),
            structlog.contextvars.bound_contextvars(run_id=fence.run_id),
        ):
            return await self._run(current, deadline)

    async def _run(self, current: Current, deadline: float) -> Fence | None:
        conversation_id = current.fence.conversation_id
        session = self._sessions.pop(conversation_id, None)
        if session is not None:
            if session.epoch == current.fence.epoch:
                current.token_factor = session.token_factor
            else:
                session = None
        turn = Turn(current, session, deadline=deadline)
        try:
            following = await turn.run(go_on=self._free > 0 and not self._draining)
        except (LeaseLostError, AbandonedError, Error):
            raise
        except Exception:
            log.exception("turn_broken")
            await self._give_up(current)
            return None
        # The conversation is free by now: a turn that has begun meanwhile knows more than this one.
        if turn.session is not None and self._held[conversation_id] == 1:
            self._keep(conversation_id, turn.session)
        await turn.settle()
        return following

    async def _give_up(self, current: Current) -> None:
        """Ends a run that met a defect of ours: its event becomes a dead letter, its conversation goes on."""
        error = Error(errors_pb2.REASON_INTERNAL, "something went wrong; the server's log says what")
        ending = endings.failed(current, error)
        current.log = EventLog(current.run.run_id, current.log.stored_sequence)
        current.log.add(endings.terminal_event(current, ending))
        async with current.transaction() as tx:
            await journal_store.finish(tx, current.fence, ending, current.log.stored(), attempt=current.attempt)
        current.deps.hub.publish(current.run.run_id, current.log.flushed())
        endings.measure(current, ending)

    def _current(self, work: Work, handle: Handle) -> Current:
        handle.cancel_requested |= work.run.cancel_requested
        return Current(
            deps=self._deps,
            work=work,
            profile=self._profile(work),
            handle=handle,
            attempt=work.run.attempt,
            log=EventLog(work.run.run_id, work.run.last_sequence),
            warned=work.warned,
            stored_warned=work.warned,
            bill=work.run.bill,
            model_asked=bool(work.steps),
            step_count=work.run.step_count,
        )

    def _profile(self, work: Work) -> Profile:
        key = (work.fence.tenant, work.run.agent_id, work.version)
        known = self._profiles.pop(key, None) or profile_of(
            work.run.agent_id, work.definition, self._settings, self._deps.settings.models
        )
        self._profiles[key] = known
        if len(self._profiles) > _PROFILES:
            self._profiles.popitem(last=False)
        return known

    def _keep(self, conversation_id: str, session: Session) -> None:
        self._sessions[conversation_id] = session
        while len(self._sessions) > self._settings.windows_kept:
            self._sessions.popitem(last=False)
