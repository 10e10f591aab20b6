"""The message inside a tool call's arguments, read while they arrive."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mneme.orchestrator.partial_json import StringField

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.just("message"), inner),
    max_leaves=8,
)  # fmt: skip
SCALARS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def read(pieces: list[str], name: str = "message") -> str:
    field = StringField(name)
    return "".join(field.feed(piece) for piece in pieces)


@settings(deadline=None)
@given(
    before=st.dictionaries(st.text(max_size=6).filter(lambda key: key != "message"), JSON, max_size=3),
    message=SCALARS,
    after=st.dictionaries(st.text(max_size=6).filter(lambda key: key != "message"), JSON, max_size=2),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 0, 2]),
    cuts=st.lists(st.floats(0, 1), max_size=6),
)
@example(before={}, message="😀", after={}, ascii_only=True, indent=None, cuts=[0.5, 0.55, 0.6, 0.65, 0.7, 0.75])
def test_the_characters_equal_the_parsed_value_however_the_text_is_cut(
    before: dict[str, object],
    message: str,
    after: dict[str, object],
    ascii_only: bool,
    indent: int | None,
    cuts: list[float],
) -> None:
    source = json.dumps({**before, "message": message, **after}, ensure_ascii=ascii_only, indent=indent)
    places = sorted({int(cut * len(source)) for cut in cuts} | {0, len(source)})
    pieces = [source[start:end] for start, end in itertools.pairwise(places)]
    assert read(pieces) == message == json.loads(source)["message"]


@settings(deadline=None)
@given(message=SCALARS, ascii_only=st.booleans())
def test_every_single_cut_and_every_single_character(message: str, ascii_only: bool) -> None:
    source = json.dumps({"thought": {"message": "no"}, "message": message}, ensure_ascii=ascii_only)
    assert read(list(source)) == message
    assert all(read([source[:cut], source[cut:]]) == message for cut in range(len(source) + 1))


@settings(deadline=None)
@given(message=SCALARS)
def test_a_beginning_yields_a_beginning(message: str) -> None:
    source = json.dumps({"message": message})
    for end in range(len(source)):
        assert message.startswith(read([source[:end]]))


@settings(deadline=None)
@given(value=JSON.filter(lambda value: not isinstance(value, str)))
def test_another_kind_of_value_yields_nothing(value: object) -> None:
    assert read([json.dumps({"message": value})]) == ""


@settings(deadline=None)
@given(st.text())
def test_any_text_is_read_without_failing(source: str) -> None:
    assert isinstance(read(list(source)), str)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", ""),
        ("[]", ""),
        ('["message"]', ""),
        ('{"a": {"message": "inner"}}', ""),
        ('{"a": "message", "message": "x"}', "x"),
        ('{"a": ["}", "]", "\\"", ","], "message": "x"}', "x"),
        ('{"m\\u0065ssage": "x"}', "x"),
        ('  {\n "message"\t:\r "x" }', "x"),
        ('{"message": "a\\ud83d b"}', "a\ufffd b"),
        ('{"message": "a\\ud83d\\ud83d\\ude00"}', "a\ufffd😀"),
        ('{"message": "a\\ude00"}', "a\ufffd"),
        ('{"message": "a\\ud83d"}', "a\ufffd"),
        ('{"message": "a\\qb"}', "a"),
        ('{"message": "a\\u00zzb"}', "a"),
        ('{"message": "first", "message": "second"}', "first"),
        ('{"message": "line\nbreak"}', "line\nbreak"),
        ("not JSON", ""),
        ('{"message" "x"}', ""),
    ],
)
def test_odd_sources(source: str, message: str) -> None:
    assert read([source]) == message
    assert read(list(source)) == message


def test_done_tells_that_no_more_will_come() -> None:
    field = StringField("message")
    field.feed('{"message": "x')
    unfinished = field.done
    assert not unfinished
    assert field.feed('"}') == ""
    finished = field.done
    assert finished
    assert field.feed(', "message": "y"}') == ""
