"""Makes answers for all users anew in the background, before they end, so that nobody has to wait for that.

Only those: an answer of one user is made within its conversation, which nothing touches behind the user's back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import grpc
import structlog

from mneme.orchestrator import events, journal
from mneme.orchestrator.answers import keys, public
from mneme.orchestrator.answers.asking import SideAsker
from mneme.orchestrator.answers.keys import Public
from mneme.orchestrator.profile import Profile
from mneme.runtime import call
from mneme.runtime.call import Call, Principal
from mneme.runtime.errors import Error
from mneme.runtime.peers import Peers
from mneme.semantic_cache.v1 import semantic_cache_pb2 as cache_pb
from mneme.settings import OrchestratorSettings

_WAITING = 32
"""Answers that wait to be made anew, in each process; more are left to end."""

log = structlog.stdlib.get_logger("mneme.orchestrator.answers")


@dataclass(frozen=True, slots=True)
class Refresh:
    """An answer that was served and is about to end, with the right to make it anew."""

    principal: Principal
    """In whose name: the user that it was served to."""
    profile: Profile
    asked: Public
    run_id: str
    """Run that it was served to."""
    token: str


class Refresher:
    """Works on some of them at a time."""

    def __init__(
        self,
        peers: Peers,
        asker: SideAsker,
        settings: OrchestratorSettings,
        count_tokens: Callable[[str], int],
    ) -> None:
        self._peers = peers
        self._asker = asker
        self._settings = settings
        self._count_tokens = count_tokens
        self._places = asyncio.Semaphore(max(1, settings.cache_refreshes))
        self._tasks: set[asyncio.Task[None]] = set()

    def accepts(self) -> bool:
        """Whether there is room for one more."""
        return self._settings.cache_refreshes > 0 and len(self._tasks) < _WAITING

    def offer(self, refresh: Refresh) -> None:
        """Makes an answer anew soon; ask `accepts` before."""
        task = asyncio.create_task(self._work(refresh), name="answer-refresh")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Breaks off what is being made, and gives it up."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _work(self, refresh: Refresh) -> None:
        until = asyncio.get_running_loop().time() + self._settings.cache_lease
        kept = False
        with call.enter(Call(refresh.principal, until)):
            try:
                async with asyncio.timeout_at(until), self._places:
                    kept = await self._make(refresh)
            except (Error, grpc.aio.AioRpcError, TimeoutError) as error:
                log.info("answer_not_refreshed", error=type(error).__name__)
            finally:
                if not kept:
                    await self._give_up(refresh)

    async def _make(self, refresh: Refresh) -> bool:
        """Whether there is an answer again."""
        profile = refresh.profile
        asked = await keys.public(self._peers, profile, refresh.asked.question)
        grounds = await public.search(self._peers, asked)
        if grounds is None:
            return False
        built = public.build(grounds, profile, journal.incoming_id(refresh.run_id), events.now(), self._count_tokens)
        made = await self._asker.ask(built.request, profile.choices, purpose="refresh", agent_id=profile.agent_id)
        answer = public.answer_of(made.output)
        if answer is None:
            return False
        entry = cache_pb.CacheEntry(
            answer=answer,
            run_id=refresh.run_id,
            model=made.model,
            passage_ids=grounds.passage_ids,
            token_count=made.bill.tokens,
            model_seconds=made.seconds,
            knowledge=grounds.knowledge,
        )
        request = cache_pb.CommitRequest(lease_token=refresh.token, key=asked.key, entry=entry)
        life = keys.life(asked.next_change, events.now())
        if life == timedelta():
            return False
        if life is not None:
            request.time_to_live.FromTimedelta(life)
        return (await self._peers.semantic_cache.Commit(request)).stored

    async def _give_up(self, refresh: Refresh) -> None:
        request = cache_pb.AbortRequest(lease_token=refresh.token, key=refresh.asked.key)
        try:
            await self._peers.semantic_cache.Abort(request, timeout=self._settings.cache_timeout)
        except grpc.aio.AioRpcError as error:
            log.info("cache_not_told", code=error.code().name)
