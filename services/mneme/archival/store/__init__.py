"""The only SQL of archival memory. Each function works inside the tenant transaction that its caller opened."""

from mneme.archival.store.tables import metadata

__all__ = ["metadata"]
