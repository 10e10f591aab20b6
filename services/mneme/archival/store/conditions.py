"""Turns a filter into the conditions of a statement over passages `p`, as they are or as they were known before."""

from __future__ import annotations

from typing import Any

from psycopg.types.json import Jsonb

from mneme.archival.records import Comparison, Condition, Filter
from mneme.archival.store import history

NOW = "archival.agent_passages p"

VISIBLE = "(%(user_id)s = '' OR p.user_id IN ('', %(user_id)s))"
"""Whether a passage named by its id may be touched: a caller without a user may touch those of every user."""


_SIMPLE = {
    "all_tags": "p.tags @> %(all_tags)s::text[]",
    "any_tags": "p.tags && %(any_tags)s::text[]",
    "metadata": "p.metadata_ @> %(metadata)s",
    "kinds": "p.kind = ANY(%(kinds)s::smallint[])",
    "created_from": "p.created_at >= %(created_from)s",
    "created_before": "p.created_at < %(created_before)s",
    "document_ids": "p.document_id = ANY(%(document_ids)s::text[])",
    "index_states": "p.index_state = ANY(%(index_states)s::smallint[])",
}

_OPERATORS = {
    Comparison.LESS: "<",
    Comparison.LESS_OR_EQUAL: "<=",
    Comparison.GREATER: ">",
    Comparison.GREATER_OR_EQUAL: ">=",
}

# Texts that PostgreSQL reads in ways of its own ("today", "infinity", other orders of day and month) are no moments.
_MOMENT = r"""(CASE
    WHEN {value} ~ '^\d{{4}}-\d\d-\d\d$' AND pg_input_is_valid({value} || 'T00:00:00Z', 'timestamptz')
        THEN ({value} || 'T00:00:00Z')::timestamptz
    WHEN {value} ~ '^\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{{1,6}})?(Z|[+-]\d\d:\d\d)$'
        AND pg_input_is_valid({value}, 'timestamptz') THEN {value}::timestamptz
END)"""


def source(wanted: Filter) -> str:
    """Returns what a statement selects from, under the alias `p`: passages as they are, or as they were known once.

    Needs the parameters of `where`, and `tenant`.
    """
    return f"({history.KNOWN}) p" if wanted.recorded_as_of else NOW


def where(wanted: Filter) -> tuple[str, dict[str, Any]]:
    """Returns conditions on `p` of `source`, each with a leading AND, and their parameters."""
    values = {name: _value(getattr(wanted, name)) for name in _SIMPLE if getattr(wanted, name)}
    conditions = [_SIMPLE[name] for name in values]
    if wanted.recorded_as_of:
        values["recorded_as_of"] = wanted.recorded_as_of
    if not wanted.all_users:
        conditions.append("p.user_id IN ('', %(user_id)s)")
        values["user_id"] = wanted.user_id
    if not wanted.include_quarantined:
        conditions.append("NOT p.quarantined")
    for number, condition in enumerate(wanted.conditions):
        conditions.append(_on_metadata(condition, number, values))
    _add_validity(wanted, conditions, values)
    return "".join(f" AND {condition}" for condition in conditions), values


def _add_validity(wanted: Filter, conditions: list[str], values: dict[str, Any]) -> None:
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
    conditions.append(f"(p.valid_to IS NULL OR p.valid_to > {moment}{superseded})")


def _on_metadata(condition: Condition, number: int, values: dict[str, Any]) -> str:
    """Returns one condition on a value of the metadata; path and value travel as parameters, never as text."""
    path, operand = f"path_{number}", f"operand_{number}"
    values[path] = list(condition.path)
    json = f"(p.metadata_ #> %({path})s::text[])"
    if condition.comparison is Comparison.PRESENT:
        return f"{json} IS NOT NULL"
    if condition.comparison is Comparison.ABSENT:
        return f"{json} IS NULL"
    test = _comparison(condition, json, f"(p.metadata_ #>> %({path})s::text[])", f"%({operand})s")
    values[operand] = condition.value if condition.is_moment or _ordered_text(condition) else Jsonb(condition.value)
    return f"coalesce(NOT {test}, true)" if condition.comparison is Comparison.NOT_EQUAL else f"coalesce({test}, false)"


def _comparison(condition: Condition, json: str, text: str, operand: str) -> str:
    operator = _OPERATORS.get(condition.comparison, "=")
    if condition.is_moment:
        moment = _MOMENT.format(value=text)
        return f"(jsonb_typeof({json}) = 'string' AND {moment} {operator} {operand}::timestamptz)"
    if _ordered_text(condition):
        return f"(jsonb_typeof({json}) = 'string' AND {text} COLLATE \"C\" {operator} {operand}::text)"
    return f"(jsonb_typeof({json}) = jsonb_typeof({operand}::jsonb) AND {json} {operator} {operand}::jsonb)"


def _ordered_text(condition: Condition) -> bool:
    """Whether texts are put in order, which JSON's own comparison would do by the database's language."""
    return isinstance(condition.value, str) and condition.comparison in _OPERATORS


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        return Jsonb(value)
    return list(value) if isinstance(value, tuple) else value
