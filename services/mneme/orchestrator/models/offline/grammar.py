"""Statements of the user in the third person, where that is safe."""

import re

_WORDS = {
    # Verbs that take an ending. Any verb in no list makes the statement a quotation.
    "regular": """like love hate dislike prefer enjoy want need live work drive play speak own use eat drink take wear
    read run swim cook bake keep collect train hope plan avoid sleep wake walk cycle ride travel write teach learn sing
    dance paint garden volunteer weigh smoke start finish suffer support manage lead build sell rent know trust visit
    grow call think park owe""",
    # Forms that stay as they are.
    "unchanged": """was had did can could will would should must may might cannot can't won't couldn't wouldn't
    shouldn't mustn't went got bought moved worked lived started joined grew became turned broke met took made left lost
    won began switched changed used studied married adopted visited booked ordered quit stopped gave sold built""",
    "adverbs": """really usually always never often just also mostly mainly recently currently now already still only
    sometimes generally normally rarely hardly absolutely actually strongly simply even both once finally""",
}
_REGULAR, _UNCHANGED, _ADVERBS = (frozenset(_WORDS[kind].split()) for kind in ("regular", "unchanged", "adverbs"))
_IRREGULAR = {
    "have": "has",
    "do": "does",
    "go": "goes",
    "study": "studies",
    "fly": "flies",
    "watch": "watches",
    "am": "is",
}
_NEGATED = {"don't": "does not", "do not": "does not", "haven't": "has not", "have not": "has not"}
_SHORT = {"m": "is", "ve": "has", "ll": "will", "d": "would"}
_I = re.compile(r"\bI(?:['’](?P<short>m|ve|ll|d))?(?![\w'’])", re.IGNORECASE)
_ABOUT_USER = re.compile(r"\b(?:i|my|me|mine)\b", re.IGNORECASE)
_UNSAFE = re.compile(r"\b(?:you|your|yours|we|us|our|ours|we're|we've|let's)\b|[\"“”]", re.IGNORECASE)
_CHINESE_UNSAFE = re.compile(r"[你您咱“”\"]|我们|我国")
_QUOTATION = re.compile(r"^(?:The user says: [\"“](?P<en>.*)[\"”]|用户说：“(?P<zh>.*)”)$")


def english_line(text: str) -> str:
    """The statement about "the user", or a quotation where it is about more, or its grammar is not safe."""
    rewritten = _third_person(text) if _ABOUT_USER.search(text) and not _UNSAFE.search(text) else None
    if rewritten is None:
        return f'The user says: "{text}"'
    return rewritten[:1].upper() + rewritten[1:] + "."


def chinese_line(text: str) -> str:
    """The statement about 用户, or a quotation where it is about more."""
    if not ("我" in text or "本人" in text) or _CHINESE_UNSAFE.search(text):
        return f"用户说：“{text}”"
    return text.replace("本人", "用户").replace("我", "用户") + "。"


def spoken(line: str) -> str:
    """A stored line back in the first person, so that lines and statements compare."""
    quoted = _QUOTATION.match(line.strip())
    if quoted:
        return (quoted["en"] or quoted["zh"] or "").strip(" .。")
    owner = r"\b(?:the user's|their)\b" if line.startswith("The user ") else r"\bthe user's\b"
    text = re.sub(owner, "my", line, flags=re.IGNORECASE)
    text = re.sub(r"\bthe user\b", "I", text, flags=re.IGNORECASE)
    return re.sub(r"用户(?!名)", "我", text).strip(" .。")


def _third_person(text: str) -> str | None:
    out: list[str] = []
    at = 0
    while found := _I.search(text, at):
        verb = _verb(text, found)
        if verb is None:
            return None
        replacement, end = verb
        out.append(text[at : found.start()] + replacement)
        at = end
    result = "".join(out) + text[at:]
    possessive = "their" if result.startswith("the user ") else "the user's"
    for pronoun, replacement in (
        ("my", possessive),
        ("mine", "the user's"),
        ("myself", "themself"),
        ("me", "the user"),
    ):
        result = re.sub(rf"\b{pronoun}\b", replacement, result, flags=re.IGNORECASE)
    return result


def _verb(text: str, found: re.Match[str]) -> tuple[str, int] | None:
    """The subject with its verb in the third person, and where the text goes on; None where it is not safe."""
    if found["short"]:
        return f"the user {_SHORT[found['short'].lower()]}", found.end()
    subject = ["the user"]
    for word in re.finditer(r"\S+", text[found.end() :]):
        plain = word[0].strip(",.").lower().replace("’", "'")
        end = found.end() + word.end()
        if plain in _ADVERBS:
            subject.append(plain)
            continue
        negation = re.match(r"\s+not\b", text[end:])
        if negation and plain in {"do", "have"}:
            return " ".join([*subject, _NEGATED[f"{plain} not"]]), end + negation.end()
        conjugated = _conjugate(plain)
        return (" ".join([*subject, conjugated]), end) if conjugated else None
    return None


def _conjugate(verb: str) -> str:
    """The verb's third person; empty where it is not known."""
    if verb in _UNCHANGED:
        return verb
    return _NEGATED.get(verb) or _IRREGULAR.get(verb) or (f"{verb}s" if verb in _REGULAR else "")
