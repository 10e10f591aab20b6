"""What the cache keeps: entries and leases in Redis, judged samples and tombstones in PostgreSQL."""

from mneme.semantic_cache.store.entries import EntryStore, Held, Leased, Purged, Stored
from mneme.semantic_cache.store.judged import JudgedStore, Sample, Stratum, Subject, metadata

__all__ = [
    "EntryStore",
    "Held",
    "JudgedStore",
    "Leased",
    "Purged",
    "Sample",
    "Stored",
    "Stratum",
    "Subject",
    "metadata",
]
