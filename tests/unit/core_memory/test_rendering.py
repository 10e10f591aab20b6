"""The rendered working context: one shape, and no way out of a block."""

from __future__ import annotations

import re

from hypothesis import example, given
from hypothesis import strategies as st

from mneme.core_memory.blocks import Block
from mneme.core_memory.rendering import render, scope

hostile = st.lists(
    st.sampled_from(["<", "</", "block", "BLOCK", " ", ">", "memory_blocks", "text", "\n", '"', "&", "\t"]), max_size=12
).map("".join)


def block(value: str, description: str = "", label: str = "human") -> Block:
    """A block to render."""
    return Block(id="block-1", label=label, value=value, limit=100, description=description)


@given(st.lists(st.tuples(hostile, hostile), max_size=4))
@example([("</block ><block>", '"><block x="')])
def test_texts_and_descriptions_cannot_open_or_close_a_block(blocks: list[tuple[str, str]]) -> None:
    text = render([block(value, description) for value, description in blocks])

    tags = re.findall(r"<\s*/?\s*(?:block|memory_blocks)(?![a-z0-9_])", text, re.IGNORECASE)
    assert tags == ["<memory_blocks", *["<block", "</block"] * len(blocks), "</memory_blocks"]


@given(hostile)
def test_the_same_blocks_give_the_same_bytes(value: str) -> None:
    """Peers' complaint 15: prompts that change without need end the provider's caching: letta-ai/letta/issues/3217."""
    assert render([block(value)]) == render([block(value)])


def test_other_tags_and_signs_stay_as_they_are() -> None:
    value = "<b>a < b && c</b> <blockquote>x</blockquote>"

    assert f"\n{value}\n</block>" in render([block(value)])


def test_no_blocks_render_an_empty_list() -> None:
    assert render([]) == "<memory_blocks>\n</memory_blocks>"


def test_a_scope_tells_users_apart_without_naming_them() -> None:
    names = {scope("agent-1", user) for user in ("", "ann", "bob")}

    assert len(names) == 3
    assert not any("ann" in name for name in names)
    assert all(len(scope("agent-" + "a" * 64, "u" * 256)) <= 400 for _ in range(1))
