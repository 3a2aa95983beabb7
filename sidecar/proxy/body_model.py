r"""Which model does a request's body ask for, and does it want a stream? Read from its beginning.

    asked_in(b'{"model": "llama-3.2-1b", "mess', whole=False, prefix_bytes=1024)

is `Asked("llama-3.2-1b", stream=False)`. The members `model` and `stream` of the top-level JSON
object count, wherever they stand in the prefix. Of members that stand twice the last one counts, as
for Python, JavaScript, Go and nlohmann/json (llama.cpp), and so for the backend. What is no JSON
object, as far as one sees, asks for nothing. Nothing here raises, whatever the bytes are.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import orjson

# Longer names are none (a guess: Hugging Face allows 96 characters, file paths have some more).
NAME_MAX = 256

# A character takes at most 12 bytes in JSON: two escapes for a surrogate pair (RFC 8259, 7).
_NAME_MAX_BYTES = 12 * NAME_MAX + 2
_KEY_MAX_BYTES = 12 * len("stream") + 2

# Bound the time that a hostile body costs to some 5 ms (measured): brackets and strings within
# values, and members of the object. A body of 256 KiB has some 2000 of the former, with many tools
# 10000; OpenAI's API knows some 40 of the latter.
_NESTED_MAX = 16_000
_MEMBERS_MAX = 1_000

# RFC 8259, 2. A byte order mark may be skipped (8.1); here it passes for space.
_BEFORE = re.compile(rb"[ \t\r\n\xef\xbb\xbf]*")
_SPACE = re.compile(rb"[ \t\r\n]*")
_LITERAL = re.compile(rb"[A-Za-z0-9+.-]*")
_BRACKET_OR_QUOTE = re.compile(rb'["\[\]{}]')

_OPENING = b"{["
_QUOTE, _END = b'"}'


class Asked(NamedTuple):
    """What a body asks for: `model` is None where no name was found."""

    model: str | None
    stream: bool


NOTHING_ASKED = Asked(None, stream=False)


def asked_in(body: bytes, *, whole: bool, prefix_bytes: int) -> Asked:
    """What a body asks for, in its first `prefix_bytes`.

    `body` is what is there of it, `whole` whether that is all.
    """
    if whole and len(body) <= prefix_bytes:
        # Ten times faster than the reader. What it does not take the reader may still: bad UTF-8,
        # lone surrogates or NaN somewhere in a prompt do not disturb every backend.
        try:
            return _asked_of(orjson.loads(body))
        except orjson.JSONDecodeError:
            pass
    reader = PrefixReader()
    reader.feed(body[:prefix_bytes])
    return reader.asked


def _asked_of(body: object) -> Asked:
    if not isinstance(body, dict):
        return NOTHING_ASKED
    model = body.get("model")
    if not isinstance(model, str) or len(model) > NAME_MAX:
        model = None
    return Asked(model, body.get("stream") is True)


class PrefixReader:
    """Reads a JSON object piece by piece, however it is cut. Each byte is looked at once.

    Once `done`, nothing that follows can change what is `asked`.
    """

    def __init__(self) -> None:
        self.done = False
        self._model: str | None = None
        self._stream = False
        self._rest = b""  # the beginning of a token whose end has not arrived
        self._plain = b""  # what is being read, with all escapes in strings made harmless
        self._member = b""  # the name of the member whose value comes next, if it matters
        self._depth = 0
        self._nested_left = _NESTED_MAX
        self._members_left = _MEMBERS_MAX
        self._step: Callable[[bytes, int], int] = self._read_start
        self._after_string: Callable[[bytes, int], int] = self._read_start

    @property
    def asked(self) -> Asked:
        """What was found so far."""
        return Asked(self._model, self._stream)

    def feed(self, piece: bytes) -> None:
        """Read on."""
        data = self._rest + piece if self._rest else piece
        backslashes = len(data) - len(data.rstrip(b"\\"))
        half = data[len(data) - backslashes % 2 :]  # of an escape: its other half follows
        data = data[: len(data) - len(half)]
        # What is left of quotes are the ends of strings. Found one by one, escaped quotes cost ten
        # times as much; JSON in JSON, such as the arguments of a tool call, is full of them.
        self._plain = data.replace(b"\\\\", b"__").replace(b'\\"', b"__")
        self._rest = b""
        at = 0
        while at < len(data) and not self.done:
            at = self._step(data, at)
        self._rest += half

    # -- one step each: reads on from `at` and returns how far it came -------------------------

    def _read_start(self, data: bytes, at: int) -> int:
        at = _end_of(_BEFORE, data, at)
        return at if at == len(data) else self._expect(data, at, b"{", self._read_key)

    def _read_key(self, data: bytes, at: int) -> int:
        at = _end_of(_SPACE, data, at)
        if at == len(data):
            return at
        if data[at] == _END:  # of an empty object
            self.done = True
            return at
        return self._read_name(data, at) if data[at] == _QUOTE else self._give_up(at)

    def _read_name(self, data: bytes, at: int) -> int:
        self._member = b""
        end = self._end_of_string(at + 1)
        if end < 0:
            if len(data) - at <= _KEY_MAX_BYTES:
                return self._keep(data, at)
            return self._skip_string(at, self._read_colon)
        try:
            self._member = _member_named(data[at:end])
        except orjson.JSONDecodeError:
            return self._give_up(end)
        self._members_left -= 1
        self.done = not self._members_left
        self._step = self._read_colon
        return end

    def _read_colon(self, data: bytes, at: int) -> int:
        at = _end_of(_SPACE, data, at)
        return at if at == len(data) else self._expect(data, at, b":", self._read_value)

    def _read_value(self, data: bytes, at: int) -> int:
        at = _end_of(_SPACE, data, at)
        if at == len(data):
            return at
        if self._member == b"model":
            self._model = None
        elif self._member == b"stream":
            self._stream = False
        first = data[at]
        if first == _QUOTE:
            if self._member == b"model":
                return self._read_model(data, at)
            return self._skip_string(at, self._read_comma)
        if first in _OPENING:
            self._depth = 1
            self._step = self._skip_nested
            return at + 1
        self._step = self._read_stream if self._member == b"stream" else self._skip_literal
        return at

    def _read_model(self, data: bytes, at: int) -> int:
        end = self._end_of_string(at + 1)
        if end < 0:
            if len(data) - at <= _NAME_MAX_BYTES:
                return self._keep(data, at)
            return self._skip_string(at, self._read_comma)
        if end - at <= _NAME_MAX_BYTES:
            try:
                name: str = orjson.loads(data[at:end])
            except orjson.JSONDecodeError:
                return self._give_up(end)
            if len(name) <= NAME_MAX:
                self._model = name
        self._step = self._read_comma
        return end

    def _read_stream(self, data: bytes, at: int) -> int:
        end = _end_of(_LITERAL, data, at)
        if end == len(data) and end - at <= len(b"true"):
            return self._keep(data, at)
        self._stream = data[at:end] == b"true"
        self._step = self._read_comma
        return end

    def _skip_literal(self, data: bytes, at: int) -> int:
        at = _end_of(_LITERAL, data, at)
        if at < len(data):
            self._step = self._read_comma
        return at

    def _read_comma(self, data: bytes, at: int) -> int:
        at = _end_of(_SPACE, data, at)
        if at == len(data):
            return at
        if data[at] == _END:
            self.done = True
            return at
        return self._expect(data, at, b",", self._read_key)

    def _skip_nested(self, data: bytes, at: int) -> int:
        """Skip to the end of an object or array, or as far as it is here."""
        search = _BRACKET_OR_QUOTE.search
        depth, left = self._depth, self._nested_left
        step = self._skip_nested
        while left and depth:
            found = search(data, at)
            if found is None:
                at = len(data)
                break
            left -= 1
            at = found.end()
            char = data[at - 1]
            if char == _QUOTE:
                end = self._end_of_string(at)
                if end < 0:
                    self._after_string = step
                    step = self._skip_rest_of_string
                    break
                at = end
            else:
                depth += 1 if char in _OPENING else -1
        self._depth, self._nested_left = depth, left
        self._step = step if depth else self._read_comma
        self.done = not left
        return at

    def _skip_string(self, at: int, then: Callable[[bytes, int], int]) -> int:
        """Skip the string whose quote is at `at`."""
        self._step = self._skip_rest_of_string
        self._after_string = then
        return at + 1

    def _skip_rest_of_string(self, data: bytes, at: int) -> int:
        end = self._end_of_string(at)
        if end < 0:
            return len(data)
        self._step = self._after_string
        return end

    def _end_of_string(self, at: int) -> int:
        """Where the string that goes on at `at` ends, its quote included; -1 if not here."""
        return self._plain.find(b'"', at) + 1 or -1

    # -- ways on ------------------------------------------------------------------------------

    def _expect(self, data: bytes, at: int, char: bytes, then: Callable[[bytes, int], int]) -> int:
        if data[at] != char[0]:
            return self._give_up(at)
        self._step = then
        return at + 1

    def _keep(self, data: bytes, at: int) -> int:
        """Wait for the end of the token that begins at `at`."""
        self._rest = data[at:]
        return len(data)

    def _give_up(self, at: int) -> int:
        """This is no JSON object, so it asks for nothing."""
        self._model, self._stream, self.done = None, False, True
        return at


def _end_of(pattern: re.Pattern[bytes], data: bytes, at: int) -> int:
    found = pattern.match(data, at)
    assert found is not None  # each of them also matches nothing
    return found.end()


def _member_named(key: bytes) -> bytes:
    r"""`model` or `stream` where this is how JSON spells one of them, `"mod\u0065l"` included.

    Raises `orjson.JSONDecodeError`.
    """
    if b"\\" in key and len(key) <= _KEY_MAX_BYTES:
        key = b'"%b"' % orjson.loads(key).encode()
    return key[1:-1] if key in (b'"model"', b'"stream"') else b""
