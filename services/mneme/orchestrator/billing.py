"""What an answer of a model costs."""

from __future__ import annotations

from mneme.orchestrator.models import table
from mneme.orchestrator.models.port import Usage
from mneme.orchestrator.records import Bill


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
