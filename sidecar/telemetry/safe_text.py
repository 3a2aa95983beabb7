"""How does foreign text get into a line or a page without breaking it?

Paths and callers come from whoever sends a request. In a log they could end the line and begin a
forged one, or steer the reader's terminal (CWE-117).
"""

from __future__ import annotations

import re
from textwrap import indent

import orjson

# C0 and C1 control characters, line and paragraph separators, and what turns the writing
# direction (CVE-2021-42574); lone surrogates stand for bytes that were no UTF-8.
_UNPRINTABLE = "\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_ANY = re.compile(f"[{_UNPRINTABLE}]")
_ANY_BUT_LINE_ENDS = re.compile(f"(?!\n)[{_UNPRINTABLE}]")


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def printable(text: str) -> str:
    r"""One line that is safe on a terminal: what could steer it stands there as `\u001b`."""
    return _ANY.sub(_escape, text)


def printable_lines(text: str) -> str:
    """Likewise for several lines; each is indented, so that none passes for a line of the log."""
    return indent(_ANY_BUT_LINE_ENDS.sub(_escape, text), "    ")


def json_line(value: object) -> bytes:
    """JSON of anything, on one line, without line end. Never raises for what a string holds.

    What JSON does not know is written as its `repr`.
    """
    try:
        line = orjson.dumps(value, default=repr)
    except TypeError:  # a lone surrogate, or an integer beyond 64 bits
        line = orjson.dumps(_tamed(value), default=repr)
    # orjson escapes C0 itself. The others can only stand inside of strings, where JSON
    # reads the escaped form as the same character.
    return line if line.isascii() else _ANY.sub(_escape, line.decode()).encode()


def _tamed(value: object) -> object:
    """The same with all text valid and all numbers small enough."""
    if isinstance(value, dict):
        return {_valid(str(key)): _tamed(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_tamed(inner) for inner in value]
    if isinstance(value, str):
        return _valid(value)
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 63:
        return str(value)
    return value


def _valid(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
