"""What can admission answer? A permit, a ticket or a rejection; and what observers are told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Reason(StrEnum):
    """Why a request was refused. Values are the `x-sidecar-reason` header and a metric label."""

    CIRCUIT_OPEN = "circuit_open"
    PROBING = "probing"
    QUEUE_FULL = "queue_full"
    QUEUE_TIMEOUT = "queue_timeout"
    DRAINING = "draining"


class BreakerState(StrEnum):
    """The three states of a circuit breaker (Nygard, "Release It!")."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Subject(NamedTuple):
    """Who asks: what an operator wants to see of a request that holds a slot or waits for one."""

    request_id: str
    method: str
    path: str
    caller: str = ""


class Pass(NamedTuple):
    """The breaker lets one request through: under which generation, and as which probe.

    `probe` is 0 for ordinary traffic. `observed` says that only the mode `observe` let it through.
    """

    generation: int = 0
    probe: int = 0
    observed: bool = False


class Blocked(NamedTuple):
    """The breaker lets nothing through for now; `remaining_s` until it may.

    `probing` says that it is half-open; `held`, that the backend says it is not ready yet.
    """

    probing: bool
    remaining_s: float
    held: bool = False


@dataclass(slots=True, eq=False)
class Permit:
    """The right to one exchange with the backend. Given back exactly once, by `Guard.settle`."""

    guard: str
    number: int
    subject: Subject
    granted_s: float
    waited_s: float
    passed: Pass
    judged: bool = False  # the breaker has already heard of it (a probe's first data event)
    settled: bool = False


class TicketState(StrEnum):
    """Where a ticket stands. It leaves WAITING exactly once."""

    WAITING = "waiting"
    ANSWERED = "answered"
    LEFT = "left"


@dataclass(slots=True, eq=False)
class Ticket:
    """A place in the queue. Answered exactly once, or left."""

    guard: str
    number: int
    subject: Subject
    since_s: float
    deadline_s: float
    passed: Pass
    held_bytes: int = 0  # of request body, kept in memory while it waits
    state: TicketState = TicketState.WAITING


@dataclass(frozen=True, slots=True)
class Rejection:
    """No, why, and when to come back. `retry_after_s` is in seconds, already jittered."""

    guard: str
    reason: Reason
    message: str
    retry_after_s: float


class Answer(NamedTuple):
    """What a waiting ticket gets in the end."""

    ticket: Ticket
    result: Permit | Rejection


class TransitionReason(StrEnum):
    """Why the breaker changed state. Values are a metric label."""

    CONSECUTIVE_FAILURES = "consecutive_failures"
    FAILURE_RATIO = "failure_ratio"
    SLOW_RATIO = "slow_ratio"
    OPEN_TIME_OVER = "open_time_over"
    PROBE_SUCCEEDED = "probe_succeeded"
    PROBE_FAILED = "probe_failed"
    PROBE_TIMEOUT = "probe_timeout"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Transition:
    """A breaker changed state. `cooldown_s` is how long it stays open, 0 in other states.

    `failure_count` is the number of failures in a row, `detail` the outcome that caused the change.
    """

    guard: str
    before: BreakerState
    after: BreakerState
    reason: TransitionReason
    failure_count: int
    cooldown_s: float
    detail: str = ""


TransitionObserver = Callable[[Transition], None]
