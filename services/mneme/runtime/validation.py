"""Checks requests against the rules of their contract, by functions compiled once for each message type.

The rules are the option (mneme.common.v1.rules) of each field, and what holds everywhere: texts hold no NUL,
enum values are known, whole numbers are not negative unless `min` allows it, floating-point numbers are
finite, timestamps and durations are in range. A field with its default value counts as not sent: only
`required` refuses it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from dataclasses import field as default
from typing import Any, cast

import numpy as np
from google.protobuf import descriptor_pool, empty_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from mneme.common.v1 import options_pb2
from mneme.common.v1.options_pb2 import FieldRules
from mneme.errors.v1 import errors_pb2
from mneme.errors.v1.errors_pb2 import Reason
from mneme.runtime.errors import Error, Violation, invalid

MAX_PROBLEMS = 8

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64,
}
_FLOATS = {FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE}
# Years 1 to 9999, as google/protobuf/timestamp.proto states.
_TIMESTAMP_SECONDS = (-62_135_596_800, 253_402_300_799)
_DURATION_SECONDS = 315_576_000_000
_NANOS = 999_999_999


@dataclass(frozen=True, slots=True)
class Problem:
    """One broken rule."""

    text: str
    """What is wrong, with the limit; never the value of a text."""
    reason: Reason.ValueType = errors_pb2.REASON_INVALID_FIELD
    """Entry of the catalogue."""
    metadata: dict[str, str] = default(default_factory=dict)
    """Every value the text mentions."""
    path: str = ""
    """Where, from the message that was checked: `messages[1].text`."""

    def under(self, parent: str) -> Problem:
        """Returns the same problem as seen from the enclosing message."""
        joined = parent + self.path if self.path.startswith("[") or not self.path else f"{parent}.{self.path}"
        return Problem(self.text, self.reason, self.metadata, joined)


# A check answers None, or an empty sequence, for a value that is right: that path allocates nothing.
Problems = Sequence[Problem] | None
Check = Callable[[Any], Problems]

_compiled: dict[str, Check] = {}


def check(message: Message) -> None:
    """Returns when the message obeys its contract.

    Raises:
        Error: With the reason of the first problem and a violation for each of the first eight.
    """
    problems = _message_check(cast("Descriptor", message.DESCRIPTOR))(message)
    if not problems:
        return
    first = problems[0]
    raise Error(
        first.reason,
        f"{first.path}: {first.text}",
        metadata={"field": first.path, **first.metadata},
        violations=[Violation(problem.path, problem.text) for problem in problems[:MAX_PROBLEMS]],
    )


def prepare(proto_service: str) -> None:
    """Compiles the checks of all requests of a service, so that a wrong rule fails at start and no call
    waits.

    Args:
        proto_service: Full name, `mneme.recall.v1.RecallService`.
    """
    for method in descriptor_pool.Default().FindServiceByName(proto_service).methods:
        _message_check(method.input_type)


def too_large(field: str, size: int, limit: int) -> Error:
    """Returns the error for something of more bytes than are accepted."""
    problem = _too_long(size, limit, "bytes")
    return invalid(field, problem.text, problem.reason, **problem.metadata)


def undecodable(method: str, raw: bytes) -> Error:
    """Returns the error for request bytes that do not parse: it names the text that is not UTF-8, where that
    is why.

    Args:
        method: Full name of the method.
        raw: Bytes that were sent.
    """
    service, _, name = method.partition("/")
    try:
        request = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name].input_type
        path = _invalid_text(request, raw)
    except (KeyError, DecodeError):
        path = None
    if path is None:
        return invalid("request", "cannot be parsed as a message of the method's request type")
    return invalid(path, "is not valid UTF-8", errors_pb2.REASON_INVALID_TEXT)


def _message_check(descriptor: Descriptor) -> Check:
    found = _compiled.get(descriptor.full_name)
    if found is None:
        name = descriptor.full_name

        def later(message: Message) -> Problems:
            return _compiled[name](message)

        # Ends the recursion of a type that holds itself: it finds the finished check when it runs.
        _compiled[name] = later
        found = _compiled[name] = _WELL_KNOWN.get(name) or _compile(descriptor)
    return found


def _compile(descriptor: Descriptor) -> Check:
    checks = {one.number: (one.name, _field_check(one)) for one in descriptor.fields}
    required = [one for one in descriptor.fields if _rules(one).required]
    absent = [_is_absent(one) for one in required]

    def check_fields(message: Message) -> Problems:
        problems: list[Problem] = []
        for name, is_absent in absent:
            if is_absent(message):
                problems.append(Problem("must not be empty", path=name))
        for sent, value in message.ListFields():
            name, run = checks[sent.number]
            found = run(value)
            if found:
                problems.extend(problem.under(name) for problem in found)
        return problems

    return check_fields


def _is_absent(one: FieldDescriptor) -> tuple[str, Callable[[Message], bool]]:
    """Returns how to see that a required field is missing; inside a oneof only the chosen field can be."""
    name = one.name
    choice = one.containing_oneof
    if choice is not None and not (len(choice.fields) == 1 and choice.name == f"_{name}"):
        return name, lambda message: message.HasField(name) and not _is_set(message, one)
    return name, lambda message: not _is_set(message, one)


def _is_set(message: Message, one: FieldDescriptor) -> bool:
    if one.message_type is not None and not one.is_repeated:
        return message.HasField(one.name)
    return bool(getattr(message, one.name))


def _field_check(one: FieldDescriptor) -> Check:
    rules = _rules(one)
    if one.message_type is not None and one.message_type.GetOptions().map_entry:
        return _map_check(one, rules)
    each = _always_right if rules.deferred else _value_check(one, rules)
    if one.is_repeated:
        return _repeated_check(one, each, rules.max_items)
    return each


def _map_check(one: FieldDescriptor, rules: FieldRules) -> Check:
    assert one.message_type is not None
    entry = one.message_type.fields_by_name
    check_key = _value_check(entry["key"], _rules(entry["key"]))
    check_value = _value_check(entry["value"], rules)
    too_many = _size_check(rules.max_items, "entries")

    def check_map(entries: Any) -> Problems:
        problems = list(too_many(entries) or ())
        if problems:
            return problems
        for key in entries:
            problems.extend(check_key(key) or ())
            problems.extend(problem.under(f"[{_shown(key)}]") for problem in check_value(entries[key]) or ())
        return problems

    return check_map


def _shown(key: object) -> str:
    text = str(key)
    return text if len(text) <= 64 and not _CONTROL.search(text) else f"{text[:16]!r}…"


def _repeated_check(one: FieldDescriptor, each: Check, max_items: int) -> Check:
    too_many = _size_check(max_items, "items")
    # A vector of a thousand numbers is checked as a whole; only a bad one is searched.
    is_vector = one.cpp_type in _FLOATS and not _has_number_rules(_rules(one))

    def check_items(items: Sequence[Any]) -> Problems:
        problems = too_many(items)
        if problems or (is_vector and np.isfinite(np.asarray(items)).all()):
            return problems
        found: list[Problem] = []
        for index, item in enumerate(items):
            wrong = each(item)
            if wrong:
                found.extend(problem.under(f"[{index}]") for problem in wrong)
                if len(found) >= MAX_PROBLEMS:
                    break
        return found

    return check_items


def _size_check(limit: int, unit: str) -> Check:
    def check_size(items: Sequence[Any]) -> Problems:
        if limit and len(items) > limit:
            metadata = {"size": str(len(items)), "limit": str(limit)}
            return [Problem(f"{len(items)} {unit}, at most {limit} are accepted", metadata=metadata)]
        return None

    return check_size


def _value_check(one: FieldDescriptor, rules: FieldRules) -> Check:
    if one.message_type is not None:
        return _message_check(one.message_type)
    if one.enum_type is not None:
        return _enum_check(one)
    if one.type == FieldDescriptor.TYPE_STRING:
        return _text_check(rules)
    if one.type == FieldDescriptor.TYPE_BYTES:
        return _bytes_check(rules.max_bytes)
    if one.cpp_type in _INTEGERS or one.cpp_type in _FLOATS:
        return _number_check(one, rules)
    return _always_right


def _always_right(_value: object) -> Problems:
    return None


def _enum_check(one: FieldDescriptor) -> Check:
    assert one.enum_type is not None
    known = frozenset(one.enum_type.values_by_number)
    name = one.enum_type.full_name

    def check_enum(value: int) -> Problems:
        if value in known:
            return None
        metadata = {"value": str(value), "enum": name}
        return [Problem(f"{value} is not a value of {name}", errors_pb2.REASON_UNKNOWN_ENUM_VALUE, metadata)]

    return check_enum


def _text_check(rules: FieldRules) -> Check:
    """Returns the check of one text. Sizes come first: what is too large is not searched."""
    # Without a rule of its own a text may be anybody's content, so only NUL is refused there.
    characters = _no_control if rules.ListFields() and not rules.allow_control else _no_nul
    checks = [*_size_checks(rules), characters, *_shape_checks(rules)]
    if len(checks) == 1:
        return checks[0]

    def check_text(text: str) -> Problems:
        for run in checks:
            found = run(text)
            if found:
                return found
        return None

    return check_text


def _size_checks(rules: FieldRules) -> list[Check]:
    checks: list[Check] = []
    if rules.max_bytes:
        checks.append(_max_bytes(rules.max_bytes))
    if rules.max_chars:
        checks.append(_max_chars(rules.max_chars))
    if rules.min_chars:
        checks.append(_min_chars(rules.min_chars))
    return checks


def _shape_checks(rules: FieldRules) -> list[Check]:
    checks: list[Check] = []
    if rules.uuid:
        checks.append(_matches(_UUID, "is not a UUID in its canonical, lower-case form"))
    if rules.id_prefix:
        shape = re.compile(re.escape(rules.id_prefix) + r"-[a-z0-9-]{1,64}")
        checks.append(_matches(shape, f"is not an id of the form '{rules.id_prefix}-…'"))
    if rules.pattern:
        checks.append(_matches(re.compile(rules.pattern), f"does not match {rules.pattern}"))
    return checks


def _max_bytes(limit: int) -> Check:
    def run(text: str) -> Problems:
        # Four bytes a character at most: most texts need not be encoded.
        if len(text) * 4 <= limit or (size := len(text.encode())) <= limit:
            return None
        return [_too_long(size, limit, "bytes")]

    return run


def _max_chars(limit: int) -> Check:
    return lambda text: [_too_long(len(text), limit, "characters")] if len(text) > limit else None


def _too_long(size: int, limit: int, unit: str) -> Problem:
    metadata = {"size": str(size), "limit": str(limit)}
    return Problem(f"{size} {unit}, at most {limit} are accepted", errors_pb2.REASON_TEXT_TOO_LONG, metadata)


def _min_chars(limit: int) -> Check:
    def run(text: str) -> Problems:
        if len(text) >= limit:
            return None
        metadata = {"size": str(len(text)), "limit": str(limit)}
        return [Problem(f"{len(text)} characters, at least {limit} are needed", metadata=metadata)]

    return run


def _no_nul(text: str) -> Problems:
    return [_nul(text.index("\x00"))] if "\x00" in text else None


def _no_control(text: str) -> Problems:
    found = _CONTROL.search(text)
    if found is None:
        return None
    if "\x00" in text:
        return _no_nul(text)
    shown, position = f"U+{ord(found[0]):04X}", str(found.start())
    problem = f"holds the control character {shown} at character {position}"
    return [Problem(problem, errors_pb2.REASON_INVALID_TEXT, {"position": position, "character": shown})]


def _nul(position: int) -> Problem:
    text = f"holds a NUL byte at character {position}"
    return Problem(text, errors_pb2.REASON_INVALID_TEXT, {"position": str(position)})


def _matches(shape: re.Pattern[str], problem: str) -> Check:
    return lambda text: None if shape.fullmatch(text) else [Problem(problem)]


def _bytes_check(limit: int) -> Check:
    if not limit:
        return _always_right
    return lambda data: [_too_long(len(data), limit, "bytes")] if len(data) > limit else None


def _has_number_rules(rules: FieldRules) -> bool:
    return rules.HasField("min") or rules.HasField("max")


def _number_check(one: FieldDescriptor, rules: FieldRules) -> Check:
    whole = one.cpp_type in _INTEGERS
    lowest = rules.min if rules.HasField("min") else (0 if whole else -math.inf)
    highest = rules.max if rules.HasField("max") else math.inf

    def check_number(value: float) -> Problems:
        # A NaN fails both comparisons.
        if lowest <= value <= highest and (whole or math.isfinite(value)):
            return None
        if not math.isfinite(value):
            return [Problem(f"{value} is not a finite number", metadata={"value": str(value)})]
        limit = lowest if value < lowest else highest
        words = "below the smallest" if value < lowest else "above the largest"
        metadata = {"value": f"{value}", "limit": f"{limit:.15g}"}
        return [Problem(f"{value} is {words} accepted value, {limit:.15g}", metadata=metadata)]

    return check_number


def _check_timestamp(value: Any) -> Problems:
    low, high = _TIMESTAMP_SECONDS
    if low <= value.seconds <= high and 0 <= value.nanos <= _NANOS:
        return None
    return [Problem("is not a time between the years 1 and 9999", errors_pb2.REASON_INVALID_TIME_RANGE)]


def _check_duration(value: Any) -> Problems:
    if 0 <= value.seconds <= _DURATION_SECONDS and 0 <= value.nanos <= _NANOS:
        return None
    return [Problem("is not a duration of 0 seconds to 10000 years")]


_WELL_KNOWN: dict[str, Check] = {
    "google.protobuf.Timestamp": _check_timestamp,
    "google.protobuf.Duration": _check_duration,
}


def _rules(one: FieldDescriptor) -> FieldRules:
    return one.GetOptions().Extensions[options_pb2.rules]


def _invalid_text(descriptor: Descriptor, raw: bytes) -> str | None:
    """Returns the path of the first string field in `raw` that is not UTF-8; None when all are."""
    positions: dict[int, int] = {}
    for sent in _wire_fields(raw):
        one = descriptor.fields_by_number.get(sent.field_number)
        if one is None or not isinstance(sent.data, bytes):
            continue
        index = positions[one.number] = positions.get(one.number, -1) + 1
        name = f"{one.name}[{index}]" if one.is_repeated else one.name
        if one.message_type is not None:
            inner = _invalid_text(one.message_type, sent.data)
            if inner is not None:
                return f"{name}.{inner}"
        elif one.type == FieldDescriptor.TYPE_STRING and not _is_utf8(sent.data):
            return name
    return None


def _wire_fields(raw: bytes) -> Iterable[Any]:
    """Returns number and value of each field, as parsed by a message type that knows none of them."""
    return cast("Iterable[Any]", UnknownFieldSet(empty_pb2.Empty.FromString(raw)))


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
