from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mneme.runtime import call, telemetry
from mneme.runtime.call import Call, Principal
from mneme.settings import TelemetrySettings


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Standard error with JSON logs; logging is put back afterwards."""
    root, mneme = logging.getLogger(), logging.getLogger("mneme")
    before = (list(root.handlers), root.level, mneme.level)
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    telemetry.setup_logs(TelemetrySettings(log_format="json"))
    yield written
    structlog.reset_defaults()
    root.handlers, root.level = before[0], before[1]
    mneme.setLevel(before[2])


def test_a_line_names_the_call_and_the_trace(lines: io.StringIO) -> None:
    telemetry.tracing()
    log = structlog.stdlib.get_logger("mneme.test")
    with call.enter(Call(Principal("acme", "ann"), method="a.B/C")), telemetry.span("work"):
        log.info("happened", count=3)
        trace_id = call.trace_id()
    line = json.loads(lines.getvalue())
    assert (line["event"], line["count"], line["level"]) == ("happened", 3, "info")
    assert (line["tenant"], line["actor"], line["method"]) == ("acme", "ann", "a.B/C")
    assert line["trace_id"] == trace_id
    assert len(trace_id) == 32


def test_tracebacks_do_not_show_local_variables(lines: io.StringIO) -> None:
    hidden = "what the user wrote"
    try:
        raise ValueError(len(hidden))  # noqa: TRY301
    except ValueError:
        structlog.stdlib.get_logger("mneme.test").exception("failed")
    line = json.loads(lines.getvalue())
    assert line["exception"][0]["exc_type"] == "ValueError"
    assert hidden not in lines.getvalue().replace('hidden = "what the user wrote"', "")


def test_other_libraries_speak_json_too_and_debug_is_off(lines: io.StringIO) -> None:
    logging.getLogger("somewhere").warning("count %s", 5)
    logging.getLogger("mneme.test").debug("silent")
    assert json.loads(lines.getvalue())["event"] == "count 5"


def test_a_failing_span_tells_the_type_only() -> None:
    exporter = InMemorySpanExporter()
    telemetry.tracing().export_to(exporter, at_once=True)

    def fail() -> None:
        with telemetry.span("chat offline", **{"gen_ai.request.model": "offline"}):
            raise ValueError("what the user wrote")

    with pytest.raises(ValueError, match="user"):
        fail()
    [span] = exporter.get_finished_spans()
    assert dict(span.attributes or {}) == {"gen_ai.request.model": "offline", "error.type": "ValueError"}
    assert not span.events
    assert "wrote" not in span.to_json()
