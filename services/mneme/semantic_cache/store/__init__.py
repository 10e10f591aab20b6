"""What the cache keeps: entries and leases in Redis, judged samples and tombstones in PostgreSQL."""

from mneme.semantic_cache.store.entries import EntryStore, Found, Held, Leased, Pending, Purged
from mneme.semantic_cache.store.judged import (
    Counted,
    HitSample,
    JudgedStore,
    Sample,
    Settled,
    Stratum,
    Subject,
    Taken,
    metadata,
)
from mneme.semantic_cache.store.rows import Embedded, Row, Stored
from mneme.semantic_cache.store.worth import WorthStore

__all__ = [
    "Counted",
    "Embedded",
    "EntryStore",
    "Found",
    "Held",
    "HitSample",
    "JudgedStore",
    "Leased",
    "Pending",
    "Purged",
    "Row",
    "Sample",
    "Settled",
    "Stored",
    "Stratum",
    "Subject",
    "Taken",
    "WorthStore",
    "metadata",
]
