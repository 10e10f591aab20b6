"""Between the contract's messages and the records of this service."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from google.protobuf import field_mask_pb2, json_format, struct_pb2, timestamp_pb2

from mneme.archival import guards
from mneme.archival.ranking import Ranked
from mneme.archival.records import (
    Change,
    ChangeFilter,
    Comparison,
    Condition,
    Draft,
    Embedded,
    Filter,
    Ingest,
    KnowledgeBase,
    MemoryChange,
    Near,
    Owner,
    Passage,
    PassageVersion,
    Provenance,
    PurgeCount,
    Settled,
)
from mneme.archival.v1 import archival_pb2 as pb
from mneme.common.v1 import common_pb2
from mneme.errors.v1 import errors_pb2
from mneme.runtime import call, ids
from mneme.runtime.errors import Error, invalid

DEFAULT_IMPORTANCE = 0.5

_PASSAGE_FIELDS = ("text", "kind", "importance", "tags", "metadata", "valid_from", "valid_to", "quarantined")
_KNOWLEDGE_BASE_FIELDS = ("display_name", "description", "metadata")
_CHANGE_FIELDS = (
    "sequence",
    "actor",
    "user_id",
    "kind",
    "resource_id",
    "agent_id",
    "knowledge_base_id",
    "old_version",
    "new_version",
    "old_sha256",
    "new_sha256",
    "old_chars",
    "new_chars",
    "trace_id",
)


def owner(message: pb.PassageOwner, field: str = "owner") -> Owner:
    """Returns the owner a request names. Raises INVALID_FIELD for none."""
    if message.WhichOneof("owner") is None:
        raise invalid(field, "needs agent_id or knowledge_base_id")
    return Owner(message.agent_id, message.knowledge_base_id)


def draft(holder: pb.InsertPassageRequest | pb.PassageItem, vector: Embedded | None) -> Draft:
    """Returns the passage to store, under the user that the caller may act for.

    Its id is a new one, unless a service names one to make its write repeatable.

    Raises:
        Error: USER_NOT_ALLOWED for another user than the credential's.
    """
    message = holder.passage
    named = message.passage_id if call.current().principal.service else ""
    return Draft(
        passage_id=named or ids.new("passage"),
        named=bool(named),
        user_id=call.acting_user(message.user_id),
        text=message.text,
        sha256=sha256(message.text),
        kind=message.kind or pb.PASSAGE_KIND_FACT,
        importance=message.importance if message.HasField("importance") else DEFAULT_IMPORTANCE,
        tags=tuple(dict.fromkeys(message.tags)),
        metadata=struct("passage.metadata", message.metadata),
        valid_from=time(message, "valid_from"),
        valid_to=time(message, "valid_to"),
        quarantined=message.quarantined,
        provenance=provenance(message.provenance),
        document_id=message.document.document_id,
        document_start=message.document.start_char,
        document_end=message.document.end_char or _end_of(message),
        embedded=vector,
        supersedes=tuple(dict.fromkeys(holder.supersedes_passage_ids)),
        supersede_reason=holder.supersede_reason,
    )


def _end_of(message: pb.Passage) -> int:
    """Returns where a text ends in its document; 0 for a text of none."""
    begins = message.document.start_char
    return begins + len(message.text) if message.document.document_id or begins else 0


def sha256(text: str) -> bytes:
    """Returns the hash by which equal texts are recognised."""
    return hashlib.sha256(text.encode()).digest()


def embedded(message: common_pb2.Vector) -> Embedded:
    """Returns a vector that was handed in, not checked yet."""
    return Embedded(message.space_id, np.array(message.values, dtype=np.float32))


def provenance(message: common_pb2.Provenance) -> Provenance:
    """Returns why something is written."""
    return Provenance(
        reason=message.reason,
        source_message_ids=tuple(message.source_message_ids),
        trust_level=message.trust_level,
        from_recall=message.from_recall,
        step_id=message.step_id,
    )


def passage_change(request: pb.UpdatePassageRequest) -> Change:
    """Returns the new values of the fields that the mask names; without a mask, of those that are set.

    Raises:
        Error: INVALID_UPDATE_MASK, or what is wrong with a value.
    """
    message, values = request.passage, {}
    for name in _masked(request.update_mask, message, _PASSAGE_FIELDS, "passage"):
        values.update(_passage_value(message, name))
    if not values:
        raise invalid("passage", "names no field to change")
    return Change(values, provenance(request.provenance))


def _passage_value(message: pb.Passage, name: str) -> dict[str, Any]:
    if name == "text":
        guards.check_text(message.text)
        return {"text": message.text, "content_sha256": sha256(message.text)}
    if name == "metadata":
        metadata = struct("passage.metadata", message.metadata)
        guards.check_metadata("passage.metadata", metadata)
        return {"metadata_": metadata}
    if name in ("valid_from", "valid_to"):
        return {name: time(message, name)}
    plain = {
        "kind": message.kind or pb.PASSAGE_KIND_FACT,
        "importance": message.importance if message.HasField("importance") else DEFAULT_IMPORTANCE,
        "tags": list(dict.fromkeys(message.tags)),
        "quarantined": message.quarantined,
    }
    return {name: plain[name]}


def knowledge_base_values(message: pb.KnowledgeBase, mask: field_mask_pb2.FieldMask | None = None) -> dict[str, Any]:
    """Returns values by column: of all fields, or of those that the mask names.

    Raises:
        Error: INVALID_UPDATE_MASK, or what is wrong with a value.
    """
    names: Sequence[str] = _KNOWLEDGE_BASE_FIELDS
    if mask is not None:
        names = _masked(mask, message, _KNOWLEDGE_BASE_FIELDS, "knowledge_base")
    values: dict[str, Any] = {name: getattr(message, name) for name in names if name != "metadata"}
    if "metadata" in names:
        values["metadata_"] = struct("knowledge_base.metadata", message.metadata)
        guards.check_metadata("knowledge_base.metadata", values["metadata_"])
    if not values.get("display_name", "named").strip():
        raise invalid("knowledge_base.display_name", "must not be empty")
    return values


def _masked(
    mask: field_mask_pb2.FieldMask, message: pb.Passage | pb.KnowledgeBase, known: Sequence[str], resource: str
) -> list[str]:
    if not mask.paths:
        populated = {field.name for field, _ in message.ListFields()}
        return [name for name in known if name in populated]
    for path in mask.paths:
        if path.removeprefix(f"{resource}.") not in known:
            problem = f"unknown or unchangeable path '{path}'"
            raise invalid("update_mask", problem, errors_pb2.REASON_INVALID_UPDATE_MASK, path=path)
    return list(dict.fromkeys(path.removeprefix(f"{resource}.") for path in mask.paths))


def search_filter(message: pb.PassageFilter, *, all_users: bool) -> Filter:
    """Returns which passages a request considers.

    Args:
        message: The filter.
        all_users: Whether the caller sees passages of every user when it names none.

    Raises:
        Error: USER_NOT_ALLOWED; INVALID_TIME_RANGE.
    """
    user = call.acting_user(message.user_id)
    start, end = time(message.create_time_range, "start"), time(message.create_time_range, "end")
    guards.check_span("filter.create_time_range", start, end)
    return Filter(
        user_id=user,
        all_users=all_users and not user,
        all_tags=tuple(message.all_tags),
        any_tags=tuple(message.any_tags),
        metadata=struct("filter.metadata", message.metadata) if message.HasField("metadata") else None,
        kinds=tuple(dict.fromkeys(kind or pb.PASSAGE_KIND_FACT for kind in message.kinds)),
        created_from=start,
        created_before=end,
        as_of=time(message, "as_of"),
        recorded_as_of=time(message, "recorded_as_of"),
        include_quarantined=message.include_quarantined,
        include_superseded=message.include_superseded,
        conditions=tuple(_condition(one, f"filter.conditions[{n}]") for n, one in enumerate(message.conditions)),
        document_ids=tuple(dict.fromkeys(message.document_ids)),
        index_states=tuple(dict.fromkeys(message.index_states)),
    )


def _condition(message: pb.MetadataCondition, field: str) -> Condition:
    comparison = Comparison(message.comparison or pb.COMPARISON_EQUAL)
    kind = message.WhichOneof("value")
    if (kind is None) != (comparison in (Comparison.PRESENT, Comparison.ABSENT)):
        raise invalid(field, "needs a value" if kind is None else "has a value, which PRESENT and ABSENT do not take")
    if kind == "flag" and comparison not in (Comparison.EQUAL, Comparison.NOT_EQUAL):
        raise invalid(f"{field}.flag", "can only be equal or not")
    if kind == "number" and not math.isfinite(message.number):
        raise invalid(f"{field}.number", "must be finite")
    value = time(message, "time") if kind == "time" else getattr(message, kind) if kind else None
    return Condition(tuple(message.path), comparison, value)


def change_filter(request: pb.ListMemoryChangesRequest) -> ChangeFilter:
    """Returns which entries of the audit a request asks for. Raises USER_NOT_ALLOWED; INVALID_TIME_RANGE."""
    start, end = time(request.time_range, "start"), time(request.time_range, "end")
    guards.check_span("time_range", start, end)
    return ChangeFilter(
        agent_id=request.agent_id,
        knowledge_base_id=request.knowledge_base_id,
        user_id=call.acting_user(request.user_id),
        passage_id=request.passage_id,
        actor=request.actor,
        start=start,
        end=end,
    )


def passage_message(passage: Passage) -> pb.Passage:
    """Returns a stored passage as the contract shows it."""
    message = pb.Passage(
        passage_id=passage.id,
        owner=_owner_message(passage.owner),
        user_id=passage.user_id,
        text=passage.text,
        kind=pb.PassageKind.ValueType(passage.kind),
        importance=passage.importance,
        tags=passage.tags,
        superseded_by=passage.superseded_by,
        superseded_reason=passage.superseded_reason,
        quarantined=passage.quarantined,
        provenance=_provenance_message(passage),
        index_state=common_pb2.IndexState.ValueType(passage.index_state),
        index_error=passage.index_error,
        version=passage.version,
        create_time=_timestamp(passage.created_at),
        update_time=_timestamp(passage.updated_at),
        etag=passage.etag,
    )
    if passage.metadata_:
        message.metadata.update(passage.metadata_)
    if passage.valid_from is not None:
        message.valid_from.CopyFrom(_timestamp(passage.valid_from))
    if passage.valid_to is not None:
        message.valid_to.CopyFrom(_timestamp(passage.valid_to))
    if passage.document_id or passage.document_end:
        message.document.document_id = passage.document_id
        message.document.start_char = passage.document_start
        message.document.end_char = passage.document_end
    return message


def exported_message(passage: Passage) -> pb.Passage:
    """Returns a stored passage for an export: what is kept, not how far its indexing is."""
    message = passage_message(passage)
    message.ClearField("index_state")
    message.ClearField("index_error")
    return message


def exported_version(version: PassageVersion) -> pb.PassageVersion:
    """Returns an earlier version of a passage for an export."""
    message = version_message(version)
    message.passage.ClearField("index_state")
    message.passage.ClearField("index_error")
    return message


def version_message(version: PassageVersion) -> pb.PassageVersion:
    """Returns a version as the contract shows it."""
    message = pb.PassageVersion(
        passage=passage_message(version.passage),
        version=version.passage.version,
        start_time=_timestamp(version.passage.updated_at),
        actor=version.actor,
        kind=common_pb2.MemoryChangeKind.ValueType(version.kind),
        provenance=_provenance_message(version.provenance),
        trace_id=version.trace_id,
    )
    if version.recorded_to is not None:
        message.end_time.CopyFrom(_timestamp(version.recorded_to))
    return message


def item_results(settled: Sequence[Settled | Error], position: int = 0) -> list[pb.ItemResult]:
    """Returns a result an item, the first one with index `position`."""
    return [item_result(one, index) for index, one in enumerate(settled, start=position)]


def item_result(settled: Settled | Error, index: int) -> pb.ItemResult:
    """Returns what became of one item."""
    if isinstance(settled, Error):
        return pb.ItemResult(index=index, error=failure_message(settled))
    result = pb.ItemResult(index=index, superseded_passage_ids=settled.superseded)
    if settled.duplicate:
        result.duplicate_of = settled.passage_id
    else:
        result.passage_id = settled.passage_id
    if settled.cut:
        result.piece_ids.extend(one.passage_id for one in settled.stored)
    return result


def near_message(near: Sequence[Near] | None) -> pb.NearPassages:
    """Returns near duplicates as the contract shows them; None for unknown ones."""
    shown = [pb.NearPassage(passage_id=one.passage_id, score=one.cosine) for one in near or ()]
    return pb.NearPassages(passages=shown, known=near is not None)


def ingest_errors(refused: Sequence[tuple[int, bytes]]) -> list[pb.ItemResult]:
    """Returns the refused items of an ingest, given by position and stored failure."""
    return [pb.ItemResult(index=index, error=common_pb2.Failure.FromString(raw)) for index, raw in refused]


def ingest_message(ingest: Ingest, refused: Sequence[tuple[int, bytes]], *, pending: int) -> pb.GetIngestResponse:
    """Returns how far an ingest has come."""
    return pb.GetIngestResponse(
        owner=_owner_message(ingest.owner),
        next_index=ingest.next_index,
        inserted_count=ingest.inserted,
        duplicate_count=ingest.duplicates,
        error_count=ingest.errors,
        errors=ingest_errors(refused),
        passage_count=ingest.passages,
        pending_count=pending,
        create_time=_timestamp(ingest.create_time),
        update_time=_timestamp(ingest.update_time),
    )


def result_message(passage: Passage, ranked: Ranked, *, explain: bool) -> pb.PassageResult:
    """Returns one search result; its cosine and BM25 are always told, the factors on request."""
    parts = common_pb2.ScoreParts(cosine=ranked.cosine, bm25=ranked.bm25, rerank=ranked.rerank)
    if explain:
        factors = {
            "recency": ranked.recency,
            "importance": ranked.importance,
            "validity": ranked.validity,
            "words_share": ranked.words_share,
            "standing": ranked.standing,
        }
        parts.MergeFrom(common_pb2.ScoreParts(**factors))
    return pb.PassageResult(passage=passage_message(passage), score=ranked.score, parts=parts)


def knowledge_base_message(found: KnowledgeBase) -> pb.KnowledgeBase:
    """Returns a knowledge base as the contract shows it."""
    message = pb.KnowledgeBase(
        knowledge_base_id=found.id,
        display_name=found.display_name,
        description=found.description,
        passage_count=found.passage_count,
        revision=found.revision,
        create_time=_timestamp(found.created_at),
        update_time=_timestamp(found.updated_at),
    )
    if found.metadata_:
        message.metadata.update(found.metadata_)
    return message


def change_message(change: MemoryChange) -> common_pb2.MemoryChange:
    """Returns an entry of the audit as the contract shows it."""
    return common_pb2.MemoryChange(
        **{name: getattr(change, name) for name in _CHANGE_FIELDS},
        create_time=_timestamp(change.create_time),
        provenance=_provenance_message(change),
    )


def purge_message(count: PurgeCount) -> common_pb2.PurgeCount:
    """Returns what a purge did to one table."""
    return common_pb2.PurgeCount(store=count.store, removed=count.removed, remaining=count.remaining)


def failure_message(error: Error) -> common_pb2.Failure:
    """Returns why one item was refused."""
    field = error.violations[0].field if error.violations else error.metadata.get("field", "")
    return common_pb2.Failure(reason=error.reason, message=error.message, metadata=error.metadata, field=field)


def struct(field: str, message: struct_pb2.Struct) -> dict[str, Any]:
    """Returns free key-value data. Raises INVALID_FIELD for numbers that JSON does not have."""
    if not message.fields:
        return {}
    try:
        values: dict[str, Any] = json_format.MessageToDict(message)
    except (ValueError, json_format.Error) as error:
        raise invalid(field, "holds a number that is not finite") from error
    return values


def time(message: Any, name: str) -> datetime | None:
    """Returns a timestamp field in UTC; None when it is absent."""
    if not message.HasField(name):
        return None
    stamp: timestamp_pb2.Timestamp = getattr(message, name)
    return stamp.ToDatetime(tzinfo=UTC)


def _owner_message(found: Owner) -> pb.PassageOwner:
    if found.agent_id:
        return pb.PassageOwner(agent_id=found.agent_id)
    return pb.PassageOwner(knowledge_base_id=found.knowledge_base_id)


def _provenance_message(source: Passage | MemoryChange | Provenance) -> common_pb2.Provenance:
    return common_pb2.Provenance(
        reason=source.reason,
        source_message_ids=source.source_message_ids,
        trust_level=common_pb2.TrustLevel.ValueType(source.trust_level),
        from_recall=source.from_recall,
        step_id=source.step_id,
    )


def _timestamp(moment: datetime) -> timestamp_pb2.Timestamp:
    stamp = timestamp_pb2.Timestamp()
    stamp.FromDatetime(moment)
    return stamp
