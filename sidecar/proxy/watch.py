"""What does an answer show of the backend while it passes? Judged at its head, and then at its end.

The bytes are looked at, never changed or kept back.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from sidecar.admission.outcome import Said
from sidecar.dialects.choosing import judge_for, media_type_of
from sidecar.dialects.judge import Judge
from sidecar.proxy.wire.heads import ResponseHead
from sidecar.telemetry.facts import Gaps

# A backend's Retry-After is a hint of seconds; dates (RFC 9110, 10.2.3) and nonsense are not taken.
_RETRY_AFTER_DIGITS = 6

_EVENT_STREAMS = frozenset({b"text/event-stream", b"application/x-ndjson"})


class Watch:
    """Watches one answer. Without `judged`, any byte of the body is a sign of life."""

    # What many answers never change stands here once, and is not set for each of them.
    judge: Judge | None = None
    first_event_at_s: float | None = None
    retry_after_s: float | None = None
    on_first_event: Callable[[], None] | None = None
    gaps: Gaps | None = None
    _events = 0
    _ended = False
    _last_event_s = 0.0
    streams = False  # whether the answer comes in events
    _media_type = b""
    _promised: Judge | None = None

    def __init__(self, path: bytes, *, judged: bool) -> None:
        self._path = path
        self._judged = judged

    def expect_stream(self) -> None:
        """A stream was promised to the client before the backend has said anything."""
        self._promised = judge_for(200, b"text/event-stream", b"", self._path)

    def on_head(self, head: ResponseHead) -> None:
        """The first step: what the head says."""
        if not self._judged:
            return
        names = head.names
        content_type = head.value(b"content-type") if b"content-type" in names else b""
        encoding = head.value(b"content-encoding") if b"content-encoding" in names else b""
        self.judge = judge_for(head.status, content_type, encoding, self._path)
        self._media_type = media_type_of(content_type)
        self.streams = head.status < 300 and self._media_type in _EVENT_STREAMS
        if head.status in (429, 503) and b"retry-after" in names:
            self.retry_after_s = _seconds(head.value(b"retry-after"))

    def saw(self, pieces: list[bytes]) -> bool:
        """Look at body bytes as they pass; returns whether they are a sign of life."""
        judge = self.judge
        if judge is None:
            if self.first_event_at_s is None:
                self.first_event_at_s = monotonic()
            return True
        for piece in pieces:
            judge.feed(piece)
        if judge.events == self._events:
            return False
        self._note_events(judge.events)
        return True

    def _note_events(self, count: int) -> None:
        now_s = monotonic()
        if self.first_event_at_s is None:
            self.first_event_at_s = now_s
            if self.streams and self.on_first_event is not None:
                self.on_first_event()
        elif self.streams:
            if self.gaps is None:
                self.gaps = Gaps()
            self.gaps.add(now_s - self._last_event_s)
        self._last_event_s = now_s
        self._events = count

    def on_end(self) -> Said:
        """The second step: the body is here whole. May be asked again."""
        if self.judge is not None and not self._ended:
            self._ended = True
            self.judge.end()
        return self.said

    @property
    def said(self) -> Said:
        """What the answer has said of itself so far."""
        return self.judge.said if self.judge is not None else Said.NOTHING

    def last_words(self, message: str, code: str) -> bytes | None:
        """What ends a broken stream in the words of its dialect; None where nothing can be said.

        Not inside an event: it would become a part of that one.
        """
        judge = self.judge if self.streams else self._promised
        if judge is None or judge.said is not Said.UNFINISHED or not judge.at_boundary:
            return None
        return judge.error_event(message, code)

    @property
    def filler(self) -> bytes:
        """A byte that means nothing between two events."""
        return b" " if self._media_type == b"application/x-ndjson" else b"\n"


def _seconds(value: bytes) -> float | None:
    if value.isdigit() and len(value) <= _RETRY_AFTER_DIGITS:
        return float(value)
    return None
