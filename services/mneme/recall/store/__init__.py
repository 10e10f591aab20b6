"""The only SQL of recall. Every function works inside the caller's transaction."""

from mneme.recall.store.tables import metadata

__all__ = ["metadata"]
