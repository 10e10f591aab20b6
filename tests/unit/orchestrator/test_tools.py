"""Tool calls as models write them, good and bad."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from mneme.orchestrator.models.port import ToolSpec
from mneme.orchestrator.tools import DEFAULT_SEARCH_LIMIT, HEARTBEAT, TOOLS, InvalidCall, ParsedCall, parse_call

NAMES = [
    "send_message",
    "core_memory_append",
    "core_memory_replace",
    "core_memory_remove",
    "conversation_search",
    "conversation_search_date",
    "get_current_time",
    "archival_memory_insert",
    "archival_memory_search",
    "archival_memory_delete",
    "pause_heartbeats",
]


def parsed(name: str, **arguments: object) -> ParsedCall:
    call = parse_call(name, json.dumps(arguments))
    assert isinstance(call, ParsedCall), call
    return call


def problem(name: str, arguments_json: str) -> str:
    call = parse_call(name, arguments_json)
    assert isinstance(call, InvalidCall), call
    return call.problem


def test_the_tools_are_those_of_the_design() -> None:
    assert list(TOOLS) == NAMES


@pytest.mark.parametrize("tool", TOOLS.values(), ids=lambda tool: tool.name)
def test_every_schema_is_a_schema_and_says_what_each_argument_is(tool: ToolSpec) -> None:
    Draft202012Validator.check_schema(tool.parameters)
    assert tool.description
    assert all(schema["description"] for schema in tool.parameters["properties"].values())


def test_all_but_the_waiting_tools_may_ask_for_a_heartbeat() -> None:
    without = [name for name, tool in TOOLS.items() if HEARTBEAT not in tool.parameters["properties"]]
    assert without == ["send_message", "pause_heartbeats"]


def test_the_heartbeat_is_taken_out_before_the_tool_sees_its_arguments() -> None:
    call = parsed("core_memory_append", label="human", content="Likes tea.", request_heartbeat=True)
    assert call.heartbeat
    assert dict(call.arguments) == {"label": "human", "content": "Likes tea."}


@pytest.mark.parametrize("flag", [False, None, "true", 1, [True], {}])
def test_a_heartbeat_that_is_not_true_counts_as_absent(flag: object) -> None:
    assert not parsed("get_current_time", request_heartbeat=flag).heartbeat
    assert not parsed("get_current_time").heartbeat


def test_send_message_never_asks_for_a_heartbeat() -> None:
    assert not parsed("send_message", message="Hello", request_heartbeat=True).heartbeat


def test_defaults_are_filled_in() -> None:
    assert parsed("archival_memory_search", query="tea").arguments["limit"] == DEFAULT_SEARCH_LIMIT
    assert parsed("archival_memory_search", query="tea").arguments["tags"] == []


def test_tools_without_arguments_take_an_empty_text() -> None:
    assert isinstance(parse_call("get_current_time", ""), ParsedCall)
    assert isinstance(parse_call("get_current_time", "  \n"), ParsedCall)


def test_line_breaks_inside_a_string_are_taken_as_models_write_them() -> None:
    assert parse_call("send_message", '{"message": "one\ntwo"}') == ParsedCall(
        "send_message", {"message": "one\ntwo"}, heartbeat=False
    )


@pytest.mark.parametrize(
    ("name", "arguments_json", "named"),
    [
        ("fly_to_the_moon", "{}", "fly_to_the_moon"),
        ("fly_to_the_moon", "{}", "send_message"),
        ("send_message", '{"message": "cut', "character"),
        ("send_message", "hello", "valid JSON"),
        ("send_message", '["hello"]', "array"),
        ("send_message", "null", "null"),
        ("send_message", "{}", "'message' is a required property"),
        ("send_message", '{"message": 5}', "message"),
        ("send_message", '{"message": ""}', "message"),
        ("send_message", '{"message": "hi", "to": "Ann"}', "to"),
        ("send_message", '{"message": NaN}', "NaN"),
        ("send_message", '{"message": "a\\u0000b"}', "NUL"),
        ("send_message", '{"message": "\\ud83d"}', "surrogate"),
        ("core_memory_replace", '{"label": "human", "old_content": "", "new_content": "x"}', "old_content"),
        ("conversation_search", '{"query": "x", "limit": -1}', "limit"),
        ("conversation_search", '{"query": "x", "limit": 1000000}', "limit"),
        ("conversation_search_date", '{"start_date": "yesterday", "end_date": "2026-01-01"}', "start_date"),
        ("conversation_search_date", '{"start_date": "2026-02-30", "end_date": "2026-03-01"}', "start_date"),
        ("pause_heartbeats", '{"minutes": 0}', "minutes"),
        ("archival_memory_insert", '{"content": "x", "tags": ["", "b"]}', "tags"),
    ],
)
def test_a_wrong_call_is_told_what_is_wrong(name: str, arguments_json: str, named: str) -> None:
    assert named in problem(name, arguments_json)


def test_a_huge_or_deep_call_is_refused_in_few_words() -> None:
    assert len(problem("send_message", json.dumps({"message": "x" * 2_000_000}))) < 500
    assert len(problem("send_message", "[" * 100_000)) < 500
    assert len(problem("x" * 10_000, "{}")) < 2_000


@settings(deadline=None)
@given(st.text(), st.text())
def test_any_text_is_parsed_or_told_off(name: str, arguments_json: str) -> None:
    for tool in (name, "archival_memory_search"):
        assert isinstance(parse_call(tool, arguments_json), ParsedCall | InvalidCall)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["query", "limit", "tags", HEARTBEAT]), st.from_type(type(None)) | st.integers() | st.text()
    )
)
def test_what_is_parsed_matches_the_schema(arguments: dict[str, object]) -> None:
    call = parse_call("archival_memory_search", json.dumps(arguments))
    if isinstance(call, ParsedCall):
        assert isinstance(call.arguments["query"], str)
        assert 1 <= call.arguments["limit"] <= 50
        assert HEARTBEAT not in call.arguments
