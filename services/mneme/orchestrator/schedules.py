"""RPCs of scheduled events, and of the prompt that a conversation would begin with."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from mneme.core_memory.v1 import core_memory_pb2
from mneme.errors.v1 import errors_pb2
from mneme.orchestrator import convert, messages, prompt, schedule
from mneme.orchestrator.base import PAGE_SIZE, PAGE_SIZE_MAX, Base, Context, bound_user
from mneme.orchestrator.profile import profile_of
from mneme.orchestrator.records import Timer
from mneme.orchestrator.store import timers as store
from mneme.orchestrator.store.tables import SCHEMA
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.recall.v1 import recall_pb2
from mneme.runtime import call, ids, pages
from mneme.runtime.errors import invalid, not_found
from mneme.runtime.idempotency import once


class ScheduleMethods(Base):
    """Schedules events; shows prompts."""

    async def ScheduleEvent(self, request: pb.ScheduleEventRequest, context: Context) -> pb.ScheduleEventResponse:
        """Gives an agent an event at a later time, once or by a schedule."""
        tenant = call.tenant()
        when = _first_time(request.schedule)

        async def run() -> pb.ScheduleEventResponse:
            found = await self._conversation(tx, request.conversation_id)
            stored = await store.insert(
                tx,
                tenant,
                Timer(
                    timer_id=ids.new("timer"),
                    agent_id=found.agent_id,
                    conversation_id=found.conversation_id,
                    user_id=found.user_id,
                    actor=call.current().principal.actor,
                    text=request.text,
                    cron=request.schedule.cron,
                    time_zone=request.schedule.time_zone,
                    next_time=when,
                    last_time=None,
                    create_time=when,
                ),
            )
            return pb.ScheduleEventResponse(scheduled_event=convert.wire_timer(stored))

        async with self._database.tenant(tenant) as tx:
            return await once(tx, SCHEMA, request, pb.ScheduleEventResponse, run)

    async def ListScheduledEvents(
        self, request: pb.ListScheduledEventsRequest, context: Context
    ) -> pb.ListScheduledEventsResponse:
        """Lists scheduled events, the next due first."""
        size = pages.page_size(request.page_size, default=PAGE_SIZE, maximum=PAGE_SIZE_MAX)
        cursor = pages.decode(request)
        async with self._database.tenant(call.tenant()) as tx:
            found = await store.list_timers(
                tx,
                call.tenant(),
                bound_user=bound_user(),
                conversation_id=request.conversation_id,
                after=(datetime.fromisoformat(str(cursor[0])), str(cursor[1])) if cursor else None,
                limit=size + 1,
            )
        response = pb.ListScheduledEventsResponse(
            scheduled_events=[convert.wire_timer(timer) for timer in found[:size]]
        )
        if len(found) > size:
            last = found[size - 1]
            response.next_page_token = pages.encode(request, [last.next_time.isoformat(), last.timer_id])
        return response

    async def CancelScheduledEvent(
        self, request: pb.CancelScheduledEventRequest, context: Context
    ) -> pb.CancelScheduledEventResponse:
        """Takes a scheduled event back."""

        async def run() -> pb.CancelScheduledEventResponse:
            if not await store.delete(tx, call.tenant(), request.timer_id, bound_user()):
                raise not_found(request.timer_id)
            return pb.CancelScheduledEventResponse()

        async with self._database.tenant(call.tenant()) as tx:
            return await once(tx, SCHEMA, request, pb.CancelScheduledEventResponse, run)

    async def GetContextWindow(
        self, request: pb.GetContextWindowRequest, context: Context
    ) -> pb.GetContextWindowResponse:
        """Returns the prompt that the next turn would begin with, before its message."""
        async with self._database.tenant(call.tenant()) as tx:
            conversation = await self._conversation(tx, request.conversation_id)
            agent = await self._agent(tx, conversation.agent_id)
        settings, peers, count = self._deps.settings, self._deps.peers, self._deps.count_tokens
        profile = profile_of(agent.agent_id, agent.definition, settings.orchestrator, settings.models)
        rendered, window = await asyncio.gather(
            peers.core_memory.RenderMemory(
                core_memory_pb2.RenderMemoryRequest(agent_id=agent.agent_id, user_id=conversation.user_id)
            ),
            peers.recall.GetWindow(
                recall_pb2.GetWindowRequest(agent_id=agent.agent_id, conversation_id=conversation.conversation_id)
            ),
        )
        built = prompt.build(
            instructions=profile.instructions,
            sampling=profile.choices[0].sampling,
            memory_text=rendered.text,
            blocks=[(block.block_id, block.version) for block in rendered.blocks],
            window=messages.window_of(window, count),
            related=(),
            tools=tuple(profile.tools.values()),
            count_tokens=count,
        )
        return pb.GetContextWindowResponse(
            parts=[convert.wire_part(part) for part in built.parts],
            token_count=built.tokens,
            window_tokens=profile.policy.window_tokens,
            model=profile.choices[0].sampling.model,
        )


def _first_time(wanted: pb.Schedule) -> datetime:
    kind = wanted.WhichOneof("when")
    if kind == "at":
        return wanted.at.ToDatetime(UTC)
    if kind == "cron":
        return schedule.next_after(wanted.cron, wanted.time_zone, datetime.now(UTC))
    raise invalid("schedule", "needs `at` or `cron`", errors_pb2.REASON_INVALID_SCHEDULE)
