"""How runs end: the state, the terminal event and the measurements."""

from __future__ import annotations

from mneme.common.v1 import common_pb2
from mneme.errors.v1 import errors_pb2
from mneme.orchestrator import events
from mneme.orchestrator.current import Current
from mneme.orchestrator.records import Ending
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.runtime.errors import Error


def completed(current: Current, stop_reason: pb.StopReason.ValueType) -> Ending:
    """It ended well."""
    return Ending(pb.RUN_STATE_COMPLETED, stop_reason, model_asked=current.model_asked)


def cancelled(current: Current) -> Ending:
    """It was cancelled."""
    failure = events.failure_of(cancelled_error()).SerializeToString()
    return Ending(pb.RUN_STATE_CANCELLED, pb.STOP_REASON_CANCELLED, failure, model_asked=current.model_asked)


def cancelled_error() -> Error:
    """Says that a run was cancelled."""
    return Error(errors_pb2.REASON_INVALID_STATE, "the run was cancelled", metadata={"state": "CANCELLED"})


def failed(current: Current, error: Error) -> Ending:
    """It failed; what a retry may mend becomes a dead letter."""
    max_steps = error.reason == errors_pb2.REASON_MAX_STEPS
    return Ending(
        pb.RUN_STATE_FAILED,
        pb.STOP_REASON_MAX_STEPS if max_steps else pb.STOP_REASON_FAILED,
        events.failure_of(error).SerializeToString(),
        dead_letter=not max_steps,
        model_asked=current.model_asked,
    )


def timed_out(current: Current) -> Ending:
    """Its time was over; what it waited for last is the reason."""
    seconds = f"{current.profile.run_timeout.total_seconds():g}"
    waited = current.last_error or Error(errors_pb2.REASON_DEADLINE_EXCEEDED, f"the run did not end within {seconds} s")
    error = Error(waited.reason, waited.message, metadata={**waited.metadata, "seconds": seconds})
    return Ending(
        pb.RUN_STATE_FAILED,
        pb.STOP_REASON_TIMEOUT,
        events.failure_of(error).SerializeToString(),
        dead_letter=True,
        model_asked=current.model_asked,
    )


def terminal_event(current: Current, ending: Ending) -> pb.RunEvent:
    """The run's last event."""
    if ending.failure is not None:
        failure = common_pb2.Failure.FromString(ending.failure)
        return events.failed(ending.stop_reason, failure, dead_lettered=ending.dead_letter)
    return events.completed(
        ending.stop_reason,
        step_count=current.step_count,
        bill=current.bill,
        service_times=current.times,
        duration=events.now() - current.run.create_time,
    )


def measure(current: Current, ending: Ending) -> None:
    """Counts an ended run."""
    metrics = current.deps.metrics
    outcome = pb.StopReason.Name(ending.stop_reason).removeprefix("STOP_REASON_").lower()
    seconds = (events.now() - current.run.create_time).total_seconds()
    metrics.turn_seconds.labels(outcome).observe(max(0.0, seconds))
    metrics.turn_steps.labels(outcome).observe(current.step_count)
    if ending.dead_letter:
        metrics.dead_letters.labels(outcome).inc()
