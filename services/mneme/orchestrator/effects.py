"""Carries out what the journal says: runs a step's calls, each once, and turns their outcomes into messages."""

from __future__ import annotations

import time
from collections.abc import Container, Sequence
from dataclasses import dataclass
from datetime import timedelta

from mneme.orchestrator import events, journal
from mneme.orchestrator.current import Current
from mneme.orchestrator.executor import ToolContext, ToolResult
from mneme.orchestrator.models.port import ModelOutput, ToolUse
from mneme.orchestrator.records import CallResult
from mneme.orchestrator.tools import InvalidCall, ParsedCall
from mneme.orchestrator.window import Message, Window
from mneme.runtime import call as running
from mneme.runtime.call import Call, Principal

_LEAST_FREE_TOKENS = 200
_WRITES = frozenset(
    {
        "core_memory_append",
        "core_memory_replace",
        "core_memory_remove",
        "archival_memory_insert",
        "archival_memory_delete",
    }
)
"""Tools that change memory."""
_CLOCK = frozenset({"get_current_time", "pause_heartbeats"})
"""Tools whose outcome hangs on the time."""
_SERVICES = {"core_memory": "core_memory", "conversation": "recall", "archival_memory": "archival"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one call."""

    call: ToolUse
    result: ToolResult
    heartbeat: bool


class WaitingForCallerError(Exception):
    """A step cannot go on before the caller has answered one of its calls."""

    def __init__(self, call: ToolUse, *, for_approval: bool, results: Sequence[CallResult]) -> None:
        """Args:
        call: What the caller must answer.
        for_approval: True for a decision, false for the tool's result.
        results: Of the calls before it, which are not to be made again.
        """
        super().__init__(call.id)
        self.call = call
        self.for_approval = for_approval
        self.results = tuple(results)


class Effects:
    """Runs calls on behalf of one run."""

    def __init__(self, current: Current) -> None:
        self._current = current

    async def perform(
        self, step_id: str, output: ModelOutput, window: Window, *, free_tokens: int, sources: Sequence[str]
    ) -> list[Outcome]:
        """The outcomes of a step's calls, in order, with their events.

        A step that has waited for its caller goes on behind the calls that were shown before the wait.

        A step whose messages are in the window already was carried out before a crash: what failed then is not
        tried again, and what succeeded is repeated only to learn what it had changed, which its derived id makes
        harmless.

        Args:
            free_tokens: Room for all results together.
            sources: Messages that the calls rest on.

        Raises:
            WaitingForCallerError: The caller must answer a call first.
        """
        earlier = {message.tool_call_id: message for message in window.messages if message.role == "tool"}
        outcomes: list[Outcome] = []
        for index, call in enumerate(output.tool_calls):
            parsed = self._current.checked(call)
            context = ToolContext(
                agent_id=self._current.run.agent_id,
                conversation_id=self._current.fence.conversation_id,
                user_id=self._current.run.user_id,
                step_id=step_id,
                index=index,
                window_start_sequence=window.messages[0].sequence if window.messages else window.next_sequence,
                free_tokens=max(_LEAST_FREE_TOKENS, free_tokens),
                source_message_ids=tuple(sources),
            )
            kept = self._current.work.results.get(call.id)
            if kept is not None and kept.details:
                result = _shown_before(kept)
            else:
                began = time.monotonic()
                result = await self._result(call, context, earlier.get(call.id), kept, output.model, outcomes)
                self._show(step_id, call, result, timedelta(seconds=time.monotonic() - began))
            mine = call.name in self._current.profile.client_tools
            outcomes.append(Outcome(call, result, mine or (isinstance(parsed, ParsedCall) and parsed.heartbeat)))
            free_tokens -= self._current.deps.count_tokens(result.text)
        return outcomes

    async def _result(
        self,
        call: ToolUse,
        context: ToolContext,
        known: Message | None,
        kept: CallResult | None,
        model: str,
        before: Sequence[Outcome],
    ) -> ToolResult:
        """What comes of one call.

        Args:
            known: The result that recall holds already.
            kept: What the caller has said to it.
            before: Outcomes of the calls before it.
        """
        parsed = self._current.checked(call)
        if known is not None and (not known.tool_ok or call.name not in _WRITES):
            return _known(known.text, ok=known.tool_ok, call=parsed)
        if isinstance(parsed, InvalidCall):
            return ToolResult(ok=False, text=f"Failed: {parsed.problem}")
        if call.name in self._current.profile.client_tools:
            return self._answer(call, kept, context.free_tokens, before)
        return await self._run(parsed, context, model)

    def _answer(
        self, call: ToolUse, kept: CallResult | None, free_tokens: int, before: Sequence[Outcome]
    ) -> ToolResult:
        """The caller's answer to a call.

        Raises:
            WaitingForCallerError: There is none yet.
        """
        kept = kept or CallResult(call.id)
        if kept.ok is not None:
            return ToolResult(ok=kept.ok, text=self._cut(kept.text, free_tokens))
        if call.id == self._current.work.expired_call:
            return ToolResult(ok=False, text="Failed: the caller did not answer in time.")
        if kept.approved is False:
            return ToolResult(ok=False, text=f"Failed: the caller declined. {kept.text}".strip())
        asks_first = self._current.profile.client_tools[call.name] and kept.approved is None
        results = [_shown_result(outcome) for outcome in before]
        raise WaitingForCallerError(call, for_approval=asks_first, results=results)

    def _cut(self, text: str, free_tokens: int) -> str:
        """A text of the caller that never overflows the window."""
        tokens = self._current.deps.count_tokens(text)
        if tokens <= free_tokens:
            return text
        return f"{text[: len(text) * free_tokens // tokens]}… (cut: the window has no room for more)"

    async def _run(self, parsed: ParsedCall, context: ToolContext, model: str) -> ToolResult:
        principal = running.current().principal
        acting = Principal(principal.tenant, f"model:{model}", principal.user, principal.service, principal.scopes)
        with running.enter(Call(acting, running.current().deadline)):
            return await self._current.patiently(
                service_of(parsed.name),
                lambda: self._current.deps.executor.run(parsed, context),
                cancellable=False,
            )

    def _show(self, step_id: str, call: ToolUse, result: ToolResult, duration: timedelta) -> None:
        current = self._current
        current.deps.metrics.tool_calls.labels(
            call.name if call.name in current.profile.tools else "unknown", "ok" if result.ok else "failed"
        ).inc()
        current.log.add(events.tool_result(call, result, duration))
        for edit in result.edits:
            current.log.add(events.memory_edit(edit))
        if result.user_message is not None:
            current.log.add(events.assistant_message(journal.assistant_id(step_id), result.user_message))
        if result.degraded:
            current.log.add(events.degraded(result.degraded, f"{call.name} failed"))
        if result.pause_minutes is not None:
            current.pause = timedelta(minutes=result.pause_minutes)


def service_of(tool: str) -> str:
    """The service that a tool asks; the orchestrator itself for the others."""
    return next((service for prefix, service in _SERVICES.items() if tool.startswith(prefix)), "orchestrator")


def wrote_memory(outcomes: Sequence[Outcome]) -> bool:
    """True when a call changed memory, or tried to."""
    return any(outcome.call.name in _WRITES for outcome in outcomes)


def used_clock(outcomes: Sequence[Outcome]) -> bool:
    """True when an outcome hangs on the time."""
    return any(outcome.call.name in _CLOCK for outcome in outcomes)


def asked_caller(outcomes: Sequence[Outcome], client_tools: Container[str]) -> bool:
    """True when an outcome hangs on the caller."""
    return any(outcome.call.name in client_tools for outcome in outcomes)


def _shown_result(outcome: Outcome) -> CallResult:
    result = outcome.result
    details = {"shown": True, "user_message": result.user_message, "from_recall": result.from_recall}
    return CallResult(outcome.call.id, None, result.ok, result.text, details)


def _shown_before(kept: CallResult) -> ToolResult:
    return ToolResult(
        ok=bool(kept.ok),
        text=kept.text,
        user_message=kept.details["user_message"],
        from_recall=kept.details["from_recall"],
    )


def _known(text: str, *, ok: bool, call: ParsedCall | InvalidCall) -> ToolResult:
    said = (
        call.arguments["message"] if ok and isinstance(call, ParsedCall) and call.name == journal.SEND_MESSAGE else None
    )
    return ToolResult(ok=ok, text=text, user_message=said)
