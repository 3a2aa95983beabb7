"""What must be known of a dialect to judge its streams?"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod

import orjson

from sidecar.dialects.reading import Json

# An error type that every SDK knows as "the server's fault".
SERVER_FAULT = "api_error"

_MAX_ANSWERS = 1024  # OpenAI allows n = 128


class Dialect(ABC):
    """One stream of a dialect, being read: each stream has its own."""

    __slots__ = ("error", "finished")

    name: str
    """As the documents call it."""

    ends_with_done = False
    """Whether `data: [DONE]` is a terminal marker. Some servers end every stream so, also after an
    error, whatever the dialect."""

    delta_head: re.Pattern[bytes] | None = None
    """How a data event begins, where its type says that it is one. Such an event need not be read
    to its end. None where only the content tells."""

    def __init__(self) -> None:
        self.finished = False
        """Whether the terminal marker came."""
        self.error: object = None
        """The error that an event told of in the dialect's own way; None when none did."""

    @classmethod
    @abstractmethod
    def claims(cls, kind: str, event: Json) -> bool:
        """Whether an event can only be of this dialect."""

    @abstractmethod
    def read(self, kind: str, event: Json) -> bool:
        """Take in an event that is not plainly an error; returns whether it is a data event."""

    @abstractmethod
    def error_event(self, message: str, code: str) -> bytes | None:
        """What makes the dialect's SDKs raise, as bytes for the stream."""


class Answers:
    """The answers to one request (choices, candidates) that a stream carries side by side."""

    __slots__ = ("_ended", "_open")

    def __init__(self) -> None:
        self._open: set[int] = set()
        self._ended: set[int] = set()

    def note(self, index: object, *, ended: bool) -> bool:
        """An event of the answer with this index came; returns whether all answers have ended.

        Another one may still begin: llama.cpp does so when its slots are short.
        """
        number = index if isinstance(index, int) else 0
        if len(self._open) + len(self._ended) < _MAX_ANSWERS:
            if ended:
                self._ended.add(number)
            elif number not in self._ended:
                self._open.add(number)
        if ended:
            self._open.discard(number)
        return not self._open


def data_event(event: Json) -> bytes:
    """An event without a name."""
    return b"data: " + orjson.dumps(event) + b"\n\n"


def named_event(name: str, event: Json) -> bytes:
    """An event with a name."""
    return b"event: " + name.encode() + b"\n" + data_event(event)
