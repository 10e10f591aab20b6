"""What to do when a provider refuses a call for one of its texts: find the text, then report it, or cut a long one.

One text never fails its neighbours, which may be other callers'. Providers do not publish their tokenizers, and only
some say how many tokens they counted, so a text is cut by proportion until the provider takes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from mneme.embedding.provider import Embedded, Model, Result, TooLong, Unfit

_MARGIN = 0.95
_BLIND_CUT = 0.75
_ATTEMPTS = 12

Call = Callable[[Sequence[str]], Awaitable[list[Embedded]]]


class Overlong(Exception):  # noqa: N818 - an answer of the provider that is dealt with here
    """The provider refused a call because a text of it is too long."""

    def __init__(self, size: int | None = None) -> None:
        """Args:
        size: Tokens that the provider counted; None where it does not tell.
        """
        super().__init__(size)
        self.size = size


class Rejected(Exception):  # noqa: N818 - as above
    """The provider refused a call for what a text of it holds."""

    def __init__(self, why: str) -> None:
        """Args:
        why: What it said; never quotes the text.
        """
        super().__init__(why)
        self.why = why


async def fit(model: Model, texts: Sequence[str], call: Call, *, truncate: bool) -> list[Result]:
    """Returns an outcome for each text, in order.

    Args:
        model: Whose limit applies.
        texts: Not empty.
        call: One call of the provider; raises Overlong or Rejected.
        truncate: Cuts a text that is too long instead of reporting it.
    """
    try:
        return list(await call(texts))
    except Overlong as overlong:
        if len(texts) == 1:
            only = texts[0]
            found = await _cut(model, only, call, overlong) if truncate else _report(model, overlong)
            return [found]
    except Rejected as rejected:
        if len(texts) == 1:
            return [Unfit(rejected.why)]
    middle = len(texts) // 2
    halves = (fit(model, part, call, truncate=truncate) for part in (texts[:middle], texts[middle:]))
    first, second = await asyncio.gather(*halves)
    return first + second


def _report(model: Model, overlong: Overlong) -> TooLong:
    return TooLong(model.max_tokens, size=overlong.size)


async def _cut(model: Model, text: str, call: Call, overlong: Overlong) -> Result:
    kept = text
    for _ in range(_ATTEMPTS):
        known = overlong.size is not None and overlong.size > model.max_tokens
        share = _MARGIN * model.max_tokens / overlong.size if known and overlong.size else _BLIND_CUT
        kept = kept[: int(len(kept) * share)]
        if not kept:
            break
        try:
            (embedded,) = await call([kept])
        except Overlong as again:
            overlong = again
            continue
        except Rejected as rejected:
            return Unfit(rejected.why)
        return Embedded(embedded.vector, embedded.token_count, truncated=True)
    return Unfit("it is too long however much it is cut")
