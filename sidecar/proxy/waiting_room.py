"""Where does a request wait for its answer from admission? Here, so that admission need not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from time import monotonic
from types import TracebackType
from typing import Self

from sidecar.admission.answers import Answer, Permit, Rejection, Subject, Ticket
from sidecar.admission.guard import Guard
from sidecar.admission.outcome import Ending, Outcome, outcome_of

_NEVER_USED = outcome_of(Ending.CLIENT_GONE, None, got_event=False)
_UNKNOWN = outcome_of(Ending.INTERNAL_ERROR, None, got_event=False)


class Lease:
    """Holds a permit and gives it back exactly once, with `outcome`, when the `with` block ends."""

    __slots__ = ("_room", "outcome", "permit")

    def __init__(self, room: WaitingRoom, permit: Permit) -> None:
        self._room = room
        self.permit = permit
        self.outcome: Outcome = _UNKNOWN

    def first_event(self) -> None:
        """Tell admission that the backend has begun to answer."""
        self._room.first_event(self.permit)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._room.settle(self.permit, self.outcome)


class WaitingRoom:
    """Waiting for one guard's answers: a future and a timer for each ticket."""

    def __init__(self, guard: Guard, queue_timeout_s: float) -> None:
        self.guard = guard
        self.queue_timeout_s = queue_timeout_s
        self._loop = asyncio.get_running_loop()
        self._futures: dict[int, asyncio.Future[Permit | Rejection]] = {}

    def ask(self, subject: Subject, body_bytes: int) -> Permit | Ticket | Rejection:
        """Ask for a slot. A ticket's answer is had by `wait`."""
        return self.guard.ask(subject, monotonic(), body_bytes)

    async def wait(self, ticket: Ticket) -> Permit | Rejection:
        """Wait for a ticket's answer; a client that leaves cancels this."""
        future: asyncio.Future[Permit | Rejection] = self._loop.create_future()
        self._futures[ticket.number] = future
        timer = self._loop.call_later(self.queue_timeout_s, self._expire, ticket)
        try:
            return await future
        except asyncio.CancelledError:
            # Granted while leaving: the slot was already ours and goes back at once.
            answer = future.result() if future.done() and not future.cancelled() else None
            if isinstance(answer, Permit):
                self.settle(answer, _NEVER_USED)
            else:
                self.guard.leave(ticket, monotonic())
            raise
        finally:
            timer.cancel()
            del self._futures[ticket.number]

    def _expire(self, ticket: Ticket) -> None:
        rejection = self.guard.expire(ticket, monotonic())
        if rejection is not None:
            self._deliver([Answer(ticket, rejection)])

    def first_event(self, permit: Permit) -> None:
        """Hand on a permit's first data event."""
        self._deliver(self.guard.first_event(permit, monotonic()))

    def settle(self, permit: Permit, outcome: Outcome) -> None:
        """Give a permit back; those whom that lets in, or turns away, are told."""
        self._deliver(self.guard.settle(permit, outcome, monotonic()))

    def advance(self) -> None:
        """Let time do its part; called every second."""
        self._deliver(self.guard.advance(monotonic()))

    def drain(self) -> None:
        """Turn away everybody who waits, and newcomers from now on."""
        self._deliver(self.guard.drain())

    def _deliver(self, answers: Iterable[Answer]) -> None:
        for ticket, result in ((answer.ticket, answer.result) for answer in answers):
            future = self._futures[ticket.number]
            if not future.done():
                future.set_result(result)
            elif isinstance(result, Permit):
                # Its task was cancelled in this very turn of the loop and has not run yet.
                self.settle(result, _NEVER_USED)
