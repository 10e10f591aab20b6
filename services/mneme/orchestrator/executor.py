"""Runs the tools that a model calls, against the services that own the memory.

Every effect carries an id derived from its step and call index, so that a step that is executed again after a crash
meets its own earlier effect instead of doing it twice.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime

import grpc

from mneme.archival.v1 import archival_pb2
from mneme.common.v1 import common_pb2
from mneme.core_memory.v1 import core_memory_pb2
from mneme.orchestrator.tools import MAX_PAUSE_MINUTES, ParsedCall
from mneme.recall.v1 import recall_pb2
from mneme.runtime import errors, ids
from mneme.runtime.peers import Peers

CONSIDERED = 100
"""Results fetched of a search; the model is shown the first of them and told how many there are."""
_TRANSIENT = frozenset({
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class ToolContext:
    """Where and for whom a tool runs."""

    agent_id: str
    conversation_id: str
    user_id: str
    step_id: str
    index: int
    """Position of the call in its step, from 0."""
    window_start_sequence: int
    """First message in view: a search does not return what the model sees anyway."""
    free_tokens: int
    """Room left in the window; a result is cut to it."""
    source_message_ids: tuple[str, ...] = ()
    """Messages that the call rests on, for the provenance of what it writes."""


@dataclass(frozen=True, slots=True)
class MemoryEdit:
    """What a tool changed in memory."""

    kind: common_pb2.MemoryChangeKind.ValueType
    resource_id: str
    label: str
    before: str
    after: str
    version: int


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What came of a call."""

    ok: bool
    text: str
    """What the model reads."""
    edits: tuple[MemoryEdit, ...] = ()
    user_message: str | None = None
    """Text for the user; send_message sets it."""
    from_recall: bool = False
    """True when the text came out of memory and must not be stored again as a new fact."""
    pause_minutes: int | None = None
    degraded: str = ""
    """Name of a service that did not answer; the call failed because of it."""
    by_words_only: bool = False
    """True for a search that could not go by meaning: it may have missed what it would find otherwise."""
    passages: Mapping[str, str] | None = None
    """Passages shown, each with its knowledge base (empty for the agent's own); None for all but archival searches."""


class Executor:
    """Runs calls that have been checked against their schemas."""

    def __init__(
        self, peers: Peers, count_tokens: Callable[[str], int], clock: Callable[[], datetime] | None = None
    ) -> None:
        """Args:
        peers: The services that own the memory.
        count_tokens: Estimates the tokens of a text.
        clock: Tells the time; the system's when left out.
        """
        self._peers = peers
        self._count_tokens = count_tokens
        self._clock = clock or (lambda: datetime.now(UTC))
        self._tools: dict[str, Callable[[ParsedCall, ToolContext], Awaitable[ToolResult]]] = {
            "send_message": self._send_message,
            "core_memory_append": self._append,
            "core_memory_replace": self._replace,
            "core_memory_remove": self._remove,
            "conversation_search": self._search_messages,
            "conversation_search_date": self._search_dates,
            "get_current_time": self._time,
            "archival_memory_insert": self._insert_passage,
            "archival_memory_search": self._search_passages,
            "archival_memory_delete": self._delete_passage,
            "pause_heartbeats": self._pause,
        }

    async def run(self, call: ParsedCall, context: ToolContext) -> ToolResult:
        """The outcome of one call. What the call itself got wrong is a failed result, for the model to read.

        Raises:
            Error: core memory or recall did not answer: the turn must wait and try again, for an agent without its
                memory must not go on. An archive that does not answer is a failed result instead.
        """
        try:
            return await self._tools[call.name](call, context)
        except grpc.aio.AioRpcError as rpc_error:
            error = errors.from_rpc_error(rpc_error)
            if rpc_error.code() not in _TRANSIENT:
                return ToolResult(ok=False, text=f"Failed: {error.message}")
            if call.name.startswith("archival_"):
                text = "Failed: archival memory does not answer at the moment. Go on without it, or try again later."
                return ToolResult(ok=False, text=text, degraded="archival")
            raise error from rpc_error

    async def _send_message(self, call: ParsedCall, context: ToolContext) -> ToolResult:
        return ToolResult(ok=True, text="Sent.", user_message=call.arguments["message"])

    async def _append(self, call: ParsedCall, context: ToolContext) -> ToolResult:
        response = await self._peers.core_memory.AppendText(
            core_memory_pb2.AppendTextRequest(
                request_id=_request_id(context),
                ref=_block(call, context),
                text=call.arguments["content"],
                provenance=_provenance(call, context),
                by_agent=True,
            )
        )
        return _edited(response.block, response.previous_value)

    async def _replace(self, call: ParsedCall, context: ToolContext) -> ToolResult:
        response = await self._peers.core_memory.ReplaceText(
            core_memory_pb2.ReplaceTextRequest(
                request_id=_request_id(context),
                ref=_block(call, context),
                old_text=call.arguments["old_content"],
                new_text=call.arguments["new_content"],
                provenance=_provenance(call, context),
                by_agent=True,
            )
        )
        return _edited(response.block, response.previous_value)

    async def _remove(self, call: ParsedCall, context: ToolContext) -> ToolResult:
        response = await self._peers.core_memory.RemoveText(
            core_memory_pb2.RemoveTextRequest(
                request_id=_request_id(context),
                ref=_block(call, context),
                text=call.arguments["content"],
                provenance=_provenance(call, context),
                by_agent=True,
            )
        )
        return _edited(response.block, response.previous_value)

    async def _search_messages(self, call: ParsedCall, context: ToolContext) -> ToolResult:
        response = await self._peers.recall.SearchMessages(
            recall_pb2.SearchMessagesRequest(
                agent_id=context.agent_id,
                hybrid=recall_pb2.HybridQuery(text=call.arguments["query"][:4000]),
                filter=recall_pb2.MessageFilter(
                    user_id=context.user_id, roles=[recall_pb2.ROLE_USER, recall_pb2.ROLE_ASSISTANT]
                ),
                limit=CONSIDERED,
            )
        )
        out_of_view = [r for r in response.results if not _in_view(r.message, context)]
        lines = [f"{_said(r.message)} (score {r.score:.2f})" for r in out_of_view]
        listing = self._listing(lines, call.arguments["limit"], context, nothing="no earlier message fits")
        return replace(listing, by_words_only=response.degraded)

    async def _search_dates(self, call: ParsedCall, context: ToolContext) -> ToolResult:
        first, last = (date.fromisoformat(call.arguments[key]) for key in ("start_date", "end_date"))
        if last < first:
            return ToolResult(ok=False, text="Failed: end_date is before start_date")
        days = recall_pb2.CivilDates(
            first=first.isoformat(), last=last.isoformat(), time_zone=call.arguments["time_zone"]
        )
        response = await self._peers.recall.ListMessages(
            recall_pb2.ListMessagesRequest(
                agent_id=context.agent_id,
                filter=recall_pb2.MessageFilter(
                    user_id=context.user_id,
                    roles=[recall_pb2.ROLE_USER, recall_pb2.ROLE_ASSISTANT],
                    dates=days,
                ),
                page_size=CONSIDERED,
            )
        )
        lines = [_said(message) for message in response.messages if message.text]
        return self._listing(
            lines,
            call.arguments["limit"],
            context,
            nothing="no message on these days",
            more=bool(response.next_page_token),
        )

    async def _time(self, call: ParsedCall, context: ToolContext) -> ToolResult:
        return ToolResult(ok=True, text=self._clock().strftime("%A %Y-%m-%d %H:%M:%S UTC"))

    async def _insert_passage(self, call: ParsedCall, context: ToolContext) -> ToolResult:
        response = await self._peers.archival.InsertPassage(
            archival_pb2.InsertPassageRequest(
                request_id=_request_id(context),
                owner=archival_pb2.PassageOwner(agent_id=context.agent_id),
                passage=archival_pb2.Passage(
                    passage_id=ids.derived("passage", context.step_id, context.index),
                    user_id=context.user_id,
                    text=call.arguments["content"],
                    tags=call.arguments["tags"],
                    kind=archival_pb2.PASSAGE_KIND_FACT,
                    provenance=_provenance(call, context),
                ),
            )
        )
        passage = response.passage
        if response.duplicate:
            return ToolResult(ok=True, text=f"This text was stored already, as {passage.passage_id}.")
        edit = MemoryEdit(
            common_pb2.MEMORY_CHANGE_KIND_CREATED, passage.passage_id, "", "", passage.text, passage.version
        )
        return ToolResult(ok=True, text=f"Stored as {passage.passage_id}.", edits=(edit,))

    async def _search_passages(self, call: ParsedCall, context: ToolContext) -> ToolResult:
        response = await self._peers.archival.SearchPassages(
            archival_pb2.SearchPassagesRequest(
                scope=archival_pb2.SearchScope(agent_id=context.agent_id),
                query=call.arguments["query"][:4000],
                filter=archival_pb2.PassageFilter(all_tags=call.arguments["tags"], user_id=context.user_id),
                limit=CONSIDERED,
            )
        )
        lines = [
            f"[{r.passage.passage_id}, {_day(r.passage)}] {r.passage.text} (score {r.score:.2f})"
            for r in response.results
        ]
        limit = call.arguments["limit"]
        listing = self._listing(lines, limit, context, nothing="nothing in archival memory fits")
        shown = {r.passage.passage_id: r.passage.owner.knowledge_base_id for r in response.results[:limit]}
        return replace(listing, by_words_only=response.degraded, passages=shown)

    async def _delete_passage(self, call: ParsedCall, context: ToolContext) -> ToolResult:
        passage_id = call.arguments["passage_id"]
        await self._peers.archival.DeletePassage(
            archival_pb2.DeletePassageRequest(
                request_id=_request_id(context),
                passage_id=passage_id,
                provenance=_provenance(call, context),
                agent_id=context.agent_id,
            )
        )
        edit = MemoryEdit(common_pb2.MEMORY_CHANGE_KIND_DELETED, passage_id, "", "", "", 0)
        return ToolResult(ok=True, text=f"Deleted {passage_id}.", edits=(edit,))

    async def _pause(self, call: ParsedCall, context: ToolContext) -> ToolResult:
        minutes = min(call.arguments["minutes"], MAX_PAUSE_MINUTES)
        return ToolResult(ok=True, text=f"Timed events wait for {minutes} minutes.", pause_minutes=minutes)

    def _listing(
        self, lines: Sequence[str], limit: int, context: ToolContext, *, nothing: str, more: bool = False
    ) -> ToolResult:
        """The first lines that fit, with how many there are: a result must never overflow the window."""
        if not lines:
            return ToolResult(ok=True, text=f"Shown 0 of 0: {nothing}.", from_recall=True)
        shown: list[str] = []
        room = context.free_tokens
        for line in lines[:limit]:
            room -= self._count_tokens(line) + 1
            if room < 0:
                break
            shown.append(line)
        total = f"more than {len(lines)}" if more or len(lines) >= CONSIDERED else str(len(lines))
        note = "" if len(shown) == min(limit, len(lines)) else " (the window has no room for more)"
        text = "\n".join([f"Shown {len(shown)} of {total}{note}:", *shown])
        return ToolResult(ok=True, text=text, from_recall=True)


def _request_id(context: ToolContext) -> str:
    return ids.derived_uuid(context.step_id, context.index)


def _block(call: ParsedCall, context: ToolContext) -> core_memory_pb2.BlockRef:
    label = core_memory_pb2.AgentLabel(
        agent_id=context.agent_id, label=call.arguments["label"], user_id=context.user_id
    )
    return core_memory_pb2.BlockRef(agent_label=label)


def _provenance(call: ParsedCall, context: ToolContext) -> common_pb2.Provenance:
    return common_pb2.Provenance(
        reason=f"tool {call.name}",
        source_message_ids=context.source_message_ids[:100],
        trust_level=common_pb2.TRUST_LEVEL_AGENT,
        step_id=context.step_id,
    )


def _edited(block: core_memory_pb2.Block, before: str) -> ToolResult:
    edit = MemoryEdit(
        common_pb2.MEMORY_CHANGE_KIND_UPDATED, block.block_id, block.label, before, block.value, block.version
    )
    text = f"OK. Block '{block.label}' now has {len(block.value)} of {block.limit_chars} characters."
    return ToolResult(ok=True, text=text, edits=(edit,))


def _in_view(message: recall_pb2.Message, context: ToolContext) -> bool:
    return message.conversation_id == context.conversation_id and message.sequence >= context.window_start_sequence


def _said(message: recall_pb2.Message) -> str:
    who = recall_pb2.Role.Name(message.role).removeprefix("ROLE_").lower()
    return f"[{message.create_time.ToDatetime(UTC):%Y-%m-%d %H:%M} {who}] {message.text}"


def _day(passage: archival_pb2.Passage) -> str:
    return f"{passage.create_time.ToDatetime(UTC):%Y-%m-%d}"
