"""The conversation's window during a turn: read from recall, appended to, relieved."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import structlog

from mneme.core_memory.v1 import core_memory_pb2
from mneme.errors.v1 import errors_pb2
from mneme.orchestrator import events, journal, messages, prompt, summary
from mneme.orchestrator.current import Current
from mneme.orchestrator.journal import Input
from mneme.orchestrator.models import table
from mneme.orchestrator.prompt import Prompt
from mneme.orchestrator.window import Message, Window, plan_eviction, should_flush
from mneme.recall.v1 import recall_pb2
from mneme.runtime import ids
from mneme.runtime.errors import Error

_FLUSHES = 3
"""Evictions in a row before a prompt counts as one that cannot be made to fit."""
_APPEND_TRIES = 3
_SUMMARY_OVERHEAD_TOKENS = 1_000
_MECHANICAL_CHARS_PER_TOKEN = 4
_MOVED = frozenset(
    {
        errors_pb2.REASON_SEQUENCE_MISMATCH,
        errors_pb2.REASON_REQUEST_ID_REUSED,
        errors_pb2.REASON_ALREADY_EXISTS,
    }
)
"""Refusals of an append that say: somebody has written to the conversation since it was read."""

log = structlog.stdlib.get_logger("mneme.orchestrator.memory")


class Memory:
    """What one turn sees of its conversation."""

    def __init__(self, current: Current, window: Window | None) -> None:
        """Args:
        window: As it stood after this process's last turn under the same epoch; None to read it.
        """
        self._current = current
        self._window = window

    @property
    def loaded(self) -> bool:
        """True once the window is known."""
        return self._window is not None

    @property
    def window(self) -> Window:
        """The window; `load` comes first."""
        assert self._window is not None
        return self._window

    async def load(self) -> Window:
        """The window, read from recall unless it is known."""
        if self._window is None:
            self._window = await self._read()
        return self._window

    def holds(self, message_id: str) -> bool:
        """True when the window holds a message."""
        return any(message.id == message_id for message in self.window.messages)

    async def prompt(self, inputs: Sequence[Input], *, overflowed: bool = False) -> Prompt:
        """The prompt of the next step, after evictions if it would be too large.

        Args:
            inputs: Messages that come in with the step.
            overflowed: True after the provider refused the prompt as too long.

        Raises:
            Error: CONTEXT_OVERFLOW, when it is too large and nothing more can leave.
        """
        rendered = await self._rendered()
        policy = self._current.profile.policy
        built = self._build(rendered, inputs)
        for _ in range(_FLUSHES):
            tokens = self._tokens(built, overflowed=overflowed)
            if not overflowed and not should_flush(tokens, self.window, policy):
                return built
            left = await self._evict(tokens, incoming=bool(inputs))
            if left is None:
                break
            overflowed = False
            built = self._build(rendered, inputs)
            after = self._tokens(built, overflowed=False)
            self._current.log.add(events.evicted(left, tokens, after, self.window.summary_version))
        if self._tokens(built, overflowed=overflowed) > policy.window_tokens:
            raise self._overflow(built, refused=overflowed)
        return built

    async def append(
        self,
        step_id: str,
        expected_sequence: int,
        added: Sequence[tuple[Message, recall_pb2.Message]],
    ) -> None:
        """Writes a step's messages to recall, all or none, once.

        Raises:
            Error: Recall refused them.
        """
        window, expected = self.window, expected_sequence
        for _ in range(_APPEND_TRIES):
            try:
                send = partial(self._send, step_id, expected, added)
                await self._current.patiently("recall", send, cancellable=False)
            except Error as error:
                if error.reason not in _MOVED:
                    raise
                log.info("append_moved", step_id=step_id, reason=error.reason_name)
                self._window = window = await self._read()
                if self.holds(journal.assistant_id(step_id)):
                    return
                expected = window.next_sequence
                continue
            if expected == expected_sequence:
                self._window = window.appended(*(message for message, _ in added))
            else:
                self._window = await self._read()
            return
        raise Error(
            errors_pb2.REASON_SEQUENCE_MISMATCH,
            f"{self._current.fence.conversation_id}: other writers kept coming first",
            metadata={"conversation_id": self._current.fence.conversation_id},
        )

    def _tokens(self, built: Prompt, *, overflowed: bool) -> int:
        policy = self._current.profile.policy
        estimate = int(built.tokens * self._current.token_factor)
        limit = int(policy.flush_fraction * policy.window_tokens) + 1
        return max(estimate, limit) if overflowed else estimate

    def _build(self, rendered: core_memory_pb2.RenderMemoryResponse, inputs: Sequence[Input]) -> Prompt:
        current, window = self._current, self.window
        pending = (
            journal.input_message(one, window.next_sequence + offset, current.deps.count_tokens)
            for offset, one in enumerate(inputs)
        )
        return prompt.build(
            instructions=current.profile.instructions,
            sampling=current.profile.choices[0].sampling,
            memory_text=rendered.text,
            blocks=[(block.block_id, block.version) for block in rendered.blocks],
            window=window.appended(*pending),
            related=(),
            tools=tuple(current.profile.tools.values()),
            count_tokens=current.deps.count_tokens,
        )

    async def _rendered(self) -> core_memory_pb2.RenderMemoryResponse:
        run = self._current.run
        request = core_memory_pb2.RenderMemoryRequest(agent_id=run.agent_id, user_id=run.user_id)
        return await self._current.patiently(
            "core_memory", lambda: self._current.deps.peers.core_memory.RenderMemory(request)
        )

    async def _read(self) -> Window:
        run = self._current.run
        request = recall_pb2.GetWindowRequest(agent_id=run.agent_id, conversation_id=run.conversation_id)
        response = await self._current.patiently("recall", lambda: self._current.deps.peers.recall.GetWindow(request))
        return messages.window_of(response, self._current.deps.count_tokens)

    async def _send(
        self,
        step_id: str,
        expected_sequence: int,
        added: Sequence[tuple[Message, recall_pb2.Message]],
    ) -> recall_pb2.AppendMessagesResponse:
        run = self._current.run
        return await self._current.deps.peers.recall.AppendMessages(
            recall_pb2.AppendMessagesRequest(
                request_id=ids.derived_uuid(step_id, "append"),
                agent_id=run.agent_id,
                conversation_id=run.conversation_id,
                user_id=run.user_id,
                messages=[wire for _, wire in added],
                expected_next_sequence=expected_sequence,
            )
        )

    async def _evict(self, tokens: int, *, incoming: bool) -> int | None:
        """Moves the oldest messages out of the window; returns how many left, None when none can."""
        current, window = self._current, self.window
        first_kept = plan_eviction(
            window,
            tokens,
            current.profile.policy,
            incoming=incoming,
            answering=journal.incoming_id(current.run.run_id),
        )
        if first_kept is None:
            return None
        leaving = window.before(first_kept)
        text = await self._summary(window, leaving)
        request = recall_pb2.EvictMessagesRequest(
            request_id=ids.derived_uuid(current.fence.conversation_id, "evict", ids.new("eviction")),
            agent_id=current.run.agent_id,
            conversation_id=current.fence.conversation_id,
            first_kept_sequence=first_kept,
            summary=text,
            expected_summary_version=window.summary_version,
        )
        try:
            response = await current.patiently("recall", lambda: current.deps.peers.recall.EvictMessages(request))
        except Error as error:
            # Another worker was there before: its summary stands.
            log.info("eviction_moved", reason=error.reason_name)
            self._window = await self._read()
            return len(leaving)
        self._window = window.evicted(first_kept, text, response.summary_version)
        current.warned = False
        return len(leaving)

    async def _summary(self, window: Window, leaving: Sequence[Message]) -> str:
        """A summary by a model, else a mechanical one: a failing summariser neither loses nor holds anything up."""
        current = self._current
        settings, name = current.deps.settings, current.profile.summary_model
        info = table.model_info(name, window_tokens=settings.models.window_tokens)
        most = settings.orchestrator.summary_tokens
        try:
            with current.timed("model"):
                return await summary.summarise(
                    current.deps.model,
                    name,
                    window.summary,
                    leaving,
                    input_tokens=max(500, info.window_tokens - 2 * most - _SUMMARY_OVERHEAD_TOKENS),
                    max_tokens=most,
                    count_tokens=current.deps.count_tokens,
                )
        except Error as error:
            log.warning("summary_failed", model=name, reason=error.reason_name)
            current.log.add(events.degraded("model", "evicted messages were not summarised by a model"))
            return summary.mechanical(window.summary, leaving, max_chars=_MECHANICAL_CHARS_PER_TOKEN * most)

    def _overflow(self, built: Prompt, *, refused: bool) -> Error:
        policy, model = self._current.profile.policy, self._current.profile.choices[0].sampling.model
        metadata = {"tokens": str(built.tokens), "window": str(policy.window_tokens), "model": model}
        if refused:
            message = f"model '{model}' refuses the prompt of about {built.tokens} tokens as too long"
        else:
            message = f"the prompt needs {built.tokens} tokens, one for model '{model}' may have {policy.window_tokens}"
        return Error(
            errors_pb2.REASON_CONTEXT_OVERFLOW, f"{message}, and nothing more can be evicted", metadata=metadata
        )
