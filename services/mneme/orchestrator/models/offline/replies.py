"""What the offline model says, in English and Chinese."""

from collections.abc import Sequence
from dataclasses import dataclass

from mneme.orchestrator.models.offline.topics import SmallTalk


@dataclass(frozen=True, slots=True)
class Quote:
    """A remembered line and where it stands."""

    text: str
    source: str
    """`memory`, `summary`, `window`, `conversation` or `archive`."""
    detail: str = ""
    """Label of the block, or day."""


@dataclass(frozen=True, slots=True)
class Phrases:
    """Sentences of one language."""

    identity: str
    introduction: str
    """Follows the first answer."""
    abilities: str
    small_talk: dict[SmallTalk, str]
    saved: str
    updated: str
    archived: str
    known: str
    unsaved: str
    removed: str
    not_removed: str
    found: str
    all_known: str
    nothing: str
    limited: str
    """Follows an answer when a search did not work."""
    time: str
    fallback: str
    sources: dict[str, str]
    quotation: str


ENGLISH = Phrases(
    identity=(
        "I am Mneme's offline model: a set of fixed rules, not a language model. I save what you tell me, search it, "
        "and quote what I find. Set a real model in the settings for conversation."
    ),
    introduction="(I am Mneme's offline model: fixed rules, not a language model. I save, search and quote.)",
    abilities=(
        "Tell me facts and I save them; ask, and I search core memory, our conversations and the archive, and quote "
        "what fits. I can also forget things and tell the time. I am not a language model, so I cannot do more."
    ),
    small_talk={
        SmallTalk.GREETING: "Hello. Tell me something to remember, or ask me about something.",
        SmallTalk.THANKS: "You are welcome.",
        SmallTalk.GOODBYE: "Goodbye. I keep what you told me.",
        SmallTalk.OTHER: "All right.",
    },
    saved="Noted: {lines}",
    updated="I changed “{old}” to “{new}”.",
    archived="Core memory has no room for it, so I put it into archival memory: {lines}",
    known="I know that already: {lines}",
    unsaved="I could not save this: {problem}",
    removed="I removed from memory: {lines}",
    not_removed="I found nothing to forget about “{what}” in core memory.",
    found="This is what I found:",
    all_known="Nothing fits exactly. This is what I know about you:",
    nothing="I found nothing about that in core memory, our conversations or the archive.",
    limited="(A search did not work: {problem})",
    time="It is {time}.",
    fallback="I have no rule for that.",
    sources={
        "memory": "core memory, block {detail}",
        "summary": "summary of our conversation",
        "window": "earlier in this conversation",
        "conversation": "conversation of {detail}",
        "archive": "archival memory, {detail}",
    },
    quotation="- {text} ({source})",
)
CHINESE = Phrases(
    identity=(
        "我是 Mneme 的离线模型：只有固定规则，不是语言模型。我保存您告诉我的事，检索它们，并引用找到的内容。"
        "需要对话请在设置中选用真正的模型。"
    ),
    introduction="（我是 Mneme 的离线模型：只有固定规则，不是语言模型。我会保存、检索和引用。）",
    abilities=(
        "您告诉我的事我会保存；您提问时，我检索核心记忆、历史对话和归档，并引用相符的内容。"
        "我也能忘记内容、报时。我不是语言模型，做不了别的。"
    ),
    small_talk={
        SmallTalk.GREETING: "您好。请告诉我要记住的事，或者向我提问。",
        SmallTalk.THANKS: "不客气。",
        SmallTalk.GOODBYE: "再见。您告诉我的我都留着。",
        SmallTalk.OTHER: "好的。",
    },
    saved="已记下：{lines}",
    updated="已把“{old}”改为“{new}”。",
    archived="核心记忆放不下了，已存入归档记忆：{lines}",
    known="这个我已经知道：{lines}",
    unsaved="没能保存：{problem}",
    removed="已从记忆中删除：{lines}",
    not_removed="核心记忆里没有关于“{what}”的内容可以忘记。",
    found="我找到了这些：",
    all_known="没有完全相符的内容。关于您，我知道这些：",
    nothing="核心记忆、历史对话和归档里都没有找到相关内容。",
    limited="（有一项检索没有成功：{problem}）",
    time="现在是 {time}。",
    fallback="我没有处理这个的规则。",
    sources={
        "memory": "核心记忆，{detail}",
        "summary": "对话摘要",
        "window": "本次对话前文",
        "conversation": "{detail} 的对话",
        "archive": "归档记忆，{detail}",
    },
    quotation="- {text}（{source}）",
)


def phrases(chinese: bool) -> Phrases:
    """The sentences of a language."""
    return CHINESE if chinese else ENGLISH


def quoted(said: Phrases, quotes: Sequence[Quote]) -> str:
    """The quotes, one a line, each with its source."""
    return "\n".join(
        said.quotation.format(
            text=quote.text, source=said.sources[quote.source].format(detail=quote.detail).strip(", ，")
        )
        for quote in quotes
    )
