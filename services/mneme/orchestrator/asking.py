"""Asks the model: in the order of the agent's choices, again while it does not answer, with its words as they come."""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import timedelta

import structlog

from mneme.errors.v1 import errors_pb2
from mneme.orchestrator import events
from mneme.orchestrator.billing import Measured
from mneme.orchestrator.current import Current
from mneme.orchestrator.journal import SEND_MESSAGE
from mneme.orchestrator.models.port import (
    Finished,
    ModelOutput,
    ModelRequest,
    StreamEvent,
    ToolArgumentsDelta,
    ToolCallStarted,
)
from mneme.orchestrator.partial_json import StringField
from mneme.orchestrator.patience import Patience, is_transient
from mneme.orchestrator.profile import Choice
from mneme.runtime.errors import Error

log = structlog.stdlib.get_logger("mneme.orchestrator.asking")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said, and what it took."""

    output: ModelOutput
    request: ModelRequest
    """The prompt as it was sent, under the name of the model that answered."""
    reason: str
    """Why this model."""
    duration: timedelta
    first_piece: timedelta
    """Until the first piece of output."""


class Asker:
    """Asks models on behalf of one run."""

    def __init__(self, current: Current) -> None:
        self._current = current

    async def ask(self, request: ModelRequest, step_id: str) -> Answer:
        """The first answer that a model of the agent gives.

        Raises:
            Error: CONTEXT_OVERFLOW, or every model refused for good.
            CancelledRunError: The run was cancelled meanwhile.
        """
        async with self._current.breakable():
            return await Patience(self._current.deps.settings.orchestrator, self._noticed).call(
                lambda: self._round(request, step_id)
            )

    async def _noticed(self, error: Error) -> None:
        self._current.last_error = error
        self._current.stop_if_cancelled()
        # Also notices a cancellation asked for in another process, and keeps the lease's loss from going unseen.
        await self._current.checkpoint()
        self._current.stop_if_cancelled()

    async def _round(self, request: ModelRequest, step_id: str) -> Answer:
        """Asks each model once, in order; the error of the first is the one that counts."""
        first: Error | None = None
        for choice in self._current.profile.choices:
            try:
                return await self._ask_one(request, choice, step_id, first)
            except Error as error:
                if error.reason == errors_pb2.REASON_CONTEXT_OVERFLOW:
                    raise
                log.warning("model_failed", model=choice.sampling.model, reason=error.reason_name)
                if first is None or (is_transient(error) and not is_transient(first)):
                    first = error
        assert first is not None
        raise first

    async def _ask_one(self, request: ModelRequest, choice: Choice, step_id: str, first: Error | None) -> Answer:
        sampling = choice.sampling
        asked = replace(
            request,
            model=sampling.model,
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
        )
        reason = f"{choice.reason}: {first.reason_name}" if first else choice.reason
        shown = _Shown(self._current, step_id)
        measured = Measured(self._current.deps.metrics, sampling.model)
        self._current.model_asked = True
        began = time.monotonic()
        first_piece = 0.0
        try:
            with self._current.timed("model"):
                async with aclosing(self._current.deps.model.stream(asked)) as stream:
                    async for event in stream:
                        first_piece = first_piece or time.monotonic() - began
                        if isinstance(event, Finished):
                            took = time.monotonic() - began
                            measured.answered(took, first_piece, event.output.usage)
                            return Answer(
                                event.output, asked, reason, timedelta(seconds=took), timedelta(seconds=first_piece)
                            )
                        shown.take(event)
        except Error as error:
            measured.failed(time.monotonic() - began, error)
            if shown.anything:
                self._current.restart("the provider cut its answer")
            raise
        raise Error(
            errors_pb2.REASON_PROVIDER_UNAVAILABLE,
            f"the answer of model {sampling.model} was cut",
            metadata={"model": sampling.model},
        )


class _Shown:
    """The words of send_message's argument, shown while they arrive."""

    def __init__(self, current: Current, step_id: str) -> None:
        self._current = current
        self._step_id = step_id
        self._fields: dict[int, StringField] = {}
        self._offsets: dict[int, int] = {}
        self.anything = False

    def take(self, event: StreamEvent) -> None:
        """Looks at one event of the model's stream."""
        if isinstance(event, ToolCallStarted) and event.name == SEND_MESSAGE:
            self._fields[event.index] = StringField("message")
            self._offsets[event.index] = 0
        elif isinstance(event, ToolArgumentsDelta) and event.index in self._fields:
            text = self._fields[event.index].feed(event.text)
            if text:
                self._show(event.index, text)

    def _show(self, index: int, text: str) -> None:
        current = self._current
        offset = self._offsets[index]
        self._offsets[index] = offset + len(text)
        self.anything = True
        if current.deps.hub.wants_tokens(current.run.run_id):
            delta = events.token_delta(
                current.run.run_id, attempt=current.attempt, step_id=self._step_id, offset=offset, text=text
            )
            current.deps.hub.publish_delta(current.run.run_id, delta)
