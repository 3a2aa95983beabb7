"""How did an exchange end, and what does that say about the backend?

The table in `docs/semantics.md`, section "What counts", in code.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple


class Verdict(StrEnum):
    """What an outcome says about the backend's health."""

    SUCCESS = "success"
    FAILURE = "failure"
    OVERLOAD = "overload"  # alive but busy: no failure, yet no proof of recovery either
    ANSWERED = "answered"  # the client left, but not before the backend had begun to answer
    SLOW = "slow"  # the client left, because nothing had come for too long
    NEUTRAL = "neutral"  # says nothing about the backend


class Condition(StrEnum):
    """In which condition a backend says it is. Values are a metric label."""

    NORMAL = "normal"
    WARMING = "warming"  # its model is still being loaded
    RESTARTING = "restarting"  # it shuts down and will be back


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
    BACKEND_ERROR = "backend_error"  # a status below 500, and an error that blames the backend
    LOADING = "loading"  # a 503: the model is still being loaded
    RESTARTING = "restarting"  # a 503: the backend shuts down and will be back
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
    condition: Condition = Condition.NORMAL  # what the backend says of itself


class Report(NamedTuple):
    """What else is known of a finished exchange, beside how it ended."""

    # Seconds that the backend asks to be left alone: `Retry-After` of a 429 or 503.
    retry_after_s: float | None = None
    # Seconds from the grant to the first data event; None when none came.
    first_event_s: float | None = None
    # The logical request that this is an attempt at; "" when nothing identifies it. Whether it is
    # a repetition says `is_retry`: SDKs repeat what failed, with the attempt's number in a header.
    attempt_of: str = ""
    is_retry: bool = False


NO_REPORT = Report()


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

# The client did it: what the backend had said until then still counts.
_CLIENT_ENDINGS = frozenset({Ending.CLIENT_GONE, Ending.CLIENT_STALLED})

# 429: RFC 6585, 4. 503: RFC 9110, 15.6.4. 529: Anthropic's "overloaded_error".
_BUSY_STATUSES = frozenset({429, 503, 529})

# These two speak about the request, not about the backend's health (RFC 9110, 15.6.2 and 15.6.6).
_REQUEST_FAULT_STATUSES = frozenset({501, 505})

# "Not now": whatever the status, and whatever the reason.
_NOT_NOW = frozenset({Said.BUSY, Said.LOADING, Said.RESTARTING})


@lru_cache(maxsize=1024)  # statuses come from a backend; there are not many
def outcome_of(
    ending: Ending, status: int | None, *, got_event: bool, said: Said = Said.NOTHING
) -> Outcome:
    """Judge one exchange.

    `status` is the backend's response status, None when no head arrived. `got_event` says
    whether a data event (for plain HTTP: a body byte) arrived; what an error says is none.
    `said` is what the response said beside its status, as far as it arrived.
    """
    if status is None:
        if ending is Ending.COMPLETED:
            ending = Ending.RESET  # nothing arrived, so nothing arrived whole
        return Outcome(_verdict_on(ending), OutcomeLabel(ending.value), got_event)
    got_event = got_event and status < 400
    if ending is Ending.COMPLETED:
        return _outcome_of_answer(status, said, got_event=got_event)
    if ending in _CLIENT_ENDINGS:
        return _outcome_of_leaving(ending, status, said, got_event=got_event)
    verdict = _verdict_on(ending)
    if ending is Ending.CUT and said is Said.BUSY:
        verdict = Verdict.OVERLOAD  # it said why before it broke off
    return Outcome(verdict, OutcomeLabel(ending.value), got_event)


def _verdict_on(ending: Ending) -> Verdict:
    return Verdict.FAILURE if ending in _BACKEND_FAILURES else Verdict.NEUTRAL


def _outcome_of_answer(status: int, said: Said, *, got_event: bool) -> Outcome:
    """Judge what arrived whole, as far as HTTP can tell."""
    if status >= 500 or status in _BUSY_STATUSES:
        return _outcome_of_error_status(status, said)
    if said in _NOT_NOW:
        return Outcome(Verdict.OVERLOAD, OutcomeLabel.OVERLOAD, got_event)
    if said is Said.FAILED:
        return Outcome(Verdict.FAILURE, OutcomeLabel.BACKEND_ERROR, got_event)
    if status >= 400:
        return Outcome(Verdict.NEUTRAL, OutcomeLabel.CLIENT_ERROR)
    if said is Said.UNFINISHED:
        return Outcome(Verdict.FAILURE, OutcomeLabel.CUT, got_event)
    return Outcome(Verdict.SUCCESS, OutcomeLabel.OK, got_event)


def _outcome_of_error_status(status: int, said: Said) -> Outcome:
    if status == 503 and said is Said.LOADING:
        return Outcome(Verdict.NEUTRAL, OutcomeLabel.LOADING, condition=Condition.WARMING)
    if status == 503 and said is Said.RESTARTING:
        return Outcome(Verdict.NEUTRAL, OutcomeLabel.RESTARTING, condition=Condition.RESTARTING)
    if status in _BUSY_STATUSES:
        return Outcome(Verdict.OVERLOAD, OutcomeLabel.OVERLOAD)
    if status in _REQUEST_FAULT_STATUSES:
        return Outcome(Verdict.NEUTRAL, OutcomeLabel.SERVER_ERROR)
    return Outcome(Verdict.FAILURE, OutcomeLabel.SERVER_ERROR)


def _outcome_of_leaving(ending: Ending, status: int, said: Said, *, got_event: bool) -> Outcome:
    """Judge what had arrived when the client left, or was cut off because it took nothing.

    SDKs hang up at an error event, and as soon as they have read a stream's terminal marker.
    """
    heard = Said.NOTHING if said is Said.UNFINISHED else said
    so_far = _outcome_of_answer(status, heard, got_event=got_event)
    if status >= 400 or so_far.verdict is not Verdict.SUCCESS:
        return so_far
    label = OutcomeLabel(ending.value)
    if said is Said.FINISHED:
        return Outcome(Verdict.SUCCESS, label, got_event)  # all of it was there
    return Outcome(Verdict.ANSWERED if got_event else Verdict.NEUTRAL, label, got_event)
