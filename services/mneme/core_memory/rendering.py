"""The working context: an agent's blocks as the text that stands in its prompt. The same blocks give the same bytes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from html import escape

from mneme.core_memory.blocks import Block

# A block's text comes from users, tools and models. Were it allowed to hold these tags, it could end its own block
# and pose as another one, such as the operator's policy.
_TAG = re.compile(r"<(?=\s*/?\s*(?:block|memory_blocks)(?![A-Za-z0-9]))", re.IGNORECASE)


def render(blocks: Iterable[Block]) -> str:
    """Returns the blocks in the order given, each with label, size, limit, read-only flag and description."""
    return "\n".join(["<memory_blocks>", *map(_render_block, blocks), "</memory_blocks>"])


def scope(agent_id: str, user_id: str) -> str:
    """Returns the name of what an agent sees for a user. The user is hashed: the name becomes part of cache keys."""
    if not user_id:
        return f"{agent_id} blocks"
    return f"{agent_id} blocks {hashlib.sha256(user_id.encode()).hexdigest()[:16]}"


def _render_block(block: Block) -> str:
    read_only = "true" if block.read_only else "false"
    return (
        f'<block label="{_attribute(block.label)}" chars="{len(block.value)}" limit="{block.limit}" '
        f'read_only="{read_only}" description="{_attribute(block.description)}">\n'
        f"{_TAG.sub('&lt;', block.value)}\n"
        "</block>"
    )


def _attribute(text: str) -> str:
    return escape(" ".join(text.split()))
