"""Which lines do requests and breakers leave in the log? (docs/logs.md tells every field.)"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic

import structlog

from sidecar.admission.answers import BreakerState, Transition
from sidecar.admission.outcome import OutcomeLabel
from sidecar.telemetry.facts import RequestFact
from sidecar.telemetry.logs import LogOutput

# Everyday endings: only these may be left out by sampling, and only without a refusal.
_EVERYDAY = frozenset({OutcomeLabel.OK, OutcomeLabel.CLIENT_ERROR, OutcomeLabel.CLIENT_GONE})

# The backend failed, or we did: somebody may want to look. All other endings are information.
_LEVELS = {
    OutcomeLabel.SERVER_ERROR: logging.WARNING,
    OutcomeLabel.OVERLOAD: logging.WARNING,
    OutcomeLabel.BACKEND_ERROR: logging.WARNING,
    OutcomeLabel.LOADING: logging.WARNING,
    OutcomeLabel.RESTARTING: logging.WARNING,
    OutcomeLabel.CONNECT_FAILED: logging.WARNING,
    OutcomeLabel.CONNECT_TIMEOUT: logging.WARNING,
    OutcomeLabel.TLS_FAILED: logging.WARNING,
    OutcomeLabel.RESET: logging.WARNING,
    OutcomeLabel.BAD_RESPONSE: logging.WARNING,
    OutcomeLabel.FIRST_EVENT_TIMEOUT: logging.WARNING,
    OutcomeLabel.STALL_TIMEOUT: logging.WARNING,
    OutcomeLabel.CUT: logging.WARNING,
    OutcomeLabel.TOTAL_TIMEOUT: logging.WARNING,
    OutcomeLabel.OUT_OF_FILES: logging.ERROR,
    OutcomeLabel.INTERNAL_ERROR: logging.ERROR,
}

# The first three are the event names of the guard this one descends from.
_TRANSITION_EVENTS = {
    BreakerState.OPEN: (logging.WARNING, "circuit_breaker_opened"),
    BreakerState.HALF_OPEN: (logging.INFO, "circuit_breaker_half_open"),
    BreakerState.CLOSED: (logging.INFO, "circuit_breaker_closed"),
}


# Of connections that were refused before a request was read so many lines are written a second:
# whoever connects need not even send anything to get one. Metrics count them all.
_UNREAD_PER_S = 20

_log = structlog.get_logger()


class RequestLog:
    """Writes one line for each finished request, and one for each transition of a breaker.

    `enabled` switches request lines on; `sample_ratio` (0 to 1) is the share of everyday ones
    that is written, failures and refusals are written always. `random` returns floats in [0, 1).
    `clock` is monotonic, in seconds.
    """

    def __init__(
        self,
        output: LogOutput,
        *,
        enabled: bool,
        sample_ratio: float,
        random: Callable[[], float],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._clock = clock
        self._unread_s = 0.0  # when the second began that these two count for
        self._unread = self._left_out = 0
        self._output = output
        self._enabled = enabled
        self._sample_ratio = sample_ratio
        self._random = random

    def request(self, fact: RequestFact) -> None:
        """Write the line of one finished request."""
        if not self._enabled or (
            self._sample_ratio < 1.0
            and fact.outcome in _EVERYDAY
            and not fact.reason
            and self._random() >= self._sample_ratio
        ):
            return
        if not fact.method and not self._may_tell_unread():
            return
        level = _LEVELS.get(fact.outcome, logging.INFO)
        self._output.event(level, "request", _fields(fact))

    def _may_tell_unread(self) -> bool:
        """Whether one more line without a request may be written in this second."""
        now_s = self._clock()
        if now_s - self._unread_s >= 1.0:
            if self._left_out:
                _log.warning("connection_lines_left_out", count=self._left_out)
            self._unread_s = now_s
            self._unread = self._left_out = 0
        self._unread += 1
        if self._unread > _UNREAD_PER_S:
            self._left_out += 1
            return False
        return True

    def transition(self, change: Transition) -> None:
        """Write the line of one transition, whatever is said about request lines."""
        level, event = _TRANSITION_EVENTS[change.after]
        structlog.get_logger().log(
            level,
            event,
            route=change.guard,
            failure_count=change.failure_count,
            cooldown_s=round(change.cooldown_s, 3),
            reason=change.reason.value,
            detail=change.detail or None,
            before=change.before.value,
        )


def _fields(fact: RequestFact) -> dict[str, object]:
    """Times to a tenth of a millisecond, our own overhead to a microsecond.

    `int(x * 10^n + 0.5) / 10^n`, because `round` with digits takes twice as long, for exactness
    that nobody reads.
    """
    first_event_s, hold_s, overhead_s = fact.first_event_s, fact.hold_s, fact.overhead_s
    return {
        "request_id": fact.request_id,
        "route": fact.route,
        "method": fact.method,
        "path": fact.path,
        "caller": fact.caller,
        "status": fact.status,
        "outcome": fact.outcome,
        "reason": fact.reason or None,
        "wait_s": int(fact.wait_s * 1e4 + 0.5) / 1e4,
        "first_event_s": None if first_event_s is None else int(first_event_s * 1e4 + 0.5) / 1e4,
        "hold_s": None if hold_s is None else int(hold_s * 1e4 + 0.5) / 1e4,
        "duration_s": int(fact.duration_s * 1e4 + 0.5) / 1e4,
        "overhead_s": None if overhead_s is None else int(overhead_s * 1e6 + 0.5) / 1e6,
        "bytes_in": fact.bytes_in,
        "bytes_out": fact.bytes_out,
        "cancel_phase": fact.cancel_phase,
        "retried": fact.retried,
        "trace_id": fact.trace_id or None,
    }
