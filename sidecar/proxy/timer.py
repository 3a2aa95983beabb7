"""How does a deadline move with every chunk without costing a timer each time?"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable


class LazyTimer:
    """One deadline that is moved often and seldom reached.

    Moving it later only writes a number; the armed timer, when it fires early, arms itself again.
    """

    __slots__ = ("_callback", "_deadline_s", "_due_s", "_handle", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None
        self._due_s = math.inf
        self._deadline_s = math.inf

    @property
    def deadline_s(self) -> float:
        """When it calls back, in the loop's time; infinite when it does not."""
        return self._deadline_s

    def aim(self, callback: Callable[[], None], delay_s: float) -> None:
        """Call somebody else back from now on, in `delay_s` seconds."""
        self._callback = callback
        self.set(delay_s)

    def set(self, delay_s: float) -> None:
        """Call back in `delay_s` seconds, unless moved or cleared before."""
        deadline_s = self._loop.time() + delay_s
        self._deadline_s = deadline_s
        if deadline_s < self._due_s:
            self._arm(deadline_s)

    def clear(self) -> None:
        """Forget deadline and callback. The armed timer may stay: it will find nothing to do."""
        self._deadline_s = math.inf

    def close(self) -> None:
        """Let go of the armed timer, and so of what the callback refers to."""
        self._deadline_s = self._due_s = math.inf
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self, at_s: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._due_s = at_s
        self._handle = self._loop.call_at(at_s, self._fire)

    def _fire(self) -> None:
        self._handle = None
        self._due_s = math.inf
        if self._deadline_s == math.inf:
            return
        # A millisecond of grace: uvloop's clock has that grain.
        if self._loop.time() < self._deadline_s - 0.001:
            self._arm(self._deadline_s)
            return
        self._deadline_s = math.inf
        self._callback()
