from __future__ import annotations

import math
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from mneme.runtime import validation
from mneme.runtime.errors import Error
from tests.contract.runtime import echo

UUID = "6b1d3c9e-0d6f-4a51-8f5c-2f1f6a4f9c11"


def struct(**values: Any) -> Struct:
    made = Struct()
    made.update(values)
    return made


GOOD: list[dict[str, Any]] = [
    {},
    {"text": "x" * 100},
    {"text": "中" * 100},
    {"text": "a\x1b[0m\r\n\t"},
    {"request_id": UUID},
    {"agent_id": "agent-0193aa"},
    {"label": "ab"},
    {"items": [{"text": "a"}] * 3},
    {"items": [{"text": "a", "inner": {"text": "b", "inner": {"text": "c"}}}]},
    {"notes": {"a": "12345678"}},
    {"page_size": 5},
    {"share": 1.0},
    {"vector": [0.5] * 4096},
    {"vector": [3e38] * 4096},
    {"data": struct(a=[{"b": "c"}], n=-5)},
    {"time": Timestamp(seconds=-62_135_596_800)},
    {"word": "x"},
    {"item": {"text": "x"}},
    {"blob": b"\x00\x01"},
    {"free": "x" * 5000 + "\x1b"},
    {"offset": -5},
]


@pytest.mark.parametrize("fields", GOOD, ids=str)
def test_what_obeys_its_rules_passes(fields: dict[str, Any]) -> None:
    validation.check(echo.request(**fields))


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"text": "x" * 101}, "TEXT_TOO_LONG", "text: 101 characters, at most 100 are accepted"),
    ({"text": "中" * 101}, "TEXT_TOO_LONG", "text: 101 characters, at most 100 are accepted"),
    ({"text": "ab\x00"}, "INVALID_TEXT", "text: holds a NUL byte at character 2"),
    ({"free": "\x00"}, "INVALID_TEXT", "free: holds a NUL byte at character 0"),
    ({"label": "a\x07"}, "INVALID_TEXT", "label: holds the control character U+0007 at character 1"),
    ({"label": "a"}, "INVALID_FIELD", "label: 1 characters, at least 2 are needed"),
    ({"label": "aB"}, "INVALID_FIELD", "label: does not match [a-z]+"),
    ({"label": "ab\n"}, "INVALID_FIELD", "label: does not match [a-z]+"),
    ({"request_id": UUID.upper()}, "INVALID_FIELD", "request_id: is not a UUID in its canonical, lower-case form"),
    ({"request_id": UUID + "\n"}, "INVALID_FIELD", "request_id: is not a UUID in its canonical, lower-case form"),
    ({"agent_id": "block-1"}, "INVALID_FIELD", "agent_id: is not an id of the form 'agent-…'"),
    ({"agent_id": "agent-"}, "INVALID_FIELD", "agent_id: is not an id of the form 'agent-…'"),
    ({"agent_id": "agent-" + "a" * 65}, "INVALID_FIELD", "agent_id: is not an id of the form 'agent-…'"),
    ({"items": [{"text": "a"}] * 4}, "INVALID_FIELD", "items: 4 items, at most 3 are accepted"),
    ({"items": [{"text": "a"}, {}]}, "INVALID_FIELD", "items[1].text: must not be empty"),
    (
        {"items": [{"text": "a"}, {"text": "b" * 11}]},
        "TEXT_TOO_LONG",
        "items[1].text: 11 characters, at most 10 are accepted",
    ),
    (
        {"items": [{"text": "a", "inner": {"text": "b", "inner": {"text": "c" * 11}}}]},
        "TEXT_TOO_LONG",
        "items[0].inner.inner.text: 11 characters, at most 10 are accepted",
    ),
    (
        {"items": [{"text": "a", "colour": 42}]},
        "UNKNOWN_ENUM_VALUE",
        "items[0].colour: 42 is not a value of mneme.echo.v1.Colour",
    ),
    ({"notes": dict.fromkeys("abc", "")}, "INVALID_FIELD", "notes: 3 entries, at most 2 are accepted"),
    ({"notes": {"a": "中中中"}}, "TEXT_TOO_LONG", "notes[a]: 9 bytes, at most 8 are accepted"),
    ({"notes": {"a\x00": "b"}}, "INVALID_TEXT", "notes: holds a NUL byte at character 1"),
    ({"page_size": -1}, "INVALID_FIELD", "page_size: -1 is below the smallest accepted value, 0"),
    ({"offset": -6}, "INVALID_FIELD", "offset: -6 is below the smallest accepted value, -5"),
    ({"share": 1.5}, "INVALID_FIELD", "share: 1.5 is above the largest accepted value, 1"),
    ({"share": math.nan}, "INVALID_FIELD", "share: nan is not a finite number"),
    ({"vector": [1, 2, math.inf]}, "INVALID_FIELD", "vector[2]: inf is not a finite number"),
    ({"vector": [math.inf, -math.inf]}, "INVALID_FIELD", "vector[0]: inf is not a finite number"),
    (
        {"data": struct(a=[{"b": "\x00"}])},
        "INVALID_TEXT",
        "data.fields[a].list_value.values[0].struct_value.fields[b].string_value: holds a NUL byte at character 0",
    ),
    ({"time": {"seconds": 1 << 60}}, "INVALID_TIME_RANGE", "time: is not a time between the years 1 and 9999"),
    ({"time": {"nanos": -1}}, "INVALID_TIME_RANGE", "time: is not a time between the years 1 and 9999"),
    ({"pause": {"seconds": -1}}, "INVALID_FIELD", "pause: is not a duration of 0 seconds to 10000 years"),
    ({"word": ""}, "INVALID_FIELD", "word: must not be empty"),
    ({"item": {}}, "INVALID_FIELD", "item.text: must not be empty"),
    ({"blob": b"12345"}, "TEXT_TOO_LONG", "blob: 5 bytes, at most 4 are accepted"),
]


@pytest.mark.parametrize(("fields", "reason", "message"), BAD, ids=lambda value: str(value)[:40])
def test_what_breaks_a_rule_is_told_where_and_why(fields: dict[str, Any], reason: str, message: str) -> None:
    with pytest.raises(Error) as raised:
        validation.check(echo.request(**fields))
    error = raised.value
    assert (error.reason_name, error.message) == (reason, message)
    field = message.partition(": ")[0]
    assert error.metadata["field"] == field
    assert error.violations[0].field == field


def test_all_problems_are_told_up_to_eight() -> None:
    with pytest.raises(Error) as raised:
        validation.check(echo.request(text="x" * 101, label="A", page_size=-1, share=2))
    assert [violation.field for violation in raised.value.violations] == ["text", "label", "page_size", "share"]
    with pytest.raises(Error) as raised:
        validation.check(echo.request(vector=[math.nan] * 100))
    assert len(raised.value.violations) == 8


def test_a_text_is_never_repeated_in_the_answer() -> None:
    secret = "my secret\x07" * 20
    for fields in ({"label": secret}, {"text": secret}, {"request_id": secret[:8]}, {"notes": {"k": secret}}):
        with pytest.raises(Error) as raised:
            validation.check(echo.request(**fields))
        assert "secret" not in str(raised.value.to_status())


@given(st.binary(max_size=200))
def test_bytes_that_do_not_parse_never_break_the_server(raw: bytes) -> None:
    error = validation.undecodable(f"{echo.SERVICE}/Say", raw)
    assert error.reason_name in ("INVALID_TEXT", "INVALID_FIELD")


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"\x0a\x01\xff", "text"),
        (b"\x2a\x03\x0a\x01a\x2a\x03\x0a\x01\xff", "items[1].text"),
        (b"\x32\x06\x0a\x01k\x12\x01\xff", "notes[0].value"),
    ],
)
def test_text_that_is_not_utf8_is_found(raw: bytes, path: str) -> None:
    assert validation.undecodable(f"{echo.SERVICE}/Say", raw).metadata["field"] == path


def test_a_whole_service_can_be_prepared() -> None:
    echo.message("EchoRequest")
    validation.prepare(echo.SERVICE)
    with pytest.raises(KeyError):
        validation.prepare("mneme.nothing.v1.NoService")
