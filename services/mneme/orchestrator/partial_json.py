"""Reads one string out of a JSON object while the object is still arriving.

A model writes its answer to the user as the argument of a tool call: `{"message": "…"}`, in pieces cut
anywhere. The characters of that string can be shown at once, long before the object is complete and can be
parsed.
"""

import json
from enum import Enum, auto

_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_SPACE = " \t\n\r"
_HEX = frozenset("0123456789abcdefABCDEF")


class _State(Enum):
    BEFORE = auto()
    """Before the object's opening brace."""
    KEY = auto()
    """Waits for a key of the outer object."""
    COLON = auto()
    VALUE = auto()
    """Waits for a value of the outer object."""
    SKIP = auto()
    """Inside another value, until the comma that ends it."""
    STRING = auto()
    """Inside the wanted string."""
    DONE = auto()


class StringField:
    """The characters of one string member of the outer object, as they arrive.

    Nothing is yielded for a member of that name in a nested object, nor for one that is no string. A text
    that is not JSON yields nothing more from the place where that shows. When the member comes twice, the
    first is yielded.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._state = _State.BEFORE
        self._depth = 0
        self._quoted = ""
        """Source of the string being read, without its opening quote: a key, or text inside a skipped
        value.
        """
        self._in_string = False
        self._escape = ""
        """The escape being read, from its backslash on."""
        self._high = ""
        """A high surrogate that waits for its other half."""

    @property
    def done(self) -> bool:
        """True once the string is complete, or will not come."""
        return self._state is _State.DONE

    def feed(self, piece: str) -> str:
        """The characters of the string that this piece completes; often empty."""
        out: list[str] = []
        for char in piece:
            if self._state is _State.DONE:
                break
            self._take(char, out)
        return "".join(out)

    def _take(self, char: str, out: list[str]) -> None:
        match self._state:
            case _State.STRING:
                self._take_wanted(char, out)
            case _State.KEY:
                self._take_key(char)
            case _State.SKIP:
                self._take_skipped(char)
            case _ if char in _SPACE:
                pass
            case _State.BEFORE:
                self._state = _State.KEY if char == "{" else _State.DONE
            case _State.COLON:
                self._state = _State.VALUE if char == ":" else _State.DONE
            case _State.VALUE:
                self._start_value(char)

    def _take_key(self, char: str) -> None:
        if not self._in_string:
            if char == '"':
                self._in_string = True
                self._quoted = ""
            elif char not in _SPACE:
                self._state = _State.DONE
            return
        self._quoted += char
        if self._ends_string(char):
            self._in_string = False
            self._state = _State.COLON

    def _start_value(self, char: str) -> None:
        wanted = _unquote('"' + self._quoted) == self._name
        if wanted:
            self._state = _State.STRING if char == '"' else _State.DONE
            return
        self._state = _State.SKIP
        self._depth = 0
        self._take_skipped(char)

    def _take_skipped(self, char: str) -> None:
        if self._in_string:
            self._in_string = not self._ends_string(char)
        elif char == '"':
            self._in_string = True
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._depth -= 1
            if self._depth < 0:
                self._state = _State.DONE
        elif char == "," and self._depth == 0:
            self._state = _State.KEY

    def _ends_string(self, char: str) -> bool:
        """True for the closing quote; keeps track of escapes."""
        if self._escape:
            self._escape = ""
            return False
        if char == "\\":
            self._escape = char
        return char == '"'

    def _take_wanted(self, char: str, out: list[str]) -> None:
        if self._escape:
            self._take_escape(char, out)
        elif char == "\\":
            self._escape = char
        elif char == '"':
            self._emit("", out)
            self._state = _State.DONE
        else:
            self._emit(char, out)

    def _take_escape(self, char: str, out: list[str]) -> None:
        self._escape += char
        if self._escape == "\\u" or (self._escape.startswith("\\u") and len(self._escape) < 6):
            return
        escape, self._escape = self._escape, ""
        if not escape.startswith("\\u"):
            if char not in _ESCAPES:
                self._state = _State.DONE
                return
            self._emit(_ESCAPES[char], out)
            return
        digits = escape[2:]
        if not set(digits) <= _HEX:
            self._state = _State.DONE
            return
        self._emit_unit(chr(int(digits, 16)), out)

    def _emit_unit(self, unit: str, out: list[str]) -> None:
        """Takes one \\u escape: half of a pair waits for the other half."""
        if "\ud800" <= unit <= "\udbff":
            self._emit("", out)
            self._high = unit
        elif self._high and "\udc00" <= unit <= "\udfff":
            pair = (self._high + unit).encode("utf-16", "surrogatepass").decode("utf-16")
            self._high = ""
            out.append(pair)
        else:
            self._emit(unit, out)

    def _emit(self, text: str, out: list[str]) -> None:
        """Adds text, after a replacement character for a half pair that stayed alone."""
        if self._high:
            self._high = ""
            out.append("\ufffd")
        out.append("\ufffd" if "\ud800" <= text <= "\udfff" else text)


def _unquote(source: str) -> str | None:
    """A JSON string's value; None when it is no valid string."""
    try:
        value = json.loads(source)
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, str) else None
