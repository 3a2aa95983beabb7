"""How many slots are there soon after a recovery? One at first, all of them `ramp_s` later.

A backend that has just come back is cold: it loads a model, fills caches, starts workers. All the
requests that waited for it would be its next outage. So the limit rises by one slot at a time, in
equal steps.
"""

from __future__ import annotations


class Ramp:
    """The way up from one slot, where there is one. Moments are monotonic seconds."""

    def __init__(self) -> None:
        self._since_s: float | None = None

    def begin(self, now_s: float) -> None:
        """The backend has recovered."""
        self._since_s = now_s

    def end(self) -> None:
        """There is no ramp: either never was one, or its reason is gone."""
        self._since_s = None

    def limit(self, now_s: float, ramp_s: float, full: int) -> int:
        """How many of the `full` slots may be used now."""
        since_s = self._since_s
        if since_s is None or now_s >= since_s + ramp_s:
            return full
        slots = 1 + int((now_s - since_s) * (full - 1) / ramp_s)
        # Division may be off by a hair. A step comes at the moment that `rises_s` had named, so
        # that whoever waited for it finds the slot there.
        if slots < full and _step_s(slots, since_s, ramp_s, full) <= now_s:
            return slots + 1
        if slots > 1 and _step_s(slots - 1, since_s, ramp_s, full) > now_s:
            return slots - 1
        return slots

    def rises_s(self, now_s: float, ramp_s: float, full: int) -> float | None:
        """When there will be one slot more; None when there are all of them already."""
        slots = self.limit(now_s, ramp_s, full)
        if self._since_s is None or slots >= full:
            return None
        return _step_s(slots, self._since_s, ramp_s, full)


def _step_s(slots: int, since_s: float, ramp_s: float, full: int) -> float:
    """When `slots` become one more."""
    return since_s + ramp_s * slots / (full - 1)
