"""The prompt has a fixed order, a stable prefix, and the same bytes for the same parts."""

from dataclasses import replace
from datetime import UTC, datetime

from mneme.orchestrator.models.port import ToolUse
from mneme.orchestrator.prompt import Prompt, Related, Sampling, build
from mneme.orchestrator.tools import TOOLS
from mneme.orchestrator.window import Message, Window

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
MESSAGES = (
    Message("message-1", "user", "Hello", 1, NOW, 5),
    Message("message-2", "assistant", "", 2, NOW, 9, tool_calls=(ToolUse("a", "x", "{}"), ToolUse("b", "y", "{}"))),
    Message("message-3", "tool", "fine", 3, NOW, 3, tool_call_id="a", tool_ok=True),
    Message("message-4", "tool", "broken", 4, NOW, 3, tool_call_id="b", tool_ok=False),
)
WINDOW = Window(summary="They met.", summary_version=2, messages=MESSAGES, next_sequence=5, evicted_count=7)


def prompt(memory_text: str = "<memory_blocks></memory_blocks>", window: Window = WINDOW) -> Prompt:
    return build(
        instructions="Be kind.",
        sampling=Sampling("offline", 100),
        memory_text=memory_text,
        blocks=[("block-1", 3)],
        window=window,
        related=[Related("passage-1", "passage", "Shops open at nine.", 0.8)],
        tools=tuple(TOOLS.values()),
        count_tokens=len,
    )


def test_the_order_is_instructions_memory_summary_related_messages() -> None:
    assert [part.kind for part in prompt().parts] == [
        "tools", "instructions", "memory", "summary", "related", "message", "message", "message", "message",
    ]  # fmt: skip


def test_a_block_edit_leaves_the_cached_prefix_alone() -> None:
    before, after = prompt("one").request, prompt("two").request
    assert before.system[0] == after.system[0]
    assert before.system[0].cache_point
    assert not before.system[1].cache_point
    assert before.turns == after.turns


def test_equal_parts_have_an_equal_hash_and_others_do_not() -> None:
    assert prompt().sha256 == prompt().sha256
    assert prompt().sha256 != prompt("other").sha256
    assert prompt().sha256 != prompt(window=replace(WINDOW, summary="They parted.")).sha256


def test_results_of_parallel_calls_form_one_turn() -> None:
    turns = prompt().request.turns
    assert [turn.role for turn in turns] == ["system", "system", "user", "assistant", "tool"]
    assert [(outcome.tool_call_id, outcome.ok) for outcome in turns[-1].outcomes] == [("a", True), ("b", False)]


def test_references_name_every_part_and_version() -> None:
    references = {(reference.kind, reference.id) for reference in prompt().references}
    assert {("block", "block-1@3"), ("summary", "2"), ("message", "message-4"), ("related", "passage-1")} <= references


def test_the_summary_tells_how_much_is_hidden() -> None:
    summary = next(part for part in prompt().parts if part.kind == "summary")
    assert "7 earlier messages" in summary.text
    assert "They met." in summary.text


def test_an_empty_conversation_has_no_summary() -> None:
    assert all(part.kind not in ("summary", "message") for part in prompt(window=Window()).parts)
