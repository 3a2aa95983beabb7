"""How do things stand at this moment? Metrics read from the guards' snapshots at scrape time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum

from prometheus_client.core import Metric

from sidecar.admission.answers import BreakerState
from sidecar.admission.breaker import BreakerSnapshot
from sidecar.admission.config import BreakerMode
from sidecar.admission.guard import GuardSnapshot
from sidecar.admission.outcome import Condition
from sidecar.telemetry.families import counter, gauge

_Labelled = list[tuple[str, BreakerSnapshot]]

_OF_GUARD: tuple[tuple[str, str, Callable[[GuardSnapshot], float]], ...] = (
    ("in_flight", "Exchanges that hold a slot now.", lambda guard: guard.in_flight),
    ("waiting", "Requests that wait for a slot now.", lambda guard: guard.waiting),
    (
        "oldest_wait_seconds",
        "How long the first in the queue has waited; 0 when nobody waits.",
        lambda guard: guard.oldest_wait_s,
    ),
    ("concurrency_limit", "Slots there are (max_concurrent).", lambda guard: guard.limit),
    (
        "effective_concurrency_limit",
        "Slots that may be used now; fewer while breaker.ramp_s raises them after a recovery.",
        lambda guard: guard.effective_limit,
    ),
    ("queue_limit", "Places in the queue (queue.max_waiting).", lambda guard: guard.max_waiting),
    (
        "queue_held_bytes",
        "Request body bytes kept in memory (at most queue.max_bytes).",
        lambda guard: guard.held_bytes,
    ),
)

_OF_BREAKER: tuple[tuple[str, str, Callable[[BreakerSnapshot], float]], ...] = (
    (
        "breaker_open_remaining_seconds",
        "Time until the next probe may pass; 0 unless the breaker is open.",
        lambda breaker: breaker.open_remaining_s,
    ),
    (
        "breaker_consecutive_failures",
        "Failures in a row; at breaker.failure_threshold the breaker opens.",
        lambda breaker: breaker.failure_count,
    ),
    (
        "breaker_window_calls",
        "Calls completed within breaker.window_s; 0 where no ratio is configured.",
        lambda breaker: breaker.window_calls,
    ),
    (
        "breaker_window_failures",
        "Those of breaker_window_calls that failed or met a busy backend.",
        lambda breaker: breaker.window_failures,
    ),
    (
        "breaker_window_slow_calls",
        "Those of breaker_window_calls whose first data came after breaker.slow_call_s.",
        lambda breaker: breaker.window_slow,
    ),
    (
        "breaker_probe_hold_remaining_seconds",
        "Time for which no probe is sent, because the backend says that it is not ready.",
        lambda breaker: breaker.probe_hold_s,
    ),
)


def guard_families(guards: Sequence[GuardSnapshot]) -> Iterator[Metric]:
    """Everything that one frozen look at the guards can tell."""
    for name, meaning, read in _OF_GUARD:
        yield gauge(name, meaning, ["route"], [([guard.name], read(guard)) for guard in guards])
    # A breaker that classes share is shown once, or sums over `route` would count it twice.
    breakers = [
        (guard.name, guard.breaker)
        for guard in guards
        if guard.breaker is not None and guard.breaker_of == guard.name
    ]
    for name, meaning, look in _OF_BREAKER:
        yield gauge(name, meaning, ["route"], [([route], look(one)) for route, one in breakers])
    yield _one_hot(
        "breaker_state",
        "1 for the state the breaker is in, 0 for the others.",
        "state",
        BreakerState,
        [(route, one.state) for route, one in breakers],
    )
    yield _one_hot(
        "breaker_mode",
        "1 for what the operator lets the breaker do, 0 for the others.",
        "mode",
        BreakerMode,
        [(route, one.mode) for route, one in breakers],
    )
    yield _one_hot(
        "backend_condition",
        "1 for the condition the backend says it is in, 0 for the others.",
        "condition",
        Condition,
        [(route, one.condition) for route, one in breakers],
    )
    yield from _breaker_counters(breakers)


def _breaker_counters(breakers: _Labelled) -> Iterator[Metric]:
    yield counter(
        "late_results",
        "Results from before the breaker's last transition; they change nothing.",
        ["route"],
        [([route], one.late_results) for route, one in breakers],
    )
    yield counter(
        "would_refuse",
        "Requests that breaker.mode observe let pass and enforce would have refused.",
        ["route"],
        [([route], one.would_refuse) for route, one in breakers],
    )


def _one_hot(
    name: str,
    meaning: str,
    label: str,
    values: type[StrEnum],
    current: Sequence[tuple[str, StrEnum]],
) -> Metric:
    rows = [
        ([route, value.value], float(value is is_now))
        for route, is_now in current
        for value in values
    ]
    return gauge(name, meaning, ["route", label], rows)
