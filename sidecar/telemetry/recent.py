"""Whom did the sidecar turn away lately? The last refusals, for `/status` and the page."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from sidecar.telemetry.facts import RequestFact

# Enough to see a pattern, little enough to read (a guess).
KEPT = 50


@dataclass(frozen=True, slots=True)
class RecentRefusal:
    """One request that the sidecar answered itself. `at` is wall time, in UTC."""

    at: datetime
    request_id: str
    route: str
    reason: str
    path: str
    caller: str


class RecentRefusals:
    """Remembers the last refusals; older ones are forgotten."""

    def __init__(self, wall_clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._wall_clock = wall_clock
        self._kept: deque[RecentRefusal] = deque(maxlen=KEPT)

    def request(self, fact: RequestFact) -> None:
        """Hear of one finished request; all but refusals are ignored."""
        if fact.reason:
            self._kept.append(
                RecentRefusal(
                    at=self._wall_clock(),
                    request_id=fact.request_id,
                    route=fact.route,
                    reason=fact.reason,
                    path=fact.path,
                    caller=fact.caller,
                )
            )

    def newest_first(self) -> tuple[RecentRefusal, ...]:
        """What is remembered."""
        return tuple(reversed(self._kept))
