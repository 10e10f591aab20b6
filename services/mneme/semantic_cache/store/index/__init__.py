"""Finds the entries whose questions mean something near: one port, three adapters, chosen by what the server can do."""

from mneme.semantic_cache.store.index.choosing import ChosenIndex
from mneme.semantic_cache.store.index.port import VectorIndex
from mneme.semantic_cache.store.index.process import ProcessIndex
from mneme.semantic_cache.store.index.search import SearchIndex
from mneme.semantic_cache.store.index.vector_set import VectorSetIndex

__all__ = ["ChosenIndex", "ProcessIndex", "SearchIndex", "VectorIndex", "VectorSetIndex"]
