"""How did the calls of the last while go? Counts over a trailing window, by time of completion.

Not by time of arrival: a generation takes minutes, and what ended now tells about now.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

# Results that come within one step of the window are kept as one, so that memory is bounded
# however many there are. They leave the window together: a result may leave it one step early.
_STEPS = 100


class WindowCounts(NamedTuple):
    """What lies in the window: calls that say something, and how many of them were bad or slow."""

    calls: int = 0
    failures: int = 0
    slow: int = 0


@dataclass(slots=True)
class _Step:
    since_s: float
    calls: int = 0
    failures: int = 0
    slow: int = 0


class Window:
    """A trailing window. Its length is given with each call, because a reload may change it."""

    def __init__(self) -> None:
        self._steps: deque[_Step] = deque()
        self._all = _Step(0.0)  # the sum of all steps

    def add(self, now_s: float, window_s: float, *, failed: bool, slow: bool) -> WindowCounts:
        """Count one result; returns what lies in the window with it."""
        self._forget_before(now_s - window_s)
        steps, whole = self._steps, self._all
        if not steps or now_s - steps[-1].since_s >= window_s / _STEPS:
            steps.append(_Step(now_s))
        for counted in (steps[-1], whole):
            counted.calls += 1
            counted.failures += failed
            counted.slow += slow
        return WindowCounts(whole.calls, whole.failures, whole.slow)

    def _forget_before(self, moment_s: float) -> None:
        """A result is in the window until it is exactly as old as the window is long."""
        steps, whole = self._steps, self._all
        while steps and steps[0].since_s <= moment_s:
            gone = steps.popleft()
            whole.calls -= gone.calls
            whole.failures -= gone.failures
            whole.slow -= gone.slow

    def counts(self, now_s: float, window_s: float) -> WindowCounts:
        """Look at what lies in the window, without touching it."""
        inside = [step for step in self._steps if step.since_s > now_s - window_s]
        return WindowCounts(
            sum(step.calls for step in inside),
            sum(step.failures for step in inside),
            sum(step.slow for step in inside),
        )

    def clear(self) -> None:
        """Forget everything."""
        self._steps.clear()
        self._all = _Step(0.0)
