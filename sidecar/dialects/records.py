"""How is a body split into events, wherever it was cut on its way?

An event is handed on when its last byte has come. One that looks like those before (`usual.py`) is
only counted: that is the everyday path, and costs a few searches per event. What is incomplete is
kept, up to a limit.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod

from sidecar.dialects.judge import Judge
from sidecar.dialects.usual import Usual

# The largest events are last ones that repeat all: a Responses answer with its instructions, or
# Ollama's `context` of all tokens. Parsing so much takes 2 ms (measured), and a larger one is
# judged by its beginning alone: its usage is not known then.
MAX_EVENT_BYTES = 512 * 1024
HEAD_BYTES = 4096

_SOMETHING = re.compile(rb"[^\r\n]")


def behind_empty_lines(data: bytes | bytearray, at: int) -> int:
    """Where the empty lines that begin at `at` end."""
    match = _SOMETHING.search(data, at)
    return match.start() if match else len(data)


class RecordJudge(Judge, ABC):
    """Finds the events of a stream. How they end, and what they mean, subclasses know."""

    __slots__ = ("_head", "_pending", "_usual")

    overlap: int
    """How many bytes of a terminator may have come before it is whole."""

    def __init__(self) -> None:
        super().__init__()
        self._pending = bytearray()
        self._head = b""  # of an event that is too large to be kept
        self._usual: Usual | None = None

    @abstractmethod
    def _end_of(self, data: bytes | bytearray, at: int) -> int:
        """Where the record that begins at `at` ends, its terminator included; -1 when it is cut."""

    @abstractmethod
    def _has_end(self, data: bytearray, at: int) -> bool:
        """Whether the record that `data` holds ends somewhere behind `at`."""

    @abstractmethod
    def _end_behind(self, data: bytearray) -> int:
        """Where the record ends whose last bytes `data` holds; -1 when it is cut."""

    @abstractmethod
    def _read(self, record: bytes, *, whole: bool) -> None:
        """Take in a record; one that is not whole is the last one, without its terminator."""

    @abstractmethod
    def _read_large(self, head: bytes) -> None:
        """Take in a record of which only the beginning was kept."""

    @property
    def at_boundary(self) -> bool:
        """Whether nothing of an event has come that has not come whole."""
        return not self._pending

    def feed(self, payload: bytes) -> None:
        """Listen to the next bytes."""
        if self._pending:
            self._go_on(payload)
            return
        at, usual = 0, self._usual
        while usual is not None and (end := usual.end(payload, at)):
            self.events += 1
            if end == len(payload):
                return  # the everyday path
            at = end
        self._take(payload, at)

    def _take(self, data: bytes, at: int) -> None:
        """Read the event at `at`, and judge all that are whole; keep the beginning of the next."""
        size = len(data)
        while at < size:
            end = self._end_of(data, at)
            if end < 0:
                self._keep(data[at:])
                return
            if end - at > MAX_EVENT_BYTES:
                self._read_large(data[at : at + HEAD_BYTES])
            else:
                self._read(data[at:end], whole=True)
            at = end
            usual = self._usual
            while usual is not None and (end := usual.end(data, at)):
                self.events += 1
                at = end

    def _keep(self, rest: bytes) -> None:
        self._pending += rest
        if len(self._pending) > MAX_EVENT_BYTES:
            self._head = bytes(self._pending[:HEAD_BYTES])
            del self._pending[: -self.overlap]

    def _go_on(self, payload: bytes) -> None:
        """Add to the event that has begun. Only new bytes are searched until its end is there."""
        pending = self._pending
        scanned = max(0, len(pending) - self.overlap)
        pending += payload
        if self._head:
            self._skip()
        elif self._has_end(pending, scanned):
            data = bytes(pending)
            pending.clear()
            self.feed(data)
        else:
            self._keep(b"")

    def _skip(self) -> None:
        """Look for the end of an event that is too large."""
        pending = self._pending
        end = self._end_behind(pending)
        if end < 0:
            del pending[: -self.overlap]
            return
        rest = bytes(pending[end:])
        head, self._head = self._head, b""
        pending.clear()
        self._read_large(head)
        self.feed(rest)

    def end(self) -> None:
        """What has no terminator is read all the same: some servers end without the last one."""
        rest = bytes(self._pending)  # of a large event only a few bytes, which say nothing
        self._pending.clear()
        self._head = b""
        self._read(rest, whole=False)
