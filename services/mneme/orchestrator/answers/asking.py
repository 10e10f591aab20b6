"""Asks a model outside any turn, and writes down what that costs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mneme.errors.v1 import errors_pb2
from mneme.orchestrator.billing import Measured, bill_of
from mneme.orchestrator.models.port import ChatModel, ModelOutput, ModelRequest, complete
from mneme.orchestrator.profile import Choice
from mneme.orchestrator.prompt import Sampling
from mneme.orchestrator.records import Bill
from mneme.orchestrator.store import side_usage
from mneme.runtime import call
from mneme.runtime.db import Database
from mneme.runtime.errors import Error
from mneme.runtime.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Asked:
    """What a model said, and what it took."""

    output: ModelOutput
    model: str
    bill: Bill
    seconds: float


class SideAsker:
    """Asks models for the running call's tenant, off the hot path: once each, without patience."""

    def __init__(self, model: ChatModel, database: Database, metrics: Metrics) -> None:
        self._model = model
        self._database = database
        self._metrics = metrics

    async def ask(self, request: ModelRequest, choices: Sequence[Choice], *, purpose: str, agent_id: str) -> Asked:
        """The first answer of these models.

        Args:
            request: The prompt; model and sampling come from the choice.
            choices: Models in order; at least one.
            purpose: What for, as GetUsage shows it.
            agent_id: For which agent.

        Raises:
            Error: No model answered, or the database did not take the bill.
        """
        failure: Error | None = None
        for choice in choices:
            name, began = choice.sampling.model, time.monotonic()
            measured = Measured(self._metrics, name)
            try:
                output = await complete(self._model, _sampled(request, choice.sampling))
            except Error as error:
                measured.failed(time.monotonic() - began, error)
                failure = error
                continue
            took = time.monotonic() - began
            measured.answered(took, None, output.usage)
            asked = Asked(output, name, bill_of(name, output.usage), took)
            async with self._database.tenant(call.tenant()) as tx:
                await side_usage.spend(
                    tx, call.tenant(), purpose=purpose, agent_id=agent_id, model=name, bill=asked.bill
                )
            return asked
        raise failure or Error(errors_pb2.REASON_PROVIDER_UNAVAILABLE, "there is no model to ask")


def _sampled(request: ModelRequest, sampling: Sampling) -> ModelRequest:
    return replace(
        request,
        model=sampling.model,
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
    )
