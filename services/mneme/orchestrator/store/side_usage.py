"""What models cost beside the steps of turns, by day and purpose; no content, and nobody's in particular."""

from __future__ import annotations

from mneme.orchestrator.records import Bill
from mneme.orchestrator.store.rows import bill_parameters
from mneme.runtime.db import Connection

_SPEND = """
WITH charged AS (
    UPDATE orchestrator.run AS r
    SET input_tokens = r.input_tokens + %(input_tokens)s, output_tokens = r.output_tokens + %(output_tokens)s,
        cache_read_tokens = r.cache_read_tokens + %(cache_read_tokens)s,
        cache_write_tokens = r.cache_write_tokens + %(cache_write_tokens)s,
        model_calls = r.model_calls + %(model_calls)s, cost_micro_usd = r.cost_micro_usd + %(cost_micro_usd)s
    WHERE r.tenant_id = %(tenant)s AND r.run_id = %(run_id)s
)
INSERT INTO orchestrator.side_usage AS u
    (tenant_id, day, agent_id, purpose, model, model_calls, input_tokens, output_tokens, cache_read_tokens,
     cache_write_tokens, cost_micro_usd)
VALUES (%(tenant)s, (now() AT TIME ZONE 'UTC')::date, %(agent_id)s, %(purpose)s, %(model)s, %(model_calls)s,
        %(input_tokens)s, %(output_tokens)s, %(cache_read_tokens)s, %(cache_write_tokens)s, %(cost_micro_usd)s)
ON CONFLICT (tenant_id, day, agent_id, purpose, model) DO UPDATE
SET model_calls = u.model_calls + excluded.model_calls, input_tokens = u.input_tokens + excluded.input_tokens,
    output_tokens = u.output_tokens + excluded.output_tokens,
    cache_read_tokens = u.cache_read_tokens + excluded.cache_read_tokens,
    cache_write_tokens = u.cache_write_tokens + excluded.cache_write_tokens,
    cost_micro_usd = u.cost_micro_usd + excluded.cost_micro_usd
"""


async def spend(
    tx: Connection, tenant: str, *, purpose: str, agent_id: str, model: str, bill: Bill, run_id: str = ""
) -> None:
    """Adds what a call of a model cost.

    Args:
        tx: The tenant transaction.
        tenant: Its tenant.
        purpose: What for: `public`, `refresh` or `judge`.
        agent_id: For which agent.
        model: Who was asked.
        bill: Tokens and cost.
        run_id: Run that is charged with it too; empty for none.
    """
    parameters = {
        **bill_parameters(bill),
        "tenant": tenant,
        "purpose": purpose,
        "agent_id": agent_id,
        "model": model,
        "run_id": run_id,
    }
    await tx.execute(_SPEND, parameters)
