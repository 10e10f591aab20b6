"""One attempt at a run: the agent loop of MemGPT, durable at every point.

A step goes through four points, and a crash between any two of them loses and doubles nothing:

1. The model's output is journaled, only where the lease is still ours. Before, the step never happened.
2. Its calls are run. Their ids derive from the step, so running them again finds their earlier effects.
3. The incoming message, the output and all results are appended to recall in one request with derived ids.
4. The step is marked as done with the events it caused; the last step ends the run in the same transaction.

After a crash the journal says where to go on: a step that is not done is carried out again from point 2. Plain text
of the model is a private thought; only send_message reaches the user.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import structlog

from mneme.errors.v1 import errors_pb2
from mneme.orchestrator import endings, events, journal, steps
from mneme.orchestrator.answers import trying
from mneme.orchestrator.answers.admission import Admission
from mneme.orchestrator.answers.gate import CacheGate, Lease
from mneme.orchestrator.answers.keys import Public
from mneme.orchestrator.answers.public import Grounds
from mneme.orchestrator.asking import Answer, Asker
from mneme.orchestrator.current import AbandonedError, CancelledRunError, Current, Session
from mneme.orchestrator.effects import Effects, Outcome, WaitingForCallerError
from mneme.orchestrator.journal import Input
from mneme.orchestrator.memory import Memory
from mneme.orchestrator.models.port import ModelOutput, StopReason, Usage
from mneme.orchestrator.prompt import Prompt
from mneme.orchestrator.records import Ending, Fence, LeaseLostError, Step
from mneme.orchestrator.store import journal as journal_store
from mneme.orchestrator.store import mailbox
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.orchestrator.window import should_warn
from mneme.runtime.errors import Error

_OVERFLOWS = 3
"""Times a step is tried again with a smaller prompt after the provider refused it as too long."""
_FACTOR_MIN, _FACTOR_MAX = 0.5, 3.0
"""Bounds of what a provider's count may say about our estimate: one odd figure must not empty a window."""

log = structlog.stdlib.get_logger("mneme.orchestrator.turn")


class Turn:
    """Works on one run, from its beginning or from where it was left."""

    def __init__(self, current: Current, session: Session | None, *, deadline: float) -> None:
        """Args:
        current: The attempt.
        session: What is known of the conversation; None to read it.
        deadline: When the attempt is over, on the event loop's clock.
        """
        self._current = current
        self._deadline = deadline
        self._memory = Memory(current, session.window if session else None)
        self._asker = Asker(current)
        self._effects = Effects(current)
        self._gate = CacheGate(current)
        self._lease: Lease | None = None
        self._grounds: Grounds | None = None
        """What the answer rests on that is for all users; None for any other."""
        self._admission = Admission(current.work.event.text, current.profile.client_tools)
        self._sent: list[str] = []
        self._carried_out = ""
        """Step whose messages are in recall and which is not marked as done yet."""
        self._failed = False
        self._ended_well = False
        self._run_count = 0

    async def run(self, *, go_on: bool) -> Fence | None:
        """Works until the run has ended.

        Args:
            go_on: Takes the conversation's next event at once.

        Returns:
            What to work on next in this conversation; None when nothing waits or `go_on` is false.

        Raises:
            LeaseLostError: Another worker holds the conversation.
            AbandonedError: The orchestrator's database failed; the run is taken up again.
        """
        try:
            try:
                ending = await self._ending()
            except WaitingForCallerError as waiting:
                if not await self._park(waiting):
                    return None
                ending = endings.cancelled(self._current)
            return await self._finish(ending, go_on=go_on)
        except (LeaseLostError, AbandonedError):
            await self.settle()
            raise

    async def settle(self) -> None:
        """Gives the answer to the cache, or the question up; comes last, as nobody waits for it."""
        lease, self._lease = self._lease, None
        answer = "\n".join(self._sent) if self._ended_well else ""
        if lease is not None and self._grounds is not None:
            await self._gate.keep(lease, answer, self._grounds, self._admission)
        elif lease is not None:
            await self._gate.settle(lease, answer, self._admission, self._run_count)
        await self._gate.refresh_served()

    @property
    def session(self) -> Session | None:
        """What is known of the conversation after the run; None after a failure."""
        if self._failed or not self._memory.loaded:
            return None
        return Session(self._current.fence.epoch, self._memory.window, self._current.token_factor)

    async def _ending(self) -> Ending:
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._loop()
        except TimeoutError:
            self._failed = True
            return endings.timed_out(self._current)
        except CancelledRunError:
            return endings.cancelled(self._current)
        except Error as error:
            log.warning("run_failed", run_id=self._current.run.run_id, reason=error.reason_name)
            self._failed = True
            return endings.failed(self._current, error)

    async def _loop(self) -> Ending:
        current, journaled = self._current, self._current.work.steps
        await self._begin()
        await self._memory.load()
        if self._gate.applies():
            looked = await self._gate.look_up()
            self._lease = looked.lease
            if looked.hit is not None:
                return await self._answer_from_cache(looked.hit.entry.answer)
            lease = self._lease
            if lease is not None and lease.asked is not None and await self._answer_for_all(lease, lease.asked):
                return endings.completed(current, pb.STOP_REASON_END_TURN)
        stopped = StopReason.END_TURN
        inputs: tuple[Input, ...] = ()
        if not journaled:
            reason, inputs = "begin", (steps.incoming(current.run.run_id, current.work.event),)
        elif journaled[-1].done:
            reason = journaled[-1].continue_reason
        else:
            reason, stopped = await self._carry_out(journaled[-1])
        while reason:
            inputs = await self._between(reason, inputs)
            reason, stopped = await self._step(inputs)
            inputs = ()
        refused = stopped is StopReason.REFUSAL
        return endings.completed(current, pb.STOP_REASON_REFUSAL if refused else pb.STOP_REASON_END_TURN)

    async def _begin(self) -> None:
        current = self._current
        most = current.deps.settings.orchestrator.max_attempts
        if current.run.begun_count > most:
            raise Error(
                errors_pb2.REASON_INTERNAL,
                f"the run was begun {most} times and never came to an end",
                metadata={"attempts": str(most)},
            )
        if current.run.begun_count > 1 and not current.work.resumed:
            current.log.add(events.restarted(current.attempt, "takeover"))
            await current.checkpoint()
        current.stop_if_cancelled()

    async def _between(self, reason: str, inputs: tuple[Input, ...]) -> tuple[Input, ...]:
        """What comes in with the next step; here, between two steps, a run is stopped."""
        current = self._current
        if self._carried_out:
            step_id, self._carried_out = self._carried_out, ""
            await current.checkpoint(step_id=step_id, continue_reason=reason)
        current.stop_if_cancelled()
        if current.step_count >= current.profile.max_steps:
            raise Error(
                errors_pb2.REASON_MAX_STEPS,
                f"the turn reached its limit of {current.profile.max_steps} steps",
                metadata={"max_steps": str(current.profile.max_steps)},
            )
        return (*inputs, steps.pressure_notice(current)) if reason == "pressure" else inputs

    async def _step(self, inputs: tuple[Input, ...]) -> tuple[str, StopReason]:
        """Asks the model, journals what it says, and carries it out; returns why to go on, and why it stopped."""
        current = self._current
        step_id = journal.step_id(current.run.run_id, current.step_count + 1)
        built, answer = await self._asked(inputs, step_id)
        output = journal.cleaned(answer.output, step_id)
        if built.tokens and output.usage.prompt_tokens:
            factor = output.usage.prompt_tokens / built.tokens
            current.token_factor = min(_FACTOR_MAX, max(_FACTOR_MIN, factor))
        expected = self._memory.window.next_sequence
        step = steps.entry(current, step_id, inputs, built, answer, output, expected)
        steps.add_thoughts(current, step, output, answer)
        if any(call.name == journal.SEND_MESSAGE and current.is_broken(call) for call in output.tool_calls):
            current.restart("a message could not be sent as it was written")
        await current.commit(step)
        return await self._carry_out(step)

    async def _asked(self, inputs: tuple[Input, ...], step_id: str) -> tuple[Prompt, Answer]:
        overflowed = False
        for remaining in reversed(range(_OVERFLOWS + 1)):
            built = await self._memory.prompt(inputs, overflowed=overflowed)
            try:
                return built, await self._asker.ask(built.request, step_id)
            except Error as error:
                if error.reason != errors_pb2.REASON_CONTEXT_OVERFLOW or not remaining:
                    raise
                overflowed = True
        raise AssertionError("unreachable")

    async def _carry_out(self, step: Step) -> tuple[str, StopReason]:
        """Runs a journaled step's calls and appends its messages; what was done before a crash is not done again."""
        current, window = self._current, self._memory.window
        output = journal.output_of(step.output, Usage())
        inputs = [journal.input_of(stored) for stored in step.inputs]
        used = self._prompt_tokens(step) + journal.assistant_tokens(
            output.text, output.tool_calls, current.deps.count_tokens
        )
        outcomes = await self._effects.perform(
            step.step_id,
            output,
            window,
            free_tokens=current.profile.policy.window_tokens - used,
            sources=self._sources(inputs),
        )
        if not self._memory.holds(journal.assistant_id(step.step_id)):
            added = steps.added_messages(current, step, inputs, output, outcomes)
            await self._memory.append(step.step_id, step.expected_sequence, added)
        self._carried_out = step.step_id
        self._sent += steps.sent_texts(outcomes)
        self._admission.carried_out(outcomes, output.stop_reason)
        return self._continue_reason(used, output, outcomes), output.stop_reason

    def _sources(self, inputs: Sequence[Input]) -> list[str]:
        """The user's message that a step's calls rest on: the one that came in with it, else the newest."""
        own = [one.message_id for one in inputs if one.kind == "user"]
        return own or [message.id for message in self._memory.window.messages if message.role == "user"][-1:]

    def _prompt_tokens(self, step: Step) -> int:
        bill = step.bill
        counted = bill.input_tokens + bill.cache_read_tokens + bill.cache_write_tokens
        estimated = sum(tokens for _, _, tokens in step.references)
        return counted or int(estimated * self._current.token_factor)

    def _continue_reason(self, used: int, output: ModelOutput, outcomes: Sequence[Outcome]) -> str:
        """Why the loop goes on, in the order of the paper's code: pressure, failure, heartbeat; empty to yield."""
        current = self._current
        used += sum(current.deps.count_tokens(outcome.result.text) for outcome in outcomes)
        if output.stop_reason is StopReason.REFUSAL:
            return ""
        if should_warn(used, current.profile.policy, warned=current.warned):
            current.warned = True
            current.log.add(events.memory_pressure(used, current.profile.policy.window_tokens))
            return "pressure"
        if any(not outcome.result.ok for outcome in outcomes):
            return "failure"
        return "heartbeat" if any(outcome.heartbeat for outcome in outcomes) else ""

    async def _answer_for_all(self, lease: Lease, asked: Public) -> bool:
        """Answers from what all users may see, in one step like any other; False where the turn must go on."""
        tried = await trying.answered(self._current, self._asker, asked)
        if tried is None:
            # Those who wait for this answer need not.
            self._lease = None
            await self._gate.give_up(lease)
            return False
        self._grounds = tried.grounds
        step = tried.step(self._current, self._memory.window.next_sequence)
        await self._current.commit(step)
        await self._carry_out(step)
        return True

    async def _answer_from_cache(self, answer: str) -> Ending:
        """Writes a cached answer to recall as if the model had sent it; nothing is journaled, nothing was asked."""
        current = self._current
        expected = self._memory.window.next_sequence
        step, output, outcome = steps.cached(current, answer, expected)
        if not self._memory.holds(journal.assistant_id(step.step_id)):
            inputs = (steps.incoming(current.run.run_id, current.work.event),)
            added = steps.added_messages(current, step, inputs, output, (outcome,))
            await self._memory.append(step.step_id, expected, added)
        current.log.add(events.assistant_message(journal.assistant_id(step.step_id), answer))
        return endings.completed(current, pb.STOP_REASON_CACHE_HIT)

    async def _park(self, waiting: WaitingForCallerError) -> bool:
        """Lets the run wait for its caller; returns whether it is to be cancelled instead."""
        current, self._failed = self._current, True
        until = events.now() + timedelta(seconds=current.deps.settings.orchestrator.caller_timeout)
        current.log.add(events.waiting(waiting.call, for_approval=waiting.for_approval, until=until))
        async with current.transaction() as tx:
            cancel = await journal_store.park(
                tx,
                current.fence,
                current.log.stored(),
                call_id=waiting.call.id,
                for_approval=waiting.for_approval,
                until=until,
                results=waiting.results,
            )
        current.deps.hub.publish(current.run.run_id, current.log.flushed())
        return cancel or current.handle.cancel_requested

    async def _finish(self, ending: Ending, *, go_on: bool) -> Fence | None:
        current = self._current
        current.log.add(endings.terminal_event(current, ending))
        ageing = timedelta(seconds=current.deps.settings.orchestrator.ageing)
        async with current.transaction() as tx:
            finished = await journal_store.finish(
                tx,
                current.fence,
                ending,
                current.log.stored(),
                attempt=current.attempt,
                step_id=self._carried_out,
                pause=current.pause,
            )
            take_next = go_on and finished.nudged
            following = await mailbox.take_next(tx, current.fence, ageing) if take_next else None
        self._run_count = finished.model_run_count
        current.deps.hub.publish(current.run.run_id, current.log.flushed())
        endings.measure(current, ending)
        self._ended_well = ending.stop_reason == pb.STOP_REASON_END_TURN
        return following
