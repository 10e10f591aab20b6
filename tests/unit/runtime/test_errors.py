from __future__ import annotations

from datetime import timedelta

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2

from mneme.errors.v1 import errors_pb2
from mneme.errors.v1.errors_pb2 import Reason
from mneme.runtime import call
from mneme.runtime.call import Call, Principal, acting_user
from mneme.runtime.errors import (
    STATUS_KEY,
    Error,
    Violation,
    code_of,
    from_rpc_error,
    invalid,
    not_found,
    not_implemented,
)
from mneme.runtime.interceptors import translate


def over_the_wire(error: Error) -> grpc.aio.AioRpcError:
    status = error.to_status()
    trailing = grpc.aio.Metadata((STATUS_KEY, status.SerializeToString()))
    return grpc.aio.AioRpcError(error.code, grpc.aio.Metadata(), trailing, details=status.message)


def test_every_reason_has_a_code_and_an_example() -> None:
    for value in Reason.DESCRIPTOR.values:
        if value.number:
            info = value.GetOptions().Extensions[errors_pb2.info]
            assert info.code, value.name
            assert info.example, value.name
            assert code_of(Reason.ValueType(value.number)).value[0] == info.code


def test_an_error_survives_the_wire() -> None:
    sent = Error(
        errors_pb2.REASON_QUOTA_EXCEEDED,
        "tenant 'acme' used its tokens",
        metadata={"limit": "100", "text": "中文"},
        violations=[Violation("items[1].text", "too long")],
        retry_after=timedelta(seconds=2.5),
    )
    got = from_rpc_error(over_the_wire(sent))
    for name in ("reason", "message", "metadata", "violations", "retry_after", "code"):
        assert getattr(got, name) == getattr(sent, name)


def test_a_status_has_exactly_one_error_info_in_the_domain() -> None:
    status = invalid("text", "is wrong", limit="5").to_status()
    infos = [detail for detail in status.details if detail.type_url.endswith("/google.rpc.ErrorInfo")]
    assert len(infos) == 1
    info = error_details_pb2.ErrorInfo.FromString(infos[0].value)
    assert (info.domain, info.reason, dict(info.metadata)) == (
        "mneme",
        "INVALID_FIELD",
        {"field": "text", "limit": "5"},
    )


def test_a_huge_error_fits_into_the_trailing_metadata() -> None:
    error = Error(
        errors_pb2.REASON_INVALID_FIELD,
        "很" * 100_000,
        metadata={f"key{index}": "长" * 10_000 for index in range(100)},
        violations=[Violation("x" * 10_000, "很" * 10_000)] * 1000,
    )
    status = error.to_status()
    text_bytes = len(status.message.encode()) * 3
    details_bytes = len(status.SerializeToString()) * 4 // 3
    assert text_bytes + details_bytes < 16 * 1024


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.UNAVAILABLE, "PEER_UNAVAILABLE"),
        (grpc.StatusCode.CANCELLED, "PEER_UNAVAILABLE"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
        (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "TEXT_TOO_LONG"),
        (grpc.StatusCode.UNKNOWN, "INTERNAL"),
    ],
)
def test_a_status_without_a_reason_gets_the_nearest_one(code: grpc.StatusCode, reason: str) -> None:
    for trailing in (grpc.aio.Metadata(), grpc.aio.Metadata((STATUS_KEY, b"\xff\xff"))):
        error = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing)
        assert from_rpc_error(error).reason_name == reason


def test_shorthands() -> None:
    assert (not_found("agent-1").message, not_found("agent-1").code) == (
        "agent-1 does not exist",
        grpc.StatusCode.NOT_FOUND,
    )
    assert not_implemented("ImportAgent").code is grpc.StatusCode.UNIMPLEMENTED
    assert "ImportAgent" in repr(not_implemented("ImportAgent"))


def test_a_group_speaks_through_the_member_that_is_understood() -> None:
    group = ExceptionGroup("work", [ValueError("x"), ExceptionGroup("more", [not_found("agent-1")])])
    assert translate(group).reason_name == "NOT_FOUND"
    assert translate(ExceptionGroup("work", [ValueError("x")])).reason_name == "INTERNAL"


def test_a_bound_credential_acts_for_its_user_only() -> None:
    with call.enter(Call(Principal("acme", "someone", user="ann"))):
        assert acting_user("") == acting_user("ann") == "ann"
        with pytest.raises(Error) as raised:
            acting_user("bob")
        assert raised.value.reason_name == "USER_NOT_ALLOWED"
    with call.enter(Call(Principal("acme", "someone"))):
        assert acting_user("") == ""
        assert acting_user("bob") == "bob"


def test_outside_a_call_there_is_none() -> None:
    assert call.find() is None
    assert call.remaining() is None
    assert call.trace_id() == ""
    with pytest.raises(LookupError):
        call.current()
