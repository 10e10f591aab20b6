"""Checks that the contract's field rules cannot state: of one passage, of a vector, of recalled text."""

from __future__ import annotations

import json
import math
from datetime import datetime
from typing import Any

import numpy as np

from mneme.archival.records import Draft, Embedded
from mneme.errors.v1 import errors_pb2
from mneme.runtime.errors import Error, invalid

KIND_SUMMARY = 5
MAX_METADATA_BYTES = 16 * 1024

# Half a per cent is far above rounding and far below any vector that somebody forgot to normalise.
_LENGTH_TOLERANCE = 0.005


def check_draft(draft: Draft) -> None:
    """Returns when a passage can be stored.

    Raises:
        Error: INVALID_FIELD, TEXT_TOO_LONG or INVALID_TIME_RANGE, naming the field below `passage`.
    """
    check_text(draft.text)
    check_metadata("passage.metadata", draft.metadata)
    check_span("passage.valid_to", draft.valid_from, draft.valid_to)
    if draft.document_end < draft.document_start:
        raise invalid("passage.document.end_char", f"{draft.document_end} is before start_char {draft.document_start}")
    check_recalled(from_recall=draft.provenance.from_recall, kind=draft.kind)


def check_text(text: str) -> None:
    """Raises INVALID_FIELD for a text in which there is nothing to find."""
    if not text.strip():
        raise invalid("passage.text", "must not be empty")


def check_recalled(*, from_recall: bool, kind: int) -> None:
    """Refuses text that a search returned as a new fact.

    A model that stores what it was just shown makes a memory of its memory; each round makes it look better founded.
    What condenses recalled text is new, and says so by its kind: SUMMARY.
    """
    if from_recall and kind != KIND_SUMMARY:
        raise invalid(
            "passage.provenance.from_recall",
            "text that came from recall is stored already; only a passage of kind SUMMARY may rest on it",
        )


def check_metadata(field: str, metadata: dict[str, Any]) -> None:
    """Raises TEXT_TOO_LONG for metadata of more than 16 KiB as JSON."""
    size = len(json.dumps(metadata, ensure_ascii=False, separators=(",", ":")).encode())
    if size > MAX_METADATA_BYTES:
        raise invalid(
            field,
            f"{size} bytes as JSON, at most {MAX_METADATA_BYTES} are accepted",
            errors_pb2.REASON_TEXT_TOO_LONG,
            size=str(size),
            limit=str(MAX_METADATA_BYTES),
        )


def check_span(field: str, start: datetime | None, end: datetime | None) -> None:
    """Raises INVALID_TIME_RANGE for a span that ends before it starts."""
    if start is not None and end is not None and end < start:
        problem = f"{end.isoformat()} is before the start {start.isoformat()}"
        raise invalid(field, problem, errors_pb2.REASON_INVALID_TIME_RANGE)


def check_vector(field: str, embedded: Embedded, *, space_id: str, dimensions: int) -> None:
    """Returns when a vector that was handed in belongs to the active space.

    Args:
        field: Name of the field that holds it.
        embedded: The vector, and the space its sender names.
        space_id: The active space.
        dimensions: Its dimensions.

    Raises:
        Error: DIMENSION_MISMATCH for another space or length; INVALID_FIELD when its Euclidean length is not 1.
    """
    if embedded.space_id != space_id:
        problem = f"belongs to the space '{embedded.space_id}', the active space is '{space_id}'"
        raise _mismatch(field, problem, embedded, space_id, dimensions)
    if len(embedded.values) != dimensions:
        problem = f"{len(embedded.values)} dimensions, the space '{space_id}' has {dimensions}"
        raise _mismatch(field, problem, embedded, space_id, dimensions)
    # In double precision, where no square of a float overflows.
    length = float(np.linalg.norm(embedded.values.astype(np.float64)))
    if not math.isfinite(length) or abs(length - 1) > _LENGTH_TOLERANCE:
        raise invalid(field, f"has the length {length:.4g}, it must be normalised to 1", length=f"{length:.4g}")


def _mismatch(field: str, problem: str, embedded: Embedded, space_id: str, dimensions: int) -> Error:
    return invalid(
        field,
        problem,
        errors_pb2.REASON_DIMENSION_MISMATCH,
        dimensions=str(len(embedded.values)),
        expected=str(dimensions),
        space=space_id,
        vector_space=embedded.space_id,
    )
