"""Turns a filter into the conditions of a statement over `archival.agent_passages p`."""

from __future__ import annotations

from typing import Any

from psycopg.types.json import Jsonb

from mneme.archival.records import Filter

# At a moment before a passage was superseded, nobody knew that it would end to be true.
_VALID_TO = "CASE WHEN p.superseded_at > %(recorded_as_of)s THEN NULL ELSE p.valid_to END"

VISIBLE = "(%(user_id)s = '' OR p.user_id IN ('', %(user_id)s))"
"""Whether a passage named by its id may be touched: a caller without a user may touch those of every user."""


_SIMPLE = {
    "all_tags": "p.tags @> %(all_tags)s::text[]",
    "any_tags": "p.tags && %(any_tags)s::text[]",
    "metadata": "p.metadata_ @> %(metadata)s",
    "kinds": "p.kind = ANY(%(kinds)s::smallint[])",
    "created_from": "p.created_at >= %(created_from)s",
    "created_before": "p.created_at < %(created_before)s",
    "recorded_as_of": "p.created_at <= %(recorded_as_of)s",
}


def where(wanted: Filter) -> tuple[str, dict[str, Any]]:
    """Returns conditions, each with a leading AND, and their parameters."""
    values = {name: _value(getattr(wanted, name)) for name in _SIMPLE if getattr(wanted, name)}
    conditions = [_SIMPLE[name] for name in values]
    if not wanted.all_users:
        conditions.append("p.user_id IN ('', %(user_id)s)")
        values["user_id"] = wanted.user_id
    if not wanted.include_quarantined:
        conditions.append("NOT p.quarantined")
    _add_validity(wanted, conditions, values)
    return "".join(f" AND {condition}" for condition in conditions), values


def _add_validity(wanted: Filter, conditions: list[str], values: dict[str, Any]) -> None:
    valid_to = _VALID_TO if wanted.recorded_as_of else "p.valid_to"
    moment = "now()"
    if wanted.as_of:
        moment, values["as_of"] = "%(as_of)s", wanted.as_of
        # What has no stated beginning was true since it was stored.
        conditions.append("coalesce(p.valid_from, p.created_at) <= %(as_of)s")
    else:
        if wanted.recorded_as_of:
            moment = "%(recorded_as_of)s"
        conditions.append(f"(p.valid_from IS NULL OR p.valid_from <= {moment})")
    superseded = " OR p.superseded_by <> ''" if wanted.include_superseded else ""
    conditions.append(f"(p.valid_to IS NULL OR coalesce({valid_to}, 'infinity') > {moment}{superseded})")


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        return Jsonb(value)
    return list(value) if isinstance(value, tuple) else value
