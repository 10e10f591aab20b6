"""What the cache keeps: entries and leases in Redis, judged samples and tombstones in PostgreSQL."""

from mneme.semantic_cache.store.entries import EntryStore, Found, Held, Leased, Pending, Purged
from mneme.semantic_cache.store.judged import JudgedStore, Sample, Stratum, Subject, metadata
from mneme.semantic_cache.store.rows import Embedded, Row, Stored

__all__ = [
    "Embedded",
    "EntryStore",
    "Found",
    "Held",
    "JudgedStore",
    "Leased",
    "Pending",
    "Purged",
    "Row",
    "Sample",
    "Stored",
    "Stratum",
    "Subject",
    "metadata",
]
