"""What a batch of messages must look like before anything is written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import NoReturn

from mneme.errors.v1 import errors_pb2
from mneme.recall.records import Kind, NewMessage, Role, ToolCall
from mneme.runtime.errors import Error, invalid

_KINDS = {
    Role.USER: (Kind.USER_MESSAGE,),
    Role.ASSISTANT: (Kind.AGENT_MESSAGE,),
    Role.TOOL: (Kind.TOOL_RESULT,),
    Role.SYSTEM: (Kind.SYSTEM_EVENT, Kind.INTERACTION, Kind.TIMED, Kind.MEMORY_PRESSURE),
}
"""Kinds of message by role, the usual one first."""


def usual_kind(role: int) -> int:
    """Returns what a message of a role is unless its writer says more."""
    return _KINDS[Role(role)][0]


def check_batch(messages: Sequence[NewMessage]) -> None:
    """Returns when the messages can stand in a conversation in this order.

    A result whose call is not in the batch may still have it in the store.

    Raises:
        Error: INVALID_FIELD, INVALID_ROLE or INVALID_TOOL_CALL, naming the first field that is wrong.
    """
    seen: set[str] = set()
    calls: dict[str, int] = {}
    for number, message in enumerate(messages):
        at = f"messages[{number}]"
        if message.message_id and message.message_id in seen:
            raise invalid(f"{at}.message_id", f"{message.message_id} occurs twice", value=message.message_id)
        seen.add(message.message_id)
        _check_role(at, message)
        problem = _object_problem(message.content) if message.content else ""
        if problem:
            raise invalid(f"{at}.content_json", problem)
        for index, call in enumerate(message.tool_calls):
            _check_call(f"{at}.tool_calls[{index}]", call)
            if call.call_id in calls:
                field, problem = f"{at}.tool_calls[{index}].id", f"call {call.call_id} occurs twice"
                raise _bad_call(field, problem, call.call_id)
            calls[call.call_id] = number
    _check_order(messages, calls)


def check_user_batch(messages: Sequence[NewMessage]) -> None:
    """Returns when a user credential may append the messages: plain words of the user, nothing forged.

    Raises:
        Error: INVALID_ROLE for another role than USER; INVALID_FIELD for a field that the agent loop alone
        fills.
    """
    for number, message in enumerate(messages):
        at = f"messages[{number}]"
        if message.role != Role.USER:
            raise _bad_role(at, message, "a user credential may append USER messages only")
        forged = {
            "content_json": bool(message.content),
            "step_id": bool(message.step_id),
            "run_id": bool(message.run_id),
            "hidden": message.hidden,
            "provenance": message.provenance is not None,
        }
        for name, given in forged.items():
            if given:
                raise invalid(f"{at}.{name}", "must be empty with a user credential")


def open_results(messages: Sequence[NewMessage]) -> Iterator[tuple[int, str]]:
    """Yields the position and call id of each result whose call is not in the batch."""
    asked = {call.call_id for message in messages for call in message.tool_calls}
    for number, message in enumerate(messages):
        if message.tool_call_id and message.tool_call_id not in asked:
            yield number, message.tool_call_id


def _check_role(at: str, message: NewMessage) -> None:
    if message.kind not in _KINDS[Role(message.role)]:
        raise invalid(f"{at}.kind", f"{Kind(message.kind).name} does not fit the role {Role(message.role).name}")
    if message.tool_calls and message.role != Role.ASSISTANT:
        raise _bad_role(at, message, "only an ASSISTANT message holds tool calls")
    if message.role == Role.TOOL and not message.tool_call_id:
        raise _bad_role(at, message, "a TOOL message needs tool_call_id")
    if message.tool_call_id and message.role != Role.TOOL:
        raise _bad_role(at, message, "only a TOOL message answers a call")
    if (message.tool_ok is None) is (message.role == Role.TOOL):
        raise invalid(f"{at}.tool_ok", "must be set on a TOOL message, and on no other")
    if message.role in (Role.USER, Role.SYSTEM) and not message.text and not message.content:
        raise invalid(f"{at}.text", "must not be empty")


def _check_call(at: str, call: ToolCall) -> None:
    if not call.call_id:
        raise _bad_call(f"{at}.id", "must not be empty", call.call_id)
    if not call.name:
        raise _bad_call(f"{at}.name", "must not be empty", call.name)
    problem = _object_problem(call.arguments_json)
    if problem:
        raise _bad_call(f"{at}.arguments_json", problem, call.name)


def _object_problem(text: str) -> str:
    """Returns why a text is not a JSON object; empty when it is one."""
    try:
        # Numbers stay text: they are not read here, and a long one would be refused.
        value = json.loads(text, parse_int=str, parse_float=str, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        return f"not valid JSON at character {error.pos}"
    except RecursionError:
        return "is nested too deeply"
    except ValueError as error:
        return f"holds {error}, which is not JSON"
    return "" if isinstance(value, dict) else "is not a JSON object"


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(constant)


def _check_order(messages: Sequence[NewMessage], calls: dict[str, int]) -> None:
    answered: set[str] = set()
    for number, message in enumerate(messages):
        call_id = message.tool_call_id
        if not call_id:
            continue
        if calls.get(call_id, -1) >= number or call_id in answered:
            raise unanswerable(number, call_id)
        answered.add(call_id)


def unanswerable(number: int, call_id: str) -> Error:
    """Returns the error of a result without a call before it, or with a result already."""
    return _bad_call(
        f"messages[{number}].tool_call_id", f"no call '{call_id}' without a result comes before it", call_id
    )


def _bad_call(field: str, problem: str, call: str) -> Error:
    return invalid(field, problem, errors_pb2.REASON_INVALID_TOOL_CALL, tool=call)


def _bad_role(at: str, message: NewMessage, problem: str) -> Error:
    role = Role(message.role).name if message.role in Role.__members__.values() else str(message.role)
    return invalid(f"{at}.role", problem, errors_pb2.REASON_INVALID_ROLE, role=role)
