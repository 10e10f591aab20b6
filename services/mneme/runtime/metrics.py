"""The one catalogue of the suite's Prometheus instruments.

A dashboard panel or an alert may only name a metric of this file. Labels are bounded (method, code, model,
outcome): never ids, tenants or users.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SLOW = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_COUNT = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)


class Metrics:
    """The instruments of one process, in a registry of their own."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._calls()
        self._stores()
        self._models()
        self._agents()
        self._memory()
        self._cache()

    def _calls(self) -> None:
        self.rpc_seconds = self._histogram(
            "mneme_rpc_server_duration_seconds",
            "Time of a served call by its outcome.",
            ("method", "code"),
            _FAST,
        )
        self.rpc_in_flight = self._gauge("mneme_rpc_server_in_flight", "Calls being served.", ("method",))
        self.rpc_refused = self._counter(
            "mneme_rpc_server_failures_total", "Served calls that failed, by reason.", ("method", "reason")
        )
        self.peer_calls = self._counter("mneme_peer_calls_total", "Calls to other services.", ("service",))
        self.loop_lag_seconds = self._gauge(
            "mneme_event_loop_lag_seconds", "How late the event loop ran its last readiness round.", ()
        )
        self.ready = self._gauge("mneme_service_ready", "1 while a service is SERVING.", ("service",))

    def _stores(self) -> None:
        self.pool_in_use = self._gauge("mneme_database_pool_in_use", "Database connections in use.", ("pool",))
        self.pool_waiting = self._gauge("mneme_database_pool_waiting", "Waits for a connection.", ("pool",))
        self.transaction_seconds = self._histogram(
            "mneme_database_transaction_duration_seconds",
            "Time of a transaction, the wait for a connection included.",
            ("pool",),
            _FAST,
        )
        self.redis_failures = self._counter("mneme_redis_failures_total", "Uses of Redis that failed.", ())
        self.redis_breaker_open = self._gauge("mneme_redis_breaker_open", "1 while the breaker is open.", ())

    def _models(self) -> None:
        self.model_seconds = self._histogram(
            "mneme_model_duration_seconds", "Time of a model call.", ("provider", "model", "outcome"), _SLOW
        )
        self.model_first_token_seconds = self._histogram(
            "mneme_model_first_token_seconds",
            "Time until a model's first token.",
            ("provider", "model"),
            _SLOW,
        )
        self.model_tokens = self._counter(
            "mneme_model_tokens_total",
            "Tokens used; kind is input, output, cache_read, ….",
            ("model", "kind"),
        )
        self.embedded_texts = self._counter(
            "mneme_embedding_texts_total",
            "Texts embedded; source is cache, joined, peer or provider.",
            ("model", "source"),
        )
        self.embedding_batch_texts = self._histogram(
            "mneme_embedding_batch_texts", "Texts in one call of the provider.", ("model",), _COUNT
        )
        self.embedding_waiting_texts = self._gauge(
            "mneme_embedding_waiting_texts", "Texts that wait for a call of the provider.", ("model", "priority")
        )
        self.embedding_calls_in_flight = self._gauge(
            "mneme_embedding_calls_in_flight", "Calls of the provider that run.", ("model",)
        )
        self.embedding_calls_limit = self._gauge(
            "mneme_embedding_calls_limit", "Calls of the provider that may run, as learned from it.", ("model",)
        )
        self.embedding_breaker_open = self._gauge(
            "mneme_embedding_breaker_open", "1 while the provider does not answer and is left alone.", ("model",)
        )
        self.embedding_throttled_calls = self._counter(
            "mneme_embedding_throttled_calls_total", "Calls that the provider refused as too many.", ("model",)
        )
        self.embedding_refused_texts = self._counter(
            "mneme_embedding_refused_texts_total", "Texts of calls that failed, by reason.", ("model", "reason")
        )
        self.embedding_saved_tokens = self._counter(
            "mneme_embedding_saved_tokens_total",
            "Tokens not billed, as the vector was there or asked for already; source is cache, joined or peer.",
            ("model", "source"),
        )
        self.embedding_saved_dollars = self._counter(
            "mneme_embedding_saved_dollars_total", "Price of the saved tokens in US dollars.", ("model",)
        )

    def _agents(self) -> None:
        self.turn_seconds = self._histogram(
            "mneme_turn_duration_seconds",
            "Time of a run from accepted to its terminal event.",
            ("outcome",),
            _SLOW,
        )
        self.turn_steps = self._histogram("mneme_turn_steps", "Steps of a run.", ("outcome",), _COUNT)
        self.tool_calls = self._counter("mneme_tool_calls_total", "Tool calls of models.", ("tool", "outcome"))
        self.mailbox_depth = self._gauge("mneme_mailbox_depth", "Events that wait for a worker.", ())
        self.mailbox_oldest_seconds = self._gauge(
            "mneme_mailbox_oldest_seconds", "Age of the oldest waiting event.", ()
        )
        self.dead_letters = self._counter("mneme_dead_letters_total", "Events given up.", ("reason",))
        self.evicted_messages = self._counter("mneme_window_evicted_messages_total", "Messages evicted.", ())

    def _memory(self) -> None:
        self.search_seconds = self._histogram(
            "mneme_search_duration_seconds", "Time of a search in a store.", ("service", "kind"), _FAST
        )
        self.search_hits = self._histogram("mneme_search_hits", "Hits of a search.", ("service", "kind"), _COUNT)
        self.memory_writes = self._counter("mneme_memory_writes_total", "Writes to memory.", ("service", "kind"))

    def _cache(self) -> None:
        self.cache_lookups = self._counter(
            "mneme_semantic_cache_lookups_total",
            "Lookups; outcome is exact, semantic, miss, ….",
            ("outcome",),
        )
        self.cache_lookup_seconds = self._histogram(
            "mneme_semantic_cache_lookup_duration_seconds", "Time of a lookup.", ("outcome",), _FAST
        )
        self.cache_refusals = self._counter(
            "mneme_semantic_cache_refusals_total", "Lookups that a guard refused.", ("guard",)
        )
        self.cache_stratum_changes = self._counter(
            "mneme_semantic_cache_stratum_changes_total", "Strata that changed; state is closed or opened.", ("state",)
        )
        self.cache_samples = self._counter(
            "mneme_semantic_cache_samples_total",
            "Pairs to judge; outcome is kept, dropped, right, wrong or unclear.",
            ("outcome",),
        )
        self.cache_evictions = self._counter(
            "mneme_semantic_cache_evictions_total", "Entries that went for a tenant's quota.", ()
        )

    def _counter(self, name: str, documentation: str, labels: Sequence[str]) -> Counter:
        return Counter(name, documentation, labels, registry=self.registry)

    def _gauge(self, name: str, documentation: str, labels: Sequence[str]) -> Gauge:
        return Gauge(name, documentation, labels, registry=self.registry)

    def _histogram(self, name: str, documentation: str, labels: Sequence[str], buckets: Sequence[float]) -> Histogram:
        return Histogram(name, documentation, labels, registry=self.registry, buckets=buckets)


class MetricsPage:
    """The `/metrics` page of a process, served by a thread; OpenMetrics with exemplars when asked for."""

    def __init__(self, server: WSGIServer, thread: threading.Thread) -> None:
        self._server = server
        self._thread = thread
        self.port: int = server.server_port
        """Port it listens on."""

    @classmethod
    def open(cls, metrics: Metrics, *, host: str, port: int) -> MetricsPage:
        """Starts to serve the page; port 0 takes a free one.

        Raises:
            OSError: The port is taken.
        """
        return cls(*start_http_server(port, host, registry=metrics.registry))

    def close(self) -> None:
        """Stops serving and frees the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)
