"""What does a body in one piece say: tokens in an answer, or whose fault an error is?"""

from __future__ import annotations

import re

from sidecar.admission.outcome import Said
from sidecar.dialects.errors import (
    complaint_of,
    described,
    error_in,
    message_of,
    speaks_of_load,
    speaks_of_loading,
)
from sidecar.dialects.judge import Judge
from sidecar.dialects.reading import Json, inner, json_object, model_in, text, usage_in

# Far more than answers and errors need; larger ones are vectors and images. Parsing so much takes
# 0.1 ms (measured).
MAX_BODY_BYTES = 64 * 1024
# All servers tell the tokens behind the answer.
_TAIL_BYTES = 4096
_USAGE = re.compile(rb'(?<!\\)"(usage|usageMetadata)"\s*:\s*(\{(?:[^{}]|\{[^{}]*\})*\})')

# Errors that quote the request; only the labels of these are logged. A 429 speaks of limits.
_QUOTES_REQUEST = range(400, 429)


class AnswerJudge(Judge):
    """Judges a JSON answer (2xx). Every piece of it is data, as in plain HTTP."""

    __slots__ = ("_body", "_size")

    def __init__(self) -> None:
        super().__init__()
        self._body = bytearray()
        self._size = 0

    def feed(self, payload: bytes) -> None:
        """Keep the body, or of a large one the end."""
        super().feed(payload)
        self._size += len(payload)
        self._body += payload
        if self._size > MAX_BODY_BYTES:
            del self._body[:-_TAIL_BYTES]

    def end(self) -> None:
        """Read what was kept."""
        body, self._body = bytes(self._body), bytearray()
        if self._size > MAX_BODY_BYTES:
            self._read_tail(body)
        elif (answer := json_object(body)) is not None:
            self._read(answer)

    def _read(self, answer: Json) -> None:
        self.usage, self.model = usage_in(answer), model_in(answer)
        # OpenRouter answers 200 with an error when the model fails once it is at work ("Errors" in
        # its documentation); a response of OpenAI's that failed has its error, too.
        error = error_in(answer)
        if error is not None:
            self.said, self.error_message = complaint_of(error)

    def _read_tail(self, tail: bytes) -> None:
        for match in _USAGE.finditer(tail):
            counts = json_object(match[2])
            if counts is not None:
                self.usage = usage_in({match[1].decode(): counts})


class ErrorJudge(Judge):
    """Judges the body of an error (4xx, 5xx). Nothing of it is data."""

    __slots__ = ("_body", "_status")

    def __init__(self, status: int) -> None:
        super().__init__()
        self._status = status
        self._body = bytearray()

    def feed(self, payload: bytes) -> None:
        """Keep the beginning; an error that is longer is not understood."""
        if len(self._body) <= MAX_BODY_BYTES:
            self._body += payload[: MAX_BODY_BYTES + 1]

    def end(self) -> None:
        """Read what was kept."""
        body, self._body = bytes(self._body), bytearray()
        error = _error_of(body) if len(body) <= MAX_BODY_BYTES else None
        if error is None:
            return
        self.said = self._said_by(error)
        quotes = self._status in _QUOTES_REQUEST and self.said is Said.NOTHING
        self.error_message = described(error, labels_only=quotes)

    def _said_by(self, error: object) -> Said:
        labels = error if isinstance(error, dict) else {}
        if self._status == 503:
            # OpenClaw while it drains: 503, Retry-After: 1 (measured on openclaw 2026.9.6).
            if text(labels, "code") == "gateway_unavailable":
                return Said.RESTARTING
            if speaks_of_loading(message_of(error)):
                return Said.LOADING
        if speaks_of_load(error):
            return Said.BUSY
        # OpenClaw passes failures of the model on as 400 with this type (measured likewise).
        if self._status < 500 and text(labels, "type") == "api_error":
            return Said.FAILED
        return Said.NOTHING


def _error_of(body: bytes) -> object | None:
    """The error in a body; its text where it is no JSON."""
    answer = json_object(body)
    if answer is None:
        try:
            return body.decode().strip() or None
        except UnicodeDecodeError:
            return None
    found = error_in(answer)
    if found is not None:
        return found
    # FastAPI's HTTPException: {"detail": {...}} or {"detail": "..."}.
    detail = inner(answer, "detail")
    return error_in(detail) or detail or text(answer, "detail") or answer
