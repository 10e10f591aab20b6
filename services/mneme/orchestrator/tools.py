"""The tools a model gets, and the way from what it wrote to a checked call.

Pure: nothing is executed here. The loop runs a `ParsedCall`, and returns an `InvalidCall`'s problem to the
model as the call's failed outcome, which makes the model try again.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, NoReturn

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import best_match

from mneme.orchestrator.models.port import ToolSpec

HEARTBEAT = "request_heartbeat"
MAX_ARGUMENTS_CHARS = 1_048_576
MAX_PAUSE_MINUTES = 360
DEFAULT_SEARCH_LIMIT = 5
MAX_SEARCH_LIMIT = 50
_PROBLEM_CHARS = 400

_HEARTBEAT_SCHEMA = {
    "type": "boolean",
    "description": "True to run again at once with this call's result; false to wait for the next event.",
}


@dataclass(frozen=True, slots=True)
class ParsedCall:
    """A call that matches its tool's schema."""

    name: str
    arguments: Mapping[str, Any]
    """As the schema says, without the heartbeat flag; optional arguments with a default are filled in."""
    heartbeat: bool


@dataclass(frozen=True, slots=True)
class InvalidCall:
    """A call that cannot be run."""

    name: str
    problem: str
    """What is wrong and how to put it right, for the model to read."""


def _text(description: str) -> dict[str, Any]:
    return {"type": "string", "minLength": 1, "description": description}


def _tool(
    name: str,
    description: str,
    properties: dict[str, Any],
    *,
    optional: tuple[str, ...] = (),
    heartbeat: bool = True,
) -> ToolSpec:
    required = [key for key in properties if key not in optional]
    if heartbeat:
        properties = {**properties, HEARTBEAT: _HEARTBEAT_SCHEMA}
        required.append(HEARTBEAT)
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return ToolSpec(name, description, schema)


_LABEL = _text("Label of the core memory block, for example 'human' or 'persona'.")
_LIMIT = {
    "type": "integer",
    "minimum": 1,
    "maximum": MAX_SEARCH_LIMIT,
    "default": DEFAULT_SEARCH_LIMIT,
    "description": f"How many results to show at most; {DEFAULT_SEARCH_LIMIT} when left out.",
}
_TAGS = {
    "type": "array",
    "items": {"type": "string", "minLength": 1, "maxLength": 100},
    "maxItems": 20,
    "default": [],
}


def _date(which: str) -> dict[str, Any]:
    return {
        "type": "string",
        "format": "date",
        "description": f"{which} day included, as YYYY-MM-DD.",
    }


_ALL = (
    _tool(
        "send_message",
        "Sends a message to the user. This is the only way to reach the user: all other text is private.",
        {"message": _text("The message, as the user will read it.")},
        heartbeat=False,
    ),
    _tool(
        "core_memory_append",
        "Adds a line to a core memory block. Core memory is always in view; each block has a size limit.",
        {"label": _LABEL, "content": _text("The line to add.")},
    ),
    _tool(
        "core_memory_replace",
        "Replaces text in a core memory block. The old text must occur there exactly once.",
        {
            "label": _LABEL,
            "old_content": _text("The text to replace, exactly as it stands in the block."),
            "new_content": {"type": "string", "description": "The new text; empty to delete the old text."},
        },
    ),
    _tool(
        "core_memory_remove",
        "Removes text from a core memory block. The text must occur there exactly once.",
        {"label": _LABEL, "content": _text("The text to remove, exactly as it stands in the block.")},
    ),
    _tool(
        "conversation_search",
        "Searches all earlier messages, also those that are no longer in view, by words and meaning.",
        {"query": _text("What to look for."), "limit": _LIMIT},
        optional=("limit",),
    ),
    _tool(
        "conversation_search_date",
        "Lists earlier messages of a span of days, oldest first.",
        {
            "start_date": _date("First"),
            "end_date": _date("Last"),
            "time_zone": {
                "type": "string",
                "maxLength": 64,
                "default": "",
                "description": "Where these days are meant, as an IANA name such as Asia/Shanghai; UTC when left out.",
            },
            "limit": _LIMIT,
        },
        optional=("time_zone", "limit"),
    ),
    _tool("get_current_time", "Tells the current date and time.", {}),
    _tool(
        "archival_memory_insert",
        "Stores a text in archival memory, which has no limit. The text must make sense on its own.",
        {"content": _text("The text to store."), "tags": {**_TAGS, "description": "Tags to find it by."}},
        optional=("tags",),
    ),
    _tool(
        "archival_memory_search",
        "Searches archival memory and the attached knowledge bases by meaning and words.",
        {
            "query": _text("What to look for."),
            "tags": {**_TAGS, "description": "Only texts that carry all of these tags."},
            "limit": _LIMIT,
        },
        optional=("tags", "limit"),
    ),
    _tool(
        "archival_memory_delete",
        "Deletes a text from archival memory.",
        {"passage_id": _text("Id of the passage, as a search shows it.")},
    ),
    _tool(
        "pause_heartbeats",
        "Lets timed events wait. Messages of the user still come through.",
        {
            "minutes": {
                "type": "integer",
                "minimum": 1,
                "description": f"How many minutes, at most {MAX_PAUSE_MINUTES}.",
            }
        },
        heartbeat=False,
    ),
)

TOOLS: Mapping[str, ToolSpec] = MappingProxyType({tool.name: tool for tool in _ALL})
"""Every built-in tool by name, in the order in which a model sees them."""


def parse_call(name: str, arguments_json: str, tools: Mapping[str, ToolSpec] = TOOLS) -> ParsedCall | InvalidCall:
    """The call that a model wrote, checked against its tool's schema.

    The heartbeat flag is taken out before the arguments are checked; anything but true counts as absent.
    Empty arguments count as an empty object, as some models write them so for tools without arguments.
    """
    tool = tools.get(name)
    if tool is None:
        return InvalidCall(name, f"there is no tool '{_short(name)}'; the tools are {', '.join(tools)}")
    arguments = _read_object(arguments_json)
    if isinstance(arguments, str):
        return InvalidCall(name, f"{name}: {arguments}")
    heartbeat = arguments.pop(HEARTBEAT, None) is True and HEARTBEAT in tool.parameters.get("properties", {})
    problem = _first_problem(tool, arguments)
    if problem:
        return InvalidCall(name, f"{name}: {problem}")
    return ParsedCall(name, MappingProxyType({**_defaults(tool), **arguments}), heartbeat)


def _read_object(arguments_json: str) -> dict[str, Any] | str:
    """The arguments as an object, or what is wrong with them."""
    if len(arguments_json) > MAX_ARGUMENTS_CHARS:
        return f"the arguments have {len(arguments_json)} characters, at most {MAX_ARGUMENTS_CHARS} are accepted"
    try:
        value = json.loads(arguments_json.strip() or "{}", strict=False, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        return f"the arguments are not valid JSON at character {error.pos}: {error.msg}; send one JSON object"
    except (ValueError, RecursionError):
        return "the arguments hold NaN, a number too long, or nest too deeply; send a plain JSON object"
    if not isinstance(value, dict):
        return f"the arguments are a JSON {_json_type(value)}; send one JSON object"
    unstorable = _unstorable(value)
    if unstorable:
        return f"the arguments hold {unstorable}, which cannot be stored; leave it out"
    return value


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(constant)


def _unstorable(value: dict[str, Any]) -> str:
    """Names the first thing in the arguments that no database takes, or is empty."""
    text = json.dumps(value, ensure_ascii=False)
    if "\\u0000" in text and "\x00" in _strings(value):
        return "a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "half of a surrogate pair"
    return ""


def _strings(value: object) -> str:
    """All keys and strings inside, one after the other."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return "".join(key + _strings(inner) for key, inner in value.items())
    if isinstance(value, list):
        return "".join(map(_strings, value))
    return ""


def _json_type(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
    return "array"


def _first_problem(tool: ToolSpec, arguments: dict[str, Any]) -> str:
    """The most telling thing that the schema refuses; empty when nothing."""
    error = best_match(_validator(tool).iter_errors(arguments))
    if error is None:
        return ""
    where = ".".join(str(part) for part in error.absolute_path)
    return _short(f"{where}: {error.message}" if where else error.message)


def _validator(tool: ToolSpec) -> Draft202012Validator:
    return _compiled(json.dumps(dict(tool.parameters), sort_keys=True))


@cache
def _compiled(schema_json: str) -> Draft202012Validator:
    schema = json.loads(schema_json)
    schema["required"] = [key for key in schema.get("required", ()) if key != HEARTBEAT]
    return Draft202012Validator(schema, format_checker=FormatChecker(("date",)))


def _defaults(tool: ToolSpec) -> dict[str, Any]:
    properties: Mapping[str, Any] = tool.parameters.get("properties", {})
    return {key: schema["default"] for key, schema in properties.items() if "default" in schema}


def _short(text: str) -> str:
    return text if len(text) <= _PROBLEM_CHARS else text[: _PROBLEM_CHARS - 1] + "…"
