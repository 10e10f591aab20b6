"""Filters: the database agrees with a reference in plain Python, and no value is ever read as SQL."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mneme.archival.v1 import archival_pb2 as pb
from tests.contract.archival.conftest import Archive, at, new_id, of_agent
from tests.support.hosting import failure

KEYS = ("a", "b", "it's", "%s", "a.b", "数")
TEXTS = (
    "",
    "tea",
    "Tea",
    "茶",
    "é",
    "2026-01-31",
    "2026-01-31T08:00:00+08:00",
    "2026-02-30",
    "today",
    "1",
    "null",
    "'; --",
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3).map(float),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(TEXTS),
)
METADATA = st.recursive(
    st.dictionaries(st.sampled_from(KEYS), SCALARS, max_size=3),
    lambda inner: st.dictionaries(
        st.sampled_from(KEYS), st.one_of(SCALARS, inner, st.lists(SCALARS, max_size=3)), max_size=3
    ),
    max_leaves=6,
)
MOMENTS = st.sampled_from([at("2026-01-31T00:00:00Z"), at("2026-01-30T23:59:59Z"), at("1999-01-01T00:00:00Z")])
ORDERED = {
    pb.COMPARISON_LESS: lambda x, y: x < y,
    pb.COMPARISON_LESS_OR_EQUAL: lambda x, y: x <= y,
    pb.COMPARISON_GREATER: lambda x, y: x > y,
    pb.COMPARISON_GREATER_OR_EQUAL: lambda x, y: x >= y,
}
MISSING = object()


@st.composite
def conditions(draw: st.DrawFn) -> pb.MetadataCondition:
    condition = pb.MetadataCondition(path=draw(st.lists(st.sampled_from([*KEYS, "0", "1"]), min_size=1, max_size=3)))
    kind = draw(st.sampled_from(["number", "text", "flag", "time", ""]))
    if kind == "":
        condition.comparison = draw(st.sampled_from([pb.COMPARISON_PRESENT, pb.COMPARISON_ABSENT]))
        return condition
    allowed = [pb.COMPARISON_UNSPECIFIED, pb.COMPARISON_EQUAL, pb.COMPARISON_NOT_EQUAL]
    condition.comparison = draw(st.sampled_from(allowed if kind == "flag" else [*allowed, *ORDERED]))
    if kind == "number":
        condition.number = draw(
            st.one_of(st.integers(-3, 3).map(float), st.floats(allow_nan=False, allow_infinity=False))
        )
    elif kind == "text":
        condition.text = draw(st.sampled_from(TEXTS))
    elif kind == "flag":
        condition.flag = draw(st.booleans())
    else:
        condition.time.CopyFrom(draw(MOMENTS))
    return condition


def at_path(metadata: Any, path: list[str]) -> Any:
    """Returns the value at a path, or MISSING."""
    for key in path:
        if isinstance(metadata, dict) and key in metadata:
            metadata = metadata[key]
        elif isinstance(metadata, list) and key.isdecimal() and int(key) < len(metadata):
            metadata = metadata[int(key)]
        else:
            return MISSING
    return metadata


def moment(text: str) -> datetime | None:
    """Returns the moment that a text names: a date, or a time with its zone."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return None
    if len(text) == len("2026-01-31"):
        return parsed.replace(tzinfo=UTC)
    return parsed if parsed.tzinfo else None


def fulfils(metadata: dict[str, Any], condition: pb.MetadataCondition) -> bool:
    """The rules of a condition, in plain words."""
    value = at_path(metadata, list(condition.path))
    if condition.comparison == pb.COMPARISON_PRESENT:
        return value is not MISSING
    if condition.comparison == pb.COMPARISON_ABSENT:
        return value is MISSING
    kind = condition.WhichOneof("value")
    wanted = getattr(condition, str(kind))
    if kind == "time":
        wanted = wanted.ToDatetime(tzinfo=UTC)
        value = moment(value) if isinstance(value, str) else None
    same_type = {
        "number": lambda: isinstance(value, float) and not isinstance(value, bool),
        "text": lambda: isinstance(value, str),
        "flag": lambda: isinstance(value, bool),
        "time": lambda: value is not None,
    }[str(kind)]()
    if condition.comparison in ORDERED:
        return bool(same_type and ORDERED[condition.comparison](value, wanted))
    equal = bool(same_type and value == wanted)
    return not equal if condition.comparison == pb.COMPARISON_NOT_EQUAL else equal


@given(
    stored=st.lists(METADATA, min_size=1, max_size=12),
    asked=st.lists(st.lists(conditions(), min_size=1, max_size=2), min_size=8, max_size=8),
)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_conditions_agree_with_the_reference(
    archive: Archive, stored: list[dict[str, Any]], asked: list[list[pb.MetadataCondition]]
) -> None:
    owner = of_agent(f"agent-{new_id()}")
    items = []
    for n, metadata in enumerate(stored):
        passage = pb.Passage(text=f"passage {n}")
        passage.metadata.update(metadata)
        items.append(pb.PassageItem(passage=passage))
    assert (await archive.insert_many(items, owner=owner)).inserted_count == len(stored)
    for wanted in asked:
        found = await archive.list_all(owner=owner, filter=pb.PassageFilter(conditions=wanted))
        expected = [n for n, metadata in enumerate(stored) if all(fulfils(metadata, one) for one in wanted)]
        assert [int(p.text.split()[1]) for p in found] == expected, (stored, wanted)


def struct(values: dict[str, Any]) -> Struct:
    return json_format.ParseDict(values, Struct())


async def test_tags_kinds_documents_and_times_all_hold_together(archive: Archive) -> None:
    await archive.insert("one", tags=["a", "b"], metadata=struct({"page": 3, "by": {"name": "Ann"}}))
    await archive.insert("two", tags=["b"], kind=pb.PASSAGE_KIND_PREFERENCE, metadata=struct({"page": 12}))
    third = await archive.insert("three", document=pb.DocumentSpan(document_id="d"), metadata=struct({"page": "12"}))
    later = third.passage.create_time.ToDatetime(tzinfo=UTC) + timedelta(microseconds=1)

    async def texts(**fields: Any) -> list[str]:
        wanted = pb.PassageFilter(**fields)
        listed = [p.text for p in await archive.list_all(filter=wanted)]
        for mode in (pb.SEARCH_MODE_SEMANTIC, pb.SEARCH_MODE_LEXICAL):
            assert sorted(await archive.found("one two three", mode=mode, filter=wanted)) == sorted(listed)
        return listed

    assert await texts(all_tags=["a", "b"]) == ["one"]
    assert await texts(any_tags=["a", "b"]) == ["one", "two"]
    assert await texts(any_tags=["a", "b"], kinds=[pb.PASSAGE_KIND_PREFERENCE]) == ["two"]
    assert await texts(document_ids=["d"]) == ["three"]
    assert await texts(metadata=struct({"by": {"name": "Ann"}})) == ["one"]
    number = pb.MetadataCondition(path=["page"], comparison=pb.COMPARISON_GREATER, number=4)
    assert await texts(conditions=[number]) == ["two"]
    number.comparison = pb.COMPARISON_LESS
    assert await texts(conditions=[number], all_tags=["a"]) == ["one"]
    start, end = third.passage.create_time, Timestamp()
    end.FromDatetime(later)
    assert await texts(create_time_range={"start": start, "end": end}) == ["three"]


@pytest.mark.parametrize(
    ("condition", "field"),
    [
        (pb.MetadataCondition(number=1), "filter.conditions[0].path"),
        (pb.MetadataCondition(path=["a"]), "filter.conditions[0]"),
        (pb.MetadataCondition(path=["a"], comparison=pb.COMPARISON_PRESENT, number=1), "filter.conditions[0]"),
        (pb.MetadataCondition(path=["a"], comparison=pb.COMPARISON_LESS, flag=True), "filter.conditions[0].flag"),
        (pb.MetadataCondition(path=["a"], number=math.nan), "filter.conditions[0].number"),
        (pb.MetadataCondition(path=["a"] * 9, number=1), "filter.conditions[0].path"),
    ],
)
async def test_a_wrong_condition_is_refused(archive: Archive, condition: pb.MetadataCondition, field: str) -> None:
    error = await failure(archive.list_all(filter=pb.PassageFilter(conditions=[condition])))
    assert (error.reason_name, error.metadata["field"]) == ("INVALID_FIELD", field)
    assert (await failure(archive.found("x", filter=pb.PassageFilter(conditions=[condition])))).metadata[
        "field"
    ] == field


async def test_values_are_never_read_as_sql(archive: Archive) -> None:
    hostile = "'}'); DROP TABLE archival.agent_passages; -- %(tenant)s {x} \\ \" $$"
    await archive.insert("safe", tags=[hostile], metadata=struct({hostile: hostile}))
    condition = pb.MetadataCondition(path=[hostile], text=hostile)
    for wanted in (
        pb.PassageFilter(conditions=[condition]),
        pb.PassageFilter(all_tags=[hostile]),
        pb.PassageFilter(any_tags=[hostile]),
        pb.PassageFilter(metadata=struct({hostile: hostile})),
    ):
        assert [p.text for p in await archive.list_all(filter=wanted)] == ["safe"]
    assert await archive.list_all(filter=pb.PassageFilter(document_ids=[hostile])) == []
    assert await archive.found(hostile, filter=pb.PassageFilter(conditions=[condition])) == ["safe"]
