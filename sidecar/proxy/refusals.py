"""How does the sidecar say no in its own words? Reasons, statuses, and the bytes of the answer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import orjson

from sidecar.admission.answers import Reason, Rejection
from sidecar.proxy.wire.date import http_date


class ProxyReason(StrEnum):
    """Why the data path itself answered. Values are `x-sidecar-reason` and a metric label."""

    UPSTREAM_UNREACHABLE = "upstream_unreachable"
    UPSTREAM_RESET = "upstream_reset"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    UPSTREAM_BAD_RESPONSE = "upstream_bad_response"
    UPSTREAM_BUSY = "upstream_busy"
    BAD_REQUEST = "bad_request"
    HEAD_TOO_LARGE = "head_too_large"
    HEAD_TIMEOUT = "head_timeout"
    BODY_TIMEOUT = "body_timeout"
    TOO_MANY_CONNECTIONS = "too_many_connections"
    OUT_OF_FILES = "out_of_files"
    INTERNAL_ERROR = "internal_error"


# OpenAI's error types (platform.openai.com, "Error codes"): what SDKs and gateways look at.
_SERVER_ERROR = "server_error"
_REQUEST_ERROR = "invalid_request_error"

STATUS_OF = {
    Reason.CIRCUIT_OPEN: 503,
    Reason.PROBING: 503,
    Reason.QUEUE_FULL: 503,
    Reason.QUEUE_TIMEOUT: 504,
    Reason.DRAINING: 503,
    ProxyReason.UPSTREAM_UNREACHABLE: 502,
    ProxyReason.UPSTREAM_RESET: 502,
    ProxyReason.UPSTREAM_TIMEOUT: 504,
    ProxyReason.UPSTREAM_BAD_RESPONSE: 502,
    ProxyReason.UPSTREAM_BUSY: 503,
    ProxyReason.BAD_REQUEST: 400,
    ProxyReason.HEAD_TOO_LARGE: 431,
    ProxyReason.HEAD_TIMEOUT: 408,
    ProxyReason.BODY_TIMEOUT: 408,
    ProxyReason.TOO_MANY_CONNECTIONS: 503,
    ProxyReason.OUT_OF_FILES: 503,
    ProxyReason.INTERNAL_ERROR: 500,
}

_PHRASES = {
    400: b"Bad Request",
    408: b"Request Timeout",
    414: b"URI Too Long",
    417: b"Expectation Failed",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
}

# What SDKs accept as Retry-After (openai-python: 60 s); a longer wait is not worth their retries.
_SDK_MAX_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that the sidecar gives itself. `retry_after_s` None sends no Retry-After."""

    reason: Reason | ProxyReason
    message: str
    status: int
    retry_after_s: float | None = None

    @classmethod
    def of(cls, reason: ProxyReason, message: str, status: int | None = None) -> Refusal:
        """Say no because of the request, the backend or ourselves."""
        return cls(reason, message, status or STATUS_OF[reason])

    @classmethod
    def from_rejection(cls, rejection: Rejection) -> Refusal:
        """Say what admission answered."""
        return cls(
            rejection.reason,
            rejection.message,
            STATUS_OF[rejection.reason],
            rejection.retry_after_s,
        )

    @property
    def closes(self) -> bool:
        """Whether the connection ends with this answer whatever the client wants."""
        return self.reason in _CLOSING


_CLOSING = frozenset(
    {
        Reason.DRAINING,
        ProxyReason.BAD_REQUEST,
        ProxyReason.HEAD_TOO_LARGE,
        ProxyReason.HEAD_TIMEOUT,
        ProxyReason.BODY_TIMEOUT,
        ProxyReason.TOO_MANY_CONNECTIONS,
        ProxyReason.INTERNAL_ERROR,
    }
)


def refusal_bytes(
    refusal: Refusal, request_id: bytes, *, close: bool, head_only: bool, waited_ms: float = 0.0
) -> bytes:
    """Build the whole response: head, and a body in OpenAI's error shape."""
    error = {
        "message": f"openclaw-sidecar: {refusal.message}",
        "type": _REQUEST_ERROR if refusal.status < 500 else _SERVER_ERROR,
        "code": refusal.reason.value,
        "param": None,
    }
    body = orjson.dumps({"error": error})
    lines = [
        b"HTTP/1.1 %d %b" % (refusal.status, _PHRASES[refusal.status]),
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(body),
        b"Date: " + http_date(),
        b"Via: 1.1 openclaw-sidecar",
        b"X-Request-Id: " + request_id,
        b"x-sidecar-reason: " + refusal.reason.value.encode(),
    ]
    if refusal.retry_after_s is not None:
        lines += _retry_lines(refusal.retry_after_s)
    if waited_ms:
        lines += waited_lines(waited_ms)
    if close:
        lines.append(b"Connection: close")
    head = b"\r\n".join([*lines, b"", b""])
    return head if head_only else head + body


def _retry_lines(seconds: float) -> list[bytes]:
    """Tell when to come back: whole seconds for everybody, milliseconds for OpenAI's SDKs."""
    lines = [
        b"Retry-After: %d" % math.ceil(seconds),
        b"retry-after-ms: %d" % math.ceil(seconds * 1000),
    ]
    if seconds > _SDK_MAX_WAIT_S:
        lines.append(b"x-should-retry: false")
    return lines


def waited_lines(waited_ms: float) -> list[bytes]:
    """Tell how long a request waited in the queue (Server-Timing: W3C)."""
    return [
        b"x-sidecar-queue-ms: %d" % waited_ms,
        b"Server-Timing: sidecar-queue;dur=%.1f" % waited_ms,
    ]
