"""The only SQL of core memory. Every function works inside the caller's tenant transaction."""

from mneme.core_memory.store.tables import metadata

__all__ = ["metadata"]
