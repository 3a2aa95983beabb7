"""What does `/status` say? Plain dictionaries from frozen snapshots; no sockets here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sidecar.admission.answers import Permit, Subject, Ticket
from sidecar.admission.breaker import BreakerSnapshot
from sidecar.admission.guard import GuardSnapshot
from sidecar.telemetry.recent import RecentRefusal

# Up to the last @: a password may hold anything, and to mask too much does no harm.
_USERINFO = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://).*@", re.DOTALL)


@dataclass(frozen=True, slots=True)
class StatusFacts:
    """All that `/status` and the page show, read at one moment.

    `now_s` is the monotonic clock that the snapshots use, `at` the wall clock at that moment.
    `drain_remaining_s` is None unless the process is draining.
    """

    version: str
    upstream: str
    uptime_s: float
    drain_remaining_s: float | None
    now_s: float
    at: datetime
    guards: tuple[GuardSnapshot, ...]
    recent_refusals: tuple[RecentRefusal, ...]


def status_dict(facts: StatusFacts) -> dict[str, Any]:
    """The body of `/status`. Times ending in `_s` are seconds."""
    return {
        "version": facts.version,
        "upstream": masked(facts.upstream),
        "state": "serving" if facts.drain_remaining_s is None else "draining",
        "uptime_s": _seconds(facts.uptime_s),
        "drain_remaining_s": (
            None if facts.drain_remaining_s is None else _seconds(facts.drain_remaining_s)
        ),
        "guards": [_guard(guard, facts) for guard in facts.guards],
        "recent_refusals": [_refusal(refusal) for refusal in facts.recent_refusals],
    }


def masked(url: str) -> str:
    """The URL without the name and password it may hold."""
    return _USERINFO.sub(r"\1***@", url)


def rfc3339(at: datetime) -> str:
    """A moment in UTC with milliseconds, such as `2026-02-28T23:59:59.999Z`."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _guard(guard: GuardSnapshot, facts: StatusFacts) -> dict[str, Any]:
    return {
        "name": guard.name,
        "limit": guard.limit,
        "effective_limit": guard.effective_limit,
        "in_flight": guard.in_flight,
        "waiting": guard.waiting,
        "max_waiting": guard.max_waiting,
        "oldest_wait_s": _seconds(guard.oldest_wait_s),
        "mean_slot_s": _seconds(guard.mean_slot_s),
        "held_bytes": guard.held_bytes,
        "max_bytes": guard.max_bytes,
        "breaker": None if guard.breaker is None else _breaker(guard.breaker, facts.at),
        "breaker_of": guard.breaker_of or None,
        "permits": [_permit(permit, facts.now_s) for permit in guard.permits],
        "tickets": _tickets(guard.tickets, facts.now_s),
    }


def _breaker(breaker: BreakerSnapshot, at: datetime) -> dict[str, Any]:
    return {
        "state": breaker.state.value,
        "mode": breaker.mode.value,
        "failure_count": breaker.failure_count,
        "failure_threshold": breaker.failure_threshold,
        "open_remaining_s": _seconds(breaker.open_remaining_s),
        "tripped_by": breaker.tripped_by,
        "trip_reason": breaker.trip_reason,
        "opened_at": _opened_at(breaker, at),
        "probes_in_flight": breaker.probes_in_flight,
        "generation": breaker.generation,
        "late_results": breaker.late_results,
        "would_refuse": breaker.would_refuse,
        "condition": breaker.condition.value,
        "probe_hold_s": _seconds(breaker.probe_hold_s),
        "window_calls": breaker.window_calls,
        "window_failures": breaker.window_failures,
        "window_slow": breaker.window_slow,
    }


def _opened_at(breaker: BreakerSnapshot, at: datetime) -> str | None:
    """When it opened, in wall time; None unless it is open.

    Counted back from now: the breaker knows the monotonic clock only, and so a corrected
    wall clock cannot put the opening into the future.
    """
    if breaker.state != "open":
        return None
    return rfc3339(at - timedelta(seconds=breaker.open_for_s))


def _permit(permit: Permit, now_s: float) -> dict[str, Any]:
    return _subject(permit.subject) | {
        "age_s": _seconds(now_s - permit.granted_s),
        "waited_s": _seconds(permit.waited_s),
        "probe": permit.passed.probe > 0,
    }


def _tickets(tickets: Iterable[Ticket], now_s: float) -> list[dict[str, Any]]:
    return [
        _subject(ticket.subject)
        | {"waited_s": _seconds(now_s - ticket.since_s), "position": position}
        for position, ticket in enumerate(tickets, start=1)
    ]


def _subject(subject: Subject) -> dict[str, Any]:
    return {
        "request_id": subject.request_id,
        "method": subject.method,
        "path": subject.path,
        "caller": subject.caller,
    }


def _refusal(refusal: RecentRefusal) -> dict[str, Any]:
    return {
        "at": rfc3339(refusal.at),
        "request_id": refusal.request_id,
        "route": refusal.route,
        "reason": refusal.reason,
        "path": refusal.path,
        "caller": refusal.caller,
    }


def _seconds(seconds: float) -> float:
    return round(seconds, 3)
