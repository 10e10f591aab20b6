"""Logs and traces of the suite.

Log lines are an event name with key-values, and carry the trace and the running call. Neither logs nor spans
ever hold the text of a message, block or passage. Every call has a trace id, also when no trace is exported:
errors, the audit and the log name it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any

import structlog
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, TraceState
from opentelemetry.util.types import Attributes, AttributeValue

from mneme.runtime import call
from mneme.settings import TelemetrySettings

_FLUSH_MILLISECONDS = 3000

tracer = trace.get_tracer("mneme")


class Tracing:
    """The process's span pipeline. Created once; later set-ups (tests) only add exporters to it."""

    def __init__(self, provider: TracerProvider, sampler: _Switch) -> None:
        self._provider = provider
        self._sampler = sampler

    def export_to(self, exporter: SpanExporter, *, ratio: float = 1.0, at_once: bool = False) -> None:
        """Records spans from now on and sends them to `exporter`, in batches or each at once."""
        processor = SimpleSpanProcessor(exporter) if at_once else BatchSpanProcessor(exporter)
        self._provider.add_span_processor(processor)
        self._sampler.delegate = ParentBased(TraceIdRatioBased(ratio))

    def flush(self) -> None:
        """Sends what is waiting, for at most three seconds."""
        self._provider.force_flush(_FLUSH_MILLISECONDS)


class _Switch(Sampler):
    """Records nothing until an exporter is there; unrecorded spans still have ids, at almost no cost."""

    def __init__(self) -> None:
        self.delegate: Sampler = ALWAYS_OFF

    def should_sample(
        self,
        parent_context: Any,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        return self.delegate.should_sample(parent_context, trace_id, name, kind, attributes, links)

    def get_description(self) -> str:
        return self.delegate.get_description()


_installed: list[Tracing] = []


def tracing(resource: Mapping[str, AttributeValue] | None = None) -> Tracing:
    """Returns the process's span pipeline, made at the first call; without an exporter it records nothing."""
    if not _installed:
        sampler = _Switch()
        provider = TracerProvider(resource=Resource.create(resource or {}), sampler=sampler, shutdown_on_exit=False)
        trace.set_tracer_provider(provider)
        _installed.append(Tracing(provider, sampler))
    return _installed[0]


def setup(settings: TelemetrySettings, *, services: Sequence[str], version: str = "", worker_id: str = "") -> Tracing:
    """Configures logs and traces of this process; returns the span pipeline, to be flushed at the end.

    Args:
        settings: The telemetry section.
        services: Names of the hosted services; `service.name` is the only one, or `mneme`.
        version: Version of the suite.
        worker_id: Names the process.
    """
    setup_logs(settings)
    pipeline = tracing(
        {
            "service.namespace": settings.service_namespace,
            "service.name": services[0] if len(services) == 1 else "mneme",
            "service.version": version,
            "service.instance.id": worker_id,
        }
    )
    if settings.otlp_endpoint:
        insecure = not settings.otlp_endpoint.startswith("https://")
        exporter = OTLPSpanExporter(endpoint=settings.otlp_endpoint, insecure=insecure)
        pipeline.export_to(exporter, ratio=settings.sample_ratio)
    return pipeline


def setup_logs(settings: TelemetrySettings) -> None:
    """Sends structlog's and the standard library's lines to standard error in one shape."""
    console = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_call,
    ]
    # Tracebacks without local variables: those hold the texts of messages.
    plain = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    renderer: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if console
        else [structlog.processors.ExceptionRenderer(plain), structlog.processors.JSONRenderer(ensure_ascii=False)]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(level, logging.INFO), force=True)
    logging.getLogger("mneme").setLevel(level)
    for noisy in ("httpx", "botocore", "urllib3", "alembic.runtime.plugins"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _add_call(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Adds the trace and the running call, only when a line is written: a silent call pays nothing."""
    span = trace.get_current_span().get_span_context()
    if span.trace_id:
        event.setdefault("trace_id", format(span.trace_id, "032x"))
        event.setdefault("span_id", format(span.span_id, "016x"))
    running = call.find()
    if running is not None:
        event.setdefault("tenant", running.principal.tenant)
        event.setdefault("actor", running.principal.actor)
        if running.method:
            event.setdefault("method", running.method)
    return event


@contextmanager
def span(name: str, **attributes: AttributeValue) -> Iterator[Span]:
    """Runs the block inside a span; an exception marks it as failed by its type only, as texts may hold
    contents.

    Args:
        name: Low-cardinality name, `chat <model>`.
        attributes: Values by their names; dotted ones are given as `**{"gen_ai.request.model": model}`.
    """
    with tracer.start_as_current_span(name, record_exception=False, set_status_on_exception=False) as current:
        for key, value in attributes.items():
            current.set_attribute(key, value)
        try:
            yield current
        except BaseException as failure:
            current.set_status(StatusCode.ERROR)
            current.set_attribute("error.type", type(failure).__qualname__)
            raise
