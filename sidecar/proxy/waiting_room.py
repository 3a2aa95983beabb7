"""Where does a request wait for its answer from admission? Here, so that admission need not."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic
from typing import NamedTuple

from sidecar.admission.answers import Answer, Permit, Rejection, Subject, Ticket
from sidecar.admission.guard import Guard
from sidecar.admission.outcome import NO_REPORT, Ending, Outcome, Report, outcome_of
from sidecar.proxy.config import Timers

_NEVER_USED = outcome_of(Ending.CLIENT_GONE, None, got_event=False)


class Waiter(NamedTuple):
    """Who waits for a ticket's answer, and what ends the wait."""

    on_answer: Callable[[Permit | Rejection], None]
    timer: asyncio.TimerHandle


class WaitingRoom:
    """Waiting for one guard's answers: whom to tell, and a timer, for each ticket."""

    def __init__(
        self,
        guard: Guard,
        queue_timeout_s: float,
        timers: Timers,
        waiters: dict[Ticket, Waiter] | None = None,
    ) -> None:
        """`timers` are those of this class of routes.

        Rooms whose guards share a breaker must have their `waiters` in common: when it opens, one
        guard answers the tickets of all.
        """
        self.guard = guard
        self.queue_timeout_s = queue_timeout_s
        self.timers = timers
        self._loop = asyncio.get_running_loop()
        self._waiters = {} if waiters is None else waiters
        self._due: deque[Answer] = deque()
        self._delivering = False
        self._rise: asyncio.TimerHandle | None = None  # until the limit is due to rise

    def ask(self, subject: Subject, body_bytes: int) -> Permit | Ticket | Rejection:
        """Ask for a slot. A ticket's answer is had by `wait`."""
        return self.guard.ask(subject, monotonic(), body_bytes)

    def wait(self, ticket: Ticket, on_answer: Callable[[Permit | Rejection], None]) -> None:
        """Have `on_answer` called with the ticket's answer, unless it leaves before."""
        timer = self._loop.call_later(self.queue_timeout_s, self._expire, ticket)
        self._waiters[ticket] = Waiter(on_answer, timer)
        if self._rise is None:
            self._aim()

    def leave(self, ticket: Ticket) -> None:
        """Whoever waited is gone. An answer that is on its way finds nobody and goes back."""
        waiter = self._waiters.pop(ticket, None)
        if waiter is not None:
            waiter.timer.cancel()
            self.guard.leave(ticket, monotonic())

    def _expire(self, ticket: Ticket) -> None:
        rejection = self.guard.expire(ticket, monotonic())
        if rejection is not None:
            self._deliver([Answer(ticket, rejection)])

    def first_event(self, permit: Permit) -> None:
        """Hand on a permit's first data event."""
        self._deliver(self.guard.first_event(permit, monotonic()))

    def settle(self, permit: Permit, outcome: Outcome, report: Report = NO_REPORT) -> None:
        """Give a permit back; those whom that lets in, or turns away, are told at once."""
        answers = self.guard.settle(permit, outcome, monotonic(), report)
        if answers:
            self._deliver(answers)
            self._aim()

    def advance(self) -> None:
        """Let time do its part; called every second, and when a slot is due by time alone."""
        self._deliver(self.guard.advance(monotonic()))
        self._aim()

    def _aim(self) -> None:
        """Be there when the limit rises, rather than up to a second later."""
        now_s = monotonic()
        due_s = self.guard.next_due_s(now_s)
        if self._rise is not None:
            self._rise.cancel()
            self._rise = None
        if due_s is not None:
            self._rise = self._loop.call_later(max(0.001, due_s - now_s), self.advance)

    def drain(self) -> None:
        """Turn away everybody who waits, and newcomers from now on."""
        self._deliver(self.guard.drain())

    def _deliver(self, answers: Iterable[Answer]) -> None:
        """Tell each its answer, one after the other even where one leads to the next.

        Whoever is let in may be done at once, and so let in another: that is no recursion.
        """
        self._due.extend(answers)
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._due:
                ticket, result = self._due.popleft()
                waiter = self._waiters.pop(ticket, None)
                if waiter is not None:
                    waiter.timer.cancel()
                    waiter.on_answer(result)
                elif isinstance(result, Permit):
                    self.settle(result, _NEVER_USED)  # granted while leaving
        finally:
            self._delivering = False
