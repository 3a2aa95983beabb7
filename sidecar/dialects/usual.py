"""Is this event like the one before, but for its text? Asked with a few searches, without parsing.

Nearly all events of a stream differ in a short text only. Once one of them was parsed and found to
be a data event, the others need not be: where all bytes but the text are the same, so is the
meaning. That is exact as long as the strings that may differ are ones whose content means nothing
to a judge, and no text is empty; the names below are chosen so.
"""

from __future__ import annotations

import re
from typing import Protocol

# Strings that may differ: generated text, under the names of all dialects, and what changes with
# every event but means nothing (OpenAI pads with `obfuscation`, Ollama stamps `created_at`).
_TEXTS = re.compile(
    rb'"(?:content|text|reasoning_content|reasoning|thinking|refusal|arguments|response'
    rb'|(obfuscation|created_at))": ?"((?:[^"\\]|\\.)*)"',
    re.DOTALL,
)
_MAX_TEXTS = 3
_BACKSLASH = 0x5C


class Usual(Protocol):
    """How the usual event of a stream looks."""

    def end(self, data: bytes, at: int) -> int:
        """Where such an event that begins at `at` ends; 0 when it is another one, or is cut."""


class SameType:
    """Events that begin alike, where the beginning has the type and the type tells all."""

    __slots__ = ("_head", "_head_size", "_line_end", "_terminator", "_terminator_size")

    def __init__(self, head: bytes, terminator: bytes) -> None:
        self._head, self._head_size = head, len(head)
        self._terminator, self._terminator_size = terminator, len(terminator)
        self._line_end = terminator[:1]

    def end(self, data: bytes, at: int) -> int:
        """One search for the end of the line: JSON has no line ends within."""
        if not data.startswith(self._head, at):
            return 0
        found = data.find(self._line_end, at + self._head_size)
        if found < 0 or not data.startswith(self._terminator, found):
            return 0
        return found + self._terminator_size


class SameButTexts:
    """Events that are the same but for up to three strings."""

    __slots__ = ("_head", "_head_size", "_joints")

    def __init__(self, head: bytes, joints: list[tuple[int, bytes]]) -> None:
        """Each joint follows a string, and comes with that string's least length."""
        self._head, self._head_size = head, len(head)
        self._joints = tuple((least, joint, len(joint)) for least, joint in joints)

    def end(self, data: bytes, at: int) -> int:
        """For each string one search for its end."""
        if not data.startswith(self._head, at):
            return 0
        at += self._head_size
        for least, joint, size in self._joints:
            quote = data.find(b'"', at)
            if quote < at + least:
                return 0  # cut, or an empty text: that is no data event
            if data[quote - 1] == _BACKSLASH:
                quote = _unescaped_quote(data, at, quote)
            if not data.startswith(joint, quote):
                return 0
            at = quote + size
        return at


def _unescaped_quote(data: bytes, begin: int, quote: int) -> int:
    """The end of the string that began at `begin`, from its first quote on; all when it is cut."""
    while quote >= 0:
        before = quote
        while before > begin and data[before - 1] == _BACKSLASH:
            before -= 1
        if (quote - before) % 2 == 0:
            return quote
        quote = data.find(b'"', quote + 1)
    return len(data)


def learn(event: bytes, terminator: bytes, delta_head: re.Pattern[bytes] | None) -> Usual | None:
    """How to know events like this whole one with its terminator; None when it has no text."""
    if delta_head is not None and (match := delta_head.match(event)):
        return SameType(match[0], terminator)
    # An empty text stays as it is: the event is data for another reason.
    texts = [match for match in _TEXTS.finditer(event) if match[1] or match[2]]
    if not 0 < len(texts) <= _MAX_TEXTS:
        return None
    ends = [match.start(2) for match in texts[1:]] + [len(event)]
    joints = [
        (0 if match[1] else 1, event[match.end(2) : end])
        for match, end in zip(texts, ends, strict=True)
    ]
    return SameButTexts(event[: texts[0].start(2)], joints)
