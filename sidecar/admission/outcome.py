"""How did an exchange end, and what does that say about the backend?

The table in `docs/semantics.md`, section "What counts", in code.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache


class Verdict(StrEnum):
    """What an outcome says about the backend's health."""

    SUCCESS = "success"
    FAILURE = "failure"
    OVERLOAD = "overload"  # alive but busy: no failure, yet no proof of recovery either
    NEUTRAL = "neutral"  # says nothing about the backend


class Ending(StrEnum):
    """The one thing that ended an exchange. Values are metric labels."""

    COMPLETED = "completed"  # the response arrived whole; its status decides
    CONNECT_FAILED = "connect_failed"
    CONNECT_TIMEOUT = "connect_timeout"
    TLS_FAILED = "tls_failed"
    RESET = "reset"  # the connection broke before the response head
    BAD_RESPONSE = "bad_response"  # what came back is not HTTP
    FIRST_EVENT_TIMEOUT = "first_event_timeout"
    STALL_TIMEOUT = "stall_timeout"
    CUT = "cut"  # the response broke off after its head
    TOTAL_TIMEOUT = "total_timeout"
    CLIENT_GONE = "client_gone"
    CLIENT_STALLED = "client_stalled"  # took no byte for timers.write_stall_s
    CLIENT_BODY = "client_body"  # request body malformed, or too slow
    ABORTED = "aborted"  # this process had to stop
    OUT_OF_FILES = "out_of_files"  # this process may open no more
    INTERNAL_ERROR = "internal_error"


class OutcomeLabel(StrEnum):
    """How a request is counted in `requests_total`. Values are metric labels."""

    OK = "ok"  # below 400
    CLIENT_ERROR = "client_error"  # a 4xx of the backend
    SERVER_ERROR = "server_error"  # a 5xx of the backend
    OVERLOAD = "overload"  # the backend said that it is busy
    REFUSED = "refused"  # answered by the sidecar itself; see refusals_total
    CONNECT_FAILED = Ending.CONNECT_FAILED.value
    CONNECT_TIMEOUT = Ending.CONNECT_TIMEOUT.value
    TLS_FAILED = Ending.TLS_FAILED.value
    RESET = Ending.RESET.value
    BAD_RESPONSE = Ending.BAD_RESPONSE.value
    FIRST_EVENT_TIMEOUT = Ending.FIRST_EVENT_TIMEOUT.value
    STALL_TIMEOUT = Ending.STALL_TIMEOUT.value
    CUT = Ending.CUT.value
    TOTAL_TIMEOUT = Ending.TOTAL_TIMEOUT.value
    CLIENT_GONE = Ending.CLIENT_GONE.value
    CLIENT_STALLED = Ending.CLIENT_STALLED.value
    CLIENT_BODY = Ending.CLIENT_BODY.value
    ABORTED = Ending.ABORTED.value
    OUT_OF_FILES = Ending.OUT_OF_FILES.value
    INTERNAL_ERROR = Ending.INTERNAL_ERROR.value


class Said(StrEnum):
    """What a response said of itself beside its status, as far as its body was understood."""

    NOTHING = "nothing"  # plain HTTP: status and framing decide
    FINISHED = "finished"  # the terminal marker of its dialect arrived
    UNFINISHED = "unfinished"  # a stream of a known dialect, without terminal marker so far
    FAILED = "failed"  # an error event in a stream, or an error body that blames the backend
    BUSY = "busy"  # an error that speaks of load: overloaded, rate limited
    LOADING = "loading"  # the model is still being loaded
    RESTARTING = "restarting"  # the backend drains and will be back: OpenClaw's own shutdown


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the breaker and the counters are told about one finished exchange."""

    verdict: Verdict
    label: OutcomeLabel
    got_event: bool = False


# The backend did it. Everything else that cuts an exchange short is the client's or ours.
_BACKEND_FAILURES = frozenset(
    {
        Ending.CONNECT_FAILED,
        Ending.CONNECT_TIMEOUT,
        Ending.TLS_FAILED,
        Ending.RESET,
        Ending.BAD_RESPONSE,
        Ending.FIRST_EVENT_TIMEOUT,
        Ending.STALL_TIMEOUT,
        Ending.CUT,
    }
)

# 429: RFC 6585, 4. 503: RFC 9110, 15.6.4. 529: Anthropic's "overloaded_error".
_BUSY_STATUSES = frozenset({429, 503, 529})

# These two speak about the request, not about the backend's health (RFC 9110, 15.6.2 and 15.6.6).
_REQUEST_FAULT_STATUSES = frozenset({501, 505})


@lru_cache(maxsize=1024)  # statuses come from a backend; there are not many
def outcome_of(ending: Ending, status: int | None, *, got_event: bool) -> Outcome:
    """Judge one exchange.

    `status` is the backend's response status, None when no head arrived. `got_event` says
    whether a data event (for plain HTTP: a body byte) arrived; what an error says is none.
    """
    if status is None:
        if ending is Ending.COMPLETED:
            ending = Ending.RESET  # nothing arrived, so nothing arrived whole
    else:
        got_event = got_event and status < 400
        if ending is Ending.COMPLETED:
            return _outcome_of_status(status, got_event=got_event)
    verdict = Verdict.FAILURE if ending in _BACKEND_FAILURES else Verdict.NEUTRAL
    return Outcome(verdict, OutcomeLabel(ending.value), got_event)


def _outcome_of_status(status: int, *, got_event: bool) -> Outcome:
    if status in _BUSY_STATUSES:
        return Outcome(Verdict.OVERLOAD, OutcomeLabel.OVERLOAD, got_event)
    if status in _REQUEST_FAULT_STATUSES:
        return Outcome(Verdict.NEUTRAL, OutcomeLabel.SERVER_ERROR, got_event)
    if status >= 500:
        return Outcome(Verdict.FAILURE, OutcomeLabel.SERVER_ERROR, got_event)
    if status >= 400:
        return Outcome(Verdict.NEUTRAL, OutcomeLabel.CLIENT_ERROR, got_event)
    return Outcome(Verdict.SUCCESS, OutcomeLabel.OK, got_event)
