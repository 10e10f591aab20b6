"""Text as comparable terms: English stems, Chinese character pairs, sentences."""

import re
from collections.abc import Iterable
from functools import cache, lru_cache

import snowballstemmer

_CJK = "\u3400-\u4dbf\u4e00-\u9fff"
_CJK_RUN = re.compile(f"[{_CJK}]+")
_CJK_CHAR = re.compile(f"[{_CJK}]")
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?", re.UNICODE)
_LATIN = re.compile(rf"[^\W_{_CJK}]+(?:['’][a-z]+)?", re.IGNORECASE)
_ABBREVIATIONS = "".join(
    rf"(?<!\b{short})"
    for short in (
        r"mr\.",
        r"ms\.",
        r"mrs\.",
        r"dr\.",
        r"st\.",
        r"vs\.",
        r"e\.g\.",
        r"i\.e\.",
        r"a\.m\.",
        r"p\.m\.",
        r"no\.",
    )
)
_SENTENCE_END = re.compile(rf"(?<=[.!?]){_ABBREVIATIONS}[\"'”’)]*\s+|(?<=[。！？；])[”’」）]*\s*|\n+", re.IGNORECASE)

_FUNCTION_WORDS = """a about after again all also am an and any are as at be because been before being both but by can
    could did do does doing don't down during each few for from further had has have having he her here hers
    him his how i i'd i'll i'm i've if in into is isn't it it's its just kind like me more most my myself no
    nor not now of off on once one only or other our out over own please same she should so some such than
    that that's the their them then there these they this those through to too under until up us user user's
    very was we were what what's when where which while who whom whose why will with would you your yes tell
    know remind remember say said mention something anything thing get got let shall may might must need
    want going"""
STOPWORDS = frozenset(_FUNCTION_WORDS.split())
_ZH_STOP = (
    "什么时候 什么样 什么 为什么 怎么样 怎么 怎样 如何 哪里 哪儿 哪个 哪些 哪 谁 多少 几 是否 是不是 有没有 能不能 "
    "可不可以 还记得 记得 告诉 知道 提醒 请问 我们 你们 他们 她们 它们 咱们 用户 自己 这个 那个 这些 那些 一下 一个 "
    "现在 目前 已经 应该 可以 可能 需要 "
    "我 你 您 他 她 它 的 了 吗 呢 吧 啊 呀 是 在 有 和 与 跟 就 都 也 很 把 被 给 请 不 能 这 那"
)
_ZH_STOP_PATTERN = re.compile("|".join(sorted(_ZH_STOP.split(), key=len, reverse=True)))
_SPELLINGS = {
    "favourite": "favorite",
    "colour": "color",
    "grey": "gray",
    "mum": "mother",
    "mom": "mother",
    "mummy": "mother",
    "dad": "father",
    "daddy": "father",
    "grandma": "grandmother",
    "grandpa": "grandfather",
    "children": "child",
    "kid": "child",
    "kids": "child",
    "feet": "foot",
    "teeth": "tooth",
    "people": "person",
    "surname": "lastname",
}


def any_of(*alternatives: str) -> str:
    """One regular expression for several, one a line where they are written."""
    return f"(?:{'|'.join(alternatives)})"


def pattern(*alternatives: str) -> re.Pattern[str]:
    """A compiled `any_of` that takes capitals and small letters for the same."""
    return re.compile(any_of(*alternatives), re.IGNORECASE)


def is_chinese(text: str) -> bool:
    """True where Chinese characters make up a fair part of the text (a name alone does not)."""
    chinese = len(_CJK_CHAR.findall(text))
    return chinese > 0 and chinese * 2 >= len(_LATIN.findall(text))


def sentences(text: str) -> list[str]:
    """The sentences of a text in order, with their end marks, without blanks; empty for a blank text."""
    return [piece.strip() for piece in _SENTENCE_END.split(text) if piece and piece.strip()]


@cache
def _stemmer() -> snowballstemmer.stemmer:
    return snowballstemmer.stemmer("english")


@lru_cache(maxsize=16_384)
def stem(word: str) -> str:
    """The stem of one English word, with one spelling for British and American forms."""
    lowered = word.lower().replace("’", "'").removesuffix("'s")
    lowered = _SPELLINGS.get(lowered, lowered)
    stemmed: str = _stemmer().stemWord(lowered)
    return stemmed


def english_words(text: str) -> list[str]:
    """The words in Latin script, lower case, in order."""
    return [word.lower().replace("’", "'") for word in _LATIN.findall(text)]


def chinese_runs(text: str) -> list[str]:
    """The runs of Chinese characters, in order."""
    return _CJK_RUN.findall(text)


@lru_cache(maxsize=8_192)
def terms(text: str) -> frozenset[str]:
    """What a text is about: stems without function words, and pairs of Chinese characters within content
    runs.
    """
    found = {stem(word) for word in english_words(text) if word not in STOPWORDS}
    for run in chinese_runs(text):
        for piece in _ZH_STOP_PATTERN.split(run):
            found.update(_pairs(piece))
    return frozenset(found)


def _pairs(run: str) -> Iterable[str]:
    if len(run) == 1:
        return (run,)
    return (run[i : i + 2] for i in range(len(run) - 1))


def query_text(question: str) -> str:
    """The words of a question worth searching for; the question itself when none is left."""
    kept = [word for word in _LATIN.findall(question) if word.lower().replace("’", "'") not in STOPWORDS]
    for run in chinese_runs(question):
        kept.extend(piece for piece in _ZH_STOP_PATTERN.split(run) if piece)
    return " ".join(kept) or question.strip()


def same_text(one: str, other: str) -> bool:
    """True where two texts differ in nothing but case, spaces and punctuation."""
    return _bare(one) == _bare(other)


@lru_cache(maxsize=8_192)
def _bare(text: str) -> str:
    return " ".join(_WORD.findall(text.lower()))
