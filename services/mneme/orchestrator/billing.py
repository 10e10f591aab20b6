"""What an answer of a model costs, and its metrics."""

from __future__ import annotations

from mneme.orchestrator.models import table
from mneme.orchestrator.models.port import Usage
from mneme.orchestrator.records import Bill
from mneme.runtime.errors import Error
from mneme.runtime.metrics import Metrics


def bill_of(model: str, usage: Usage) -> Bill:
    """What an answer costs, by the table of models."""
    return Bill(
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_tokens,
        usage.cache_write_tokens,
        1,
        round(table.model_info(model).cost(usage) * 1_000_000),
    )


class Measured:
    """The metrics of one model call."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        """Args:
        metrics: The process's instruments.
        model: Who is asked.
        """
        # Names come from callers: one that the table does not know must not become a label.
        info = table.TABLE.get(model)
        self._metrics = metrics
        self._provider = str(info.provider) if info and info.provider else "other"
        self._model = model if info else "other"

    def answered(self, seconds: float, first_piece: float | None, usage: Usage) -> None:
        """Counts an answer; its first piece is None where nobody reads along."""
        metrics = self._metrics
        metrics.model_seconds.labels(self._provider, self._model, "ok").observe(seconds)
        if first_piece is not None:
            metrics.model_first_token_seconds.labels(self._provider, self._model).observe(first_piece)
        for kind in ("input", "output", "cache_read", "cache_write"):
            count = getattr(usage, f"{kind}_tokens")
            if count:
                metrics.model_tokens.labels(self._model, kind).inc(count)

    def failed(self, seconds: float, error: Error) -> None:
        """Counts a failure by its reason."""
        self._metrics.model_seconds.labels(self._provider, self._model, error.reason_name).observe(seconds)
