"""Records of an export: the contract's messages as JSON, in portions that a stream can carry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from google.protobuf import json_format
from google.protobuf.message import Message

from mneme.common.v1 import common_pb2
from mneme.errors.v1 import errors_pb2
from mneme.runtime import pages
from mneme.runtime.errors import Error

PAGE_ROWS = 200
"""Rows read at once."""


def record(kind: str, message: Message) -> common_pb2.ExportRecord:
    """Returns a message as a record, with the proto's field names; the same message gives the same bytes."""
    text = json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None, sort_keys=True)
    return common_pb2.ExportRecord(kind=kind, record_json=text.encode())


def portions(records: Iterable[common_pb2.ExportRecord]) -> Iterator[list[common_pb2.ExportRecord]]:
    """Yields the records in lists of at most 3 MiB, or of one larger record."""
    waiting: list[common_pb2.ExportRecord] = []
    size = 0
    for one in records:
        bytes_of_one = one.ByteSize()
        if waiting and size + bytes_of_one > pages.PAGE_BYTES:
            yield waiting
            waiting, size = [], 0
        waiting.append(one)
        size += bytes_of_one
    if waiting:
        yield waiting


def subject_of(subject: common_pb2.PurgeSubject) -> tuple[str, str]:
    """Returns the kind of an export's subject, `agent` or `user`, and its id.

    Raises:
        Error: INVALID_FIELD for anything else.
    """
    kind = subject.WhichOneof("subject")
    if kind not in ("agent_id", "user_id") or not getattr(subject, kind):
        raise Error(errors_pb2.REASON_INVALID_FIELD, "subject: must name an agent or a user")
    return kind.removesuffix("_id"), getattr(subject, kind)
