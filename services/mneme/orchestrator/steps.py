"""Builds what a step writes: its entry in the journal, its events, and its messages."""

from __future__ import annotations

import json
from collections.abc import Sequence

from mneme.orchestrator import events, journal, messages, prompt
from mneme.orchestrator.asking import Answer
from mneme.orchestrator.billing import bill_of
from mneme.orchestrator.current import Current
from mneme.orchestrator.effects import Outcome
from mneme.orchestrator.executor import ToolResult
from mneme.orchestrator.journal import Input
from mneme.orchestrator.models.port import ModelOutput, StopReason, ToolUse, Usage
from mneme.orchestrator.prompt import Prompt
from mneme.orchestrator.records import Bill, Event, Step
from mneme.orchestrator.tools import ParsedCall
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.orchestrator.window import Message
from mneme.recall.v1 import recall_pb2
from mneme.runtime import ids

_CACHE_STEP = 0
"""Number of the step whose ids the messages of a cached answer get."""
PUBLIC_STEP = -1
"""Number from which a public answer's step has its id, so that the step after one that came to nothing has another."""
_KINDS = {
    pb.EVENT_KIND_USER_MESSAGE: "user",
    pb.EVENT_KIND_SYSTEM: "system",
    pb.EVENT_KIND_INTERACTION: "interaction",
    pb.EVENT_KIND_TIMED: "timed",
}


def incoming(run_id: str, event: Event) -> Input:
    """The event as the first message of its run."""
    return Input(journal.incoming_id(run_id), _KINDS[event.kind], event.text, event.create_time, event.speaker)


def pressure_notice(current: Current) -> Input:
    """The warning that comes in with the next step."""
    return Input(
        ids.derived("message", current.run.run_id, "pressure", current.step_count + 1),
        "pressure",
        prompt.PRESSURE_NOTICE.format(percent=round(100 * current.profile.policy.warn_fraction)),
        events.now(),
    )


def entry(
    current: Current,
    step_id: str,
    inputs: Sequence[Input],
    built: Prompt,
    answer: Answer,
    output: ModelOutput,
    expected_sequence: int,
) -> Step:
    """What the journal keeps of an answer.

    Args:
        output: The answer's output, cleaned.
        expected_sequence: Where the step's messages belong in recall.
    """
    run = current.run
    return Step(
        step_id=step_id,
        run_id=run.run_id,
        agent_id=run.agent_id,
        conversation_id=run.conversation_id,
        user_id=run.user_id,
        number=current.step_count + 1,
        attempt=current.attempt,
        model=output.model or answer.request.model,
        model_reason=answer.reason,
        output=journal.output_json(output),
        inputs=tuple(journal.input_json(one) for one in inputs),
        expected_sequence=expected_sequence,
        bill=bill_of(answer.request.model, output.usage),
        model_microseconds=int(answer.duration.total_seconds() * 1_000_000),
        prompt_sha256=built.sha256 if answer.request == built.request else prompt.digest(answer.request),
        render_version=prompt.RENDER_VERSION,
        references=tuple((r.kind, r.id, r.tokens) for r in built.references),
    )


def add_thoughts(current: Current, step: Step, output: ModelOutput, answer: Answer) -> None:
    """Adds the events of an answer: what the model thought, which tools it called, what it used."""
    thoughts = [piece.text for piece in output.reasoning]
    if output.text != journal.NOTHING_SAID:
        thoughts.append(output.text)
    for thought in filter(None, thoughts):
        current.log.add(events.reasoning(thought, step.step_id))
    for call in output.tool_calls:
        parsed = current.checked(call)
        heartbeat = isinstance(parsed, ParsedCall) and parsed.heartbeat
        current.log.add(events.tool_call(call, step.step_id, heartbeat=heartbeat))
    current.log.add(events.usage(step.step_id, step.model, step.bill, answer.duration, answer.first_piece))


def added_messages(
    current: Current, step: Step, inputs: Sequence[Input], output: ModelOutput, outcomes: Sequence[Outcome]
) -> list[tuple[Message, recall_pb2.Message]]:
    """A step's messages in order, each for the window and for recall."""
    count, run_id, step_id = current.deps.count_tokens, current.run.run_id, step.step_id
    sequence, now = step.expected_sequence, events.now()
    added: list[tuple[Message, recall_pb2.Message]] = []
    for one in inputs:
        message = journal.input_message(one, sequence + len(added), count)
        added.append((message, messages.wire_input(one, message.token_count, run_id, step_id)))
    assistant = journal.assistant_message(step_id, output, sequence + len(added), now, count)
    added.append((assistant, messages.wire_assistant(assistant, sent_texts(outcomes), run_id, step_id)))
    for index, outcome in enumerate(outcomes):
        result = journal.result_message(
            step_id,
            index,
            outcome.call,
            ok=outcome.result.ok,
            text=outcome.result.text,
            sequence=sequence + len(added),
            created_at=now,
            count_tokens=count,
        )
        wire = messages.wire_result(result, run_id, step_id, from_recall=outcome.result.from_recall)
        added.append((result, wire))
    return added


def sent_texts(outcomes: Sequence[Outcome]) -> list[str]:
    """What the user gets."""
    return [o.result.user_message for o in outcomes if o.result.user_message is not None]


def cached(current: Current, answer: str, expected_sequence: int) -> tuple[Step, ModelOutput, Outcome]:
    """A step that sends a cached answer, in the form of one that a model made; it is not journaled."""
    run = current.run
    step_id = journal.step_id(run.run_id, _CACHE_STEP)
    arguments = json.dumps({"message": answer}, ensure_ascii=False)
    call = ToolUse(journal.call_id(step_id, 0), journal.SEND_MESSAGE, arguments)
    output = ModelOutput("", (call,), (), StopReason.TOOL_USE, Usage(), "")
    step = Step(
        step_id=step_id,
        run_id=run.run_id,
        agent_id=run.agent_id,
        conversation_id=run.conversation_id,
        user_id=run.user_id,
        number=_CACHE_STEP,
        attempt=current.attempt,
        model="",
        model_reason="cache",
        output={},
        inputs=(),
        expected_sequence=expected_sequence,
        bill=Bill(),
        model_microseconds=0,
        prompt_sha256="",
        render_version=prompt.RENDER_VERSION,
        references=(),
    )
    return step, output, Outcome(call, ToolResult(ok=True, text="Sent.", user_message=answer), heartbeat=False)
