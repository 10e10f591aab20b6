"""Tries to answer a question for all users within a turn."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from mneme.orchestrator import journal, steps
from mneme.orchestrator.answers import public
from mneme.orchestrator.answers.keys import Public
from mneme.orchestrator.answers.public import Grounds
from mneme.orchestrator.asking import Answer, Asker
from mneme.orchestrator.billing import bill_of
from mneme.orchestrator.current import Current
from mneme.orchestrator.journal import Input
from mneme.orchestrator.models.port import ModelOutput
from mneme.orchestrator.prompt import Prompt
from mneme.orchestrator.records import Step
from mneme.orchestrator.store import side_usage
from mneme.runtime.errors import Error

_UNSEARCHABLE_SECONDS = 5.0
"""Time in which a question is not tried again whose search could not be made."""

log = structlog.stdlib.get_logger("mneme.orchestrator.answers")


@dataclass(frozen=True, slots=True)
class Tried:
    """An answer for all users, to be journaled like any other."""

    grounds: Grounds
    incoming: Input
    step_id: str
    built: Prompt
    answer: Answer
    output: ModelOutput

    def step(self, current: Current, expected_sequence: int) -> Step:
        """Its entry in the journal, with its events."""
        entry = steps.entry(
            current, self.step_id, (self.incoming,), self.built, self.answer, self.output, expected_sequence
        )
        steps.add_thoughts(current, entry, self.output, self.answer)
        return entry


async def answered(current: Current, asker: Asker, asked: Public) -> Tried | None:
    """An answer for all users; None where the turn must go on with all that is known of its user.

    Then nothing of the try is left but what it cost.

    Raises:
        CancelledRunError: The run was cancelled meanwhile.
    """
    if journal.SEND_MESSAGE not in current.profile.tools:
        return None
    with current.timed("archival"):
        grounds = await public.search(current.deps.peers, asked)
    if grounds is None:
        # Those who wait would each search in turn, as long as this one did.
        current.deps.answers.contextual.add(asked.digest, seconds=_UNSEARCHABLE_SECONDS)
        return None
    step_id = journal.step_id(current.run.run_id, steps.PUBLIC_STEP)
    incoming = steps.incoming(current.run.run_id, current.work.event)
    built = public.build(grounds, current.profile, incoming.message_id, incoming.create_time, current.deps.count_tokens)
    try:
        answer = await asker.ask(built.request, step_id)
    except Error as error:
        log.info("public_answer_failed", run_id=current.run.run_id, reason=error.reason_name)
        return None
    output = journal.cleaned(answer.output, step_id)
    if public.answer_of(output) is not None:
        return Tried(grounds, incoming, step_id, built, answer, output)
    if public.said_what_is_missing(output):
        current.deps.answers.contextual.add(asked.digest)
    await _discard(current, answer)
    return None


async def _discard(current: Current, answer: Answer) -> None:
    """Counts a try that came to nothing, and takes back what was shown of it."""
    if public.began_to_answer(answer.output):
        current.restart("the question is answered anew with all that is known of its user")
    bill = bill_of(answer.request.model, answer.output.usage)
    current.bill += bill
    async with current.transaction() as tx:
        await side_usage.spend(
            tx,
            current.fence.tenant,
            purpose="public",
            agent_id=current.run.agent_id,
            model=answer.output.model or answer.request.model,
            bill=bill,
            run_id=current.run.run_id,
        )
