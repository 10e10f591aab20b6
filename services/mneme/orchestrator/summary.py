"""Recursive summaries of what leaves the window.

After MemGPT (arXiv 2310.08560), section 2.2: new summary = f(old summary, evicted messages). Input that is larger
than the summariser's window is summarised in pieces, each on top of the summary so far.
"""

from collections.abc import Callable, Iterator, Sequence

from mneme.orchestrator.models.port import ChatModel, ModelRequest, SystemPart, Turn, complete
from mneme.orchestrator.window import Message

INSTRUCTIONS = """\
Summarise a conversation for the assistant who took part in it. You get the summary of everything before, and the \
messages that follow it. Write one new summary that replaces both.
Keep: facts about the user, wishes, decisions, open questions, promises, names, numbers, dates. When something \
changed, keep the newer. Leave out greetings and what was only searched for. Write in the language of the \
conversation, in short sentences, at most {words} words. Write nothing but the summary.
"""
_MESSAGE_CHARS = 8_000


async def summarise(
    model: ChatModel,
    model_name: str,
    old_summary: str,
    evicted: Sequence[Message],
    *,
    input_tokens: int,
    max_tokens: int,
    count_tokens: Callable[[str], int],
) -> str:
    """The summary of the old summary and the evicted messages.

    Args:
        evicted: Messages in order; empty returns the old summary.
        input_tokens: Most tokens of messages to show the model at once.
        max_tokens: Most tokens of the summary.

    Raises:
        Error: the model failed; nothing is lost, the caller still holds the messages.
    """
    summary = old_summary
    system = SystemPart(INSTRUCTIONS.format(words=max(50, max_tokens // 2)))
    for piece in _pieces([_line(message) for message in evicted], input_tokens, count_tokens):
        text = f"Summary of everything before:\n{summary or '(none)'}\n\nMessages that follow:\n{piece}"
        request = ModelRequest(model_name, (system,), (Turn("user", text),), max_tokens=max_tokens, temperature=0.0)
        output = await complete(model, request)
        summary = output.text.strip() or summary
    return summary


def mechanical(old_summary: str, evicted: Sequence[Message], *, max_chars: int) -> str:
    """A summary without a model, for when the summariser fails: the users' own words, newest kept.

    It is worse than a model's, and says so, but the turn goes on and nothing is lost: every message stays in recall.
    """
    said = [f"- {message.text}" for message in evicted if message.role == "user" and message.text]
    text = "\n".join([*([old_summary] if old_summary else []), "(not summarised; the user's own words:)", *said])
    return text if len(text) <= max_chars else "…" + text[-(max_chars - 1) :]


def _line(message: Message) -> str:
    calls = " ".join(f"[{call.name} {call.arguments_json}]" for call in message.tool_calls)
    text = " ".join(part for part in (message.text, calls) if part)
    if len(text) > _MESSAGE_CHARS:
        # A single message larger than the summariser's window would otherwise never fit any piece.
        text = f"{text[: _MESSAGE_CHARS // 2]} … {text[-_MESSAGE_CHARS // 2 :]}"
    return f"{message.role}: {text}"


def _pieces(lines: Sequence[str], input_tokens: int, count_tokens: Callable[[str], int]) -> Iterator[str]:
    piece: list[str] = []
    used = 0
    for line in lines:
        tokens = count_tokens(line)
        if piece and used + tokens > input_tokens:
            yield "\n".join(piece)
            piece, used = [], 0
        piece.append(line)
        used += tokens
    if piece:
        yield "\n".join(piece)
