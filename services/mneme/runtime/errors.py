"""The one typed failure of the suite and its way over the wire.

Everything that can go wrong is a `Reason` of the catalogue in `protos/mneme/errors/v1/errors.proto`, which
also fixes its gRPC code. Services raise `Error`; the error interceptor turns it into a google.rpc.Status.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from mneme.errors.v1 import errors_pb2
from mneme.errors.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from google.protobuf.message import Message

DOMAIN = "mneme"
STATUS_KEY = "grpc-status-details-bin"

# A status travels twice in the trailing metadata (as text, in which one Chinese character takes nine bytes,
# and as details), and gRPC refuses 8 KiB of it.
_MESSAGE_CHARS = 240
_VALUE_CHARS = 120
_VIOLATIONS = 8
_METADATA_KEYS = 12

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class OperatorError(Exception):
    """Something that whoever runs the suite can mend; the text says what is wrong and how. Never crosses the wire."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One field of a request that broke a rule."""

    field: str
    """Path of the field, `messages[1].text`."""
    description: str
    """What is wrong, with the limit."""


class Error(Exception):
    """A failure with a reason that clients can branch on."""

    def __init__(
        self,
        reason: Reason.ValueType,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[Violation] = (),
        retry_after: timedelta | None = None,
    ) -> None:
        """Args:
        reason: Entry of the catalogue; it fixes the gRPC code.
        message: One sentence for people; never holds text of messages, blocks or passages.
        metadata: Every value the message mentions.
        violations: Fields that broke a rule, for INVALID_ARGUMENT.
        retry_after: When a new attempt makes sense.
        """
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after = retry_after

    @property
    def code(self) -> grpc.StatusCode:
        """The gRPC code that the catalogue gives the reason."""
        return code_of(self.reason)

    @property
    def reason_name(self) -> str:
        """The reason as it travels: without the prefix `REASON_`."""
        return name_of(self.reason)

    def to_status(self) -> status_pb2.Status:
        """Returns the status with exactly one ErrorInfo, and BadRequest or RetryInfo; long values are cut."""
        status = status_pb2.Status(code=self.code.value[0], message=_cut(self.message, _MESSAGE_CHARS))
        metadata = {key: _cut(text, _VALUE_CHARS) for key, text in list(self.metadata.items())[:_METADATA_KEYS]}
        _pack(status, error_details_pb2.ErrorInfo(reason=self.reason_name, domain=DOMAIN, metadata=metadata))
        if self.violations:
            fields = [
                error_details_pb2.BadRequest.FieldViolation(
                    field=_cut(violation.field, _VALUE_CHARS),
                    description=_cut(violation.description, _VALUE_CHARS),
                )
                for violation in self.violations[:_VIOLATIONS]
            ]
            _pack(status, error_details_pb2.BadRequest(field_violations=fields))
        if self.retry_after is not None:
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromTimedelta(self.retry_after)
            _pack(status, retry)
        return status

    def __repr__(self) -> str:
        return f"Error({self.reason_name}, {self.message!r})"


def invalid(
    field: str, problem: str, reason: Reason.ValueType = errors_pb2.REASON_INVALID_FIELD, **metadata: str
) -> Error:
    """Returns an INVALID_ARGUMENT error that says what is wrong with one field."""
    return Error(
        reason,
        f"{field}: {problem}",
        metadata={"field": field, **metadata},
        violations=[Violation(field, problem)],
    )


def not_found(resource_id: str) -> Error:
    """Returns the error for a resource that does not exist, was deleted, or belongs to another tenant."""
    return Error(errors_pb2.REASON_NOT_FOUND, f"{resource_id} does not exist", metadata={"resource": resource_id})


def not_implemented(method: str) -> Error:
    """Returns the error of a method that is in the contract and not built yet."""
    return Error(
        errors_pb2.REASON_NOT_IMPLEMENTED,
        f"{method} is not available in this version",
        metadata={"method": method},
    )


def from_rpc_error(error: grpc.aio.AioRpcError) -> Error:
    """Returns a peer's failure as an Error: with its own reason, else with the nearest one for the code."""
    sent = _sent(error)
    if sent is not None:
        return sent
    code = error.code()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Error(errors_pb2.REASON_DEADLINE_EXCEEDED, "the deadline passed while another service was asked")
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return Error(errors_pb2.REASON_UNAUTHENTICATED, "another service refused the credential")
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return Error(errors_pb2.REASON_PEER_UNAVAILABLE, "another service of the suite cannot be reached")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Error(errors_pb2.REASON_TEXT_TOO_LONG, "a message is larger than another service accepts")
    return Error(errors_pb2.REASON_INTERNAL, f"another service answered {code.name} without a reason")


def logged(error: BaseException) -> dict[str, Any]:
    """What a log line says of a failure: its reason, or the traceback of a defect."""
    return {"reason": error.reason_name} if isinstance(error, Error) else {"exc_info": error}


@functools.cache
def code_of(reason: Reason.ValueType) -> grpc.StatusCode:
    """Returns the gRPC code that the catalogue gives a reason; INTERNAL for one of a newer catalogue."""
    value = Reason.DESCRIPTOR.values_by_number.get(reason)
    number = value.GetOptions().Extensions[errors_pb2.info].code if value is not None else 0
    return _CODES[number] if number else grpc.StatusCode.INTERNAL


@functools.cache
def name_of(reason: Reason.ValueType) -> str:
    """Returns the name of a reason without its prefix."""
    return Reason.Name(reason).removeprefix("REASON_")


def _sent(error: grpc.aio.AioRpcError) -> Error | None:
    """Returns the error that a server of the suite packed into its trailing metadata, if it did."""
    packed = next((value for key, value in error.trailing_metadata() or () if key == STATUS_KEY), None)
    if not isinstance(packed, bytes):
        return None
    try:
        status = status_pb2.Status.FromString(packed)
    except DecodeError:
        return None
    info, bad, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    for detail in status.details:
        for target in (info, bad, retry):
            detail.Unpack(target)  # leaves a target of another type as it is
    number = Reason.DESCRIPTOR.values_by_name.get(f"REASON_{info.reason}")
    if info.domain != DOMAIN or number is None:
        return None
    return Error(
        Reason.ValueType(number.number),
        status.message,
        metadata=dict(info.metadata),
        violations=[Violation(v.field, v.description) for v in bad.field_violations],
        retry_after=retry.retry_delay.ToTimedelta() if retry.HasField("retry_delay") else None,
    )


def _pack(status: status_pb2.Status, detail: Message) -> None:
    status.details.add().Pack(detail)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
