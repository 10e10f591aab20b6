"""What the orchestrator keeps: frozen values between the store, the loop and the contract.

Enumerations are the contract's numbers (`orchestrator_pb2.RunState` and its kin): a second set would only be
translated back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from mneme.orchestrator.v1 import orchestrator_pb2 as pb

PRIORITY: Mapping[int, int] = {
    pb.EVENT_KIND_USER_MESSAGE: 0,
    pb.EVENT_KIND_SYSTEM: 1,
    pb.EVENT_KIND_INTERACTION: 1,
    pb.EVENT_KIND_TIMED: 2,
}
"""Class of an event in its mailbox: lower is worked on first."""

ENDED = frozenset({pb.RUN_STATE_COMPLETED, pb.RUN_STATE_FAILED, pb.RUN_STATE_CANCELLED})
"""States that a run never leaves, but by a retry of its dead letter."""


class LeaseLostError(Exception):
    """Another worker holds the conversation now: this one must stop, and leave everything as it is."""


@dataclass(frozen=True, slots=True)
class Bill:
    """Tokens and cost."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    model_calls: int = 0
    cost_micro_usd: int = 0

    @property
    def tokens(self) -> int:
        """All tokens, however they were billed."""
        return self.input_tokens + self.output_tokens + self.cache_read_tokens + self.cache_write_tokens

    def __add__(self, other: Bill) -> Bill:
        return Bill(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cache_read_tokens + other.cache_read_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
            self.model_calls + other.model_calls,
            self.cost_micro_usd + other.cost_micro_usd,
        )


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent as stored."""

    agent_id: str
    user_id: str
    state: pb.AgentState.ValueType
    version: int
    definition: bytes
    """The contract's Agent without its output fields."""
    operation_id: str
    create_time: datetime
    update_time: datetime


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation and what happens in it now."""

    conversation_id: str
    agent_id: str
    user_id: str
    display_name: str
    metadata: Mapping[str, Any]
    deleting: bool
    queued_event_count: int
    active_run_id: str
    create_time: datetime
    update_time: datetime


@dataclass(frozen=True, slots=True)
class Incoming:
    """An event on its way into a mailbox."""

    event_id: str
    run_id: str
    request_id: str
    request_sha256: bytes
    conversation_id: str
    kind: pb.EventKind.ValueType
    text: str
    actor: str
    bound_user: str = ""
    """User that the sender's credential is bound to: other users' conversations do not exist for it."""
    speaker: str = ""
    bypass_cache: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """An accepted event."""

    event_id: str
    kind: pb.EventKind.ValueType
    text: str
    actor: str
    speaker: str
    bypass_cache: bool
    create_time: datetime


@dataclass(frozen=True, slots=True)
class PastEvent:
    """An event with where it went."""

    event: Event
    conversation_id: str
    run_id: str


@dataclass(frozen=True, slots=True)
class Run:
    """The work on one event."""

    run_id: str
    agent_id: str
    conversation_id: str
    user_id: str
    event_id: str
    event_kind: pb.EventKind.ValueType
    state: pb.RunState.ValueType
    stop_reason: pb.StopReason.ValueType
    failure: bytes | None
    """The contract's Failure."""
    ahead_count: int
    step_count: int
    attempt: int
    """Grows whenever token deltas shown so far are void."""
    begun_count: int
    """How often processes have begun it: one that nobody ends may be what brings them down."""
    cancel_requested: bool
    waiting_call: str
    """Call that the caller must answer; empty for none."""
    waiting_approval: bool
    """True when the answer is a decision, false when it is the tool's result."""
    bill: Bill
    last_sequence: int
    create_time: datetime
    start_time: datetime | None
    end_time: datetime | None

    @property
    def ended(self) -> bool:
        """True after its terminal event."""
        return self.state in ENDED


@dataclass(frozen=True, slots=True)
class Fence:
    """Proof that this process works on a run: every write of the loop is made only where it still holds."""

    tenant: str
    conversation_id: str
    run_id: str
    worker_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Work:
    """Everything a worker needs to begin a run, or to take it up again."""

    fence: Fence
    run: Run
    event: Event
    definition: bytes
    """The agent, as in `Agent`."""
    version: int
    warned: bool
    """True when the model was warned of memory pressure in this period."""
    steps: tuple[Step, ...] = ()
    """What earlier attempts journaled."""
    results: Mapping[str, CallResult] = field(default_factory=dict)
    """What is known of the last step's calls, by call id; only after a wait for the caller."""
    resumed: bool = False
    """True when the run has waited for its caller, and goes on."""
    expired_call: str = ""
    """Call that the caller did not answer in time."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of an incoming event."""

    run_id: str
    work: Work | None
    """Set when this process took the conversation at once."""
    queued: Run | None
    """The run, when it is new and must wait, or when the request is a repeated one."""


@dataclass(frozen=True, slots=True)
class Step:
    """One model call: an entry of the journal."""

    step_id: str
    run_id: str
    agent_id: str
    conversation_id: str
    user_id: str
    number: int
    attempt: int
    model: str
    model_reason: str
    output: Mapping[str, Any]
    """As `journal.output_json` writes it."""
    inputs: tuple[Mapping[str, Any], ...]
    """Messages that came into the prompt with this step, as `journal.input_json` writes them."""
    expected_sequence: int
    """Sequence that its first message gets in recall."""
    bill: Bill
    model_microseconds: int
    prompt_sha256: str
    render_version: int
    references: tuple[tuple[str, str, int], ...]
    """Kind, id and tokens of each part of the prompt, in order."""
    done: bool = False
    continue_reason: str = ""
    create_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class CallResult:
    """What is known of a call of a step that was interrupted to ask the caller."""

    call_id: str
    approved: bool | None = None
    """What the caller decided; None where nobody was asked."""
    ok: bool | None = None
    """None until there is a result."""
    text: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    """`user_message` and `from_recall` of a result that was shown before the wait; empty for the caller's."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ends."""

    state: pb.RunState.ValueType
    stop_reason: pb.StopReason.ValueType
    failure: bytes | None = None
    dead_letter: bool = False
    model_asked: bool = False
    """True when a model was asked: such runs count in the basis of cached answers."""


@dataclass(frozen=True, slots=True)
class StoredEvents:
    """Durable events that a transaction adds to a run."""

    sequences: tuple[int, ...] = ()
    payloads: tuple[bytes, ...] = ()

    @property
    def last_sequence(self) -> int:
        """Sequence of the last one; 0 for none."""
        return self.sequences[-1] if self.sequences else 0


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that was given up."""

    event_id: str
    run_id: str
    conversation_id: str
    kind: pb.EventKind.ValueType
    failure: bytes
    attempt_count: int
    create_time: datetime


@dataclass(frozen=True, slots=True)
class Timer:
    """An event that is due later."""

    timer_id: str
    agent_id: str
    conversation_id: str
    user_id: str
    actor: str
    text: str
    cron: str
    time_zone: str
    next_time: datetime
    last_time: datetime | None
    create_time: datetime


Counts = tuple[tuple[str, int, int], ...]
"""What a removal did: store, removed, remaining."""


@dataclass(frozen=True, slots=True)
class OperationStep:
    """One step of an operation."""

    name: str
    done: bool = False
    attempts: int = 0
    counts: Counts = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """Work that crosses services."""

    operation_id: str
    kind: pb.OperationKind.ValueType
    state: pb.OperationState.ValueType
    subject: str
    user_id: str
    actor: str
    input: bytes
    create_time: datetime
    steps: tuple[OperationStep, ...] = field(default=())
    failure: bytes | None = None
    end_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Usage of one day and model."""

    day: str
    model: str
    bill: Bill
    purpose: str = ""
    """What for, beside the steps of turns; empty for those."""
