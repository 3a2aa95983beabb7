"""May this request go now? One class of routes: its breaker, its slots, its queue.

Callers ask, and get a `Permit`, a `Ticket` or a `Rejection`. A permit comes back through `settle`,
a ticket is answered by somebody else's `settle` or given up by `leave`. Plain synchronous Python:
no clock, no event loop, no log. Callers read the monotonic clock once and pass `now_s`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sidecar.admission.answers import (
    Answer,
    Blocked,
    Pass,
    Permit,
    Reason,
    Rejection,
    Subject,
    Ticket,
    TicketState,
    Transition,
)
from sidecar.admission.breaker import Breaker, BreakerSnapshot
from sidecar.admission.config import BreakerMode, GuardConfig
from sidecar.admission.limiter import Limiter
from sidecar.admission.outcome import NO_REPORT, Outcome, Report, Verdict

# Spread of Retry-After, as a share of the wait, so that those refused together do not come
# back together. The lower end keeps the promise: never earlier than the honest estimate.
_JITTER_FROM, _JITTER_TO = 0.10, 0.20

# SDKs take a Retry-After of at most 60 s seriously (openai-python); below 1 s is no wait at all.
_RETRY_MIN_S, _RETRY_MAX_S = 1.0, 60.0

# What the end of an exchange adds nothing to, when its first event was heard already.
_SAID_ALREADY = frozenset({Verdict.SUCCESS, Verdict.ANSWERED, Verdict.NEUTRAL})


class PermitAlreadySettledError(RuntimeError):
    """A permit was given back twice: a bug of the caller, and a lost slot count if ignored."""


@dataclass(frozen=True, slots=True)
class GuardSnapshot:
    """One class of routes at one moment.

    `limit` is what is configured, `effective_limit` what may be used now: it is less while
    `breaker.ramp_s` raises it after a recovery.
    """

    name: str
    limit: int
    effective_limit: int
    in_flight: int
    waiting: int
    max_waiting: int
    oldest_wait_s: float
    mean_slot_s: float
    held_bytes: int
    max_bytes: int
    draining: bool
    breaker: BreakerSnapshot | None
    breaker_of: str
    """The class whose breaker this is: its own name where it shares none, "" without a breaker."""
    permits: tuple[Permit, ...]
    tickets: tuple[Ticket, ...]


class Guard:
    """Admission for one class of routes."""

    def __init__(
        self,
        name: str,
        config: GuardConfig,
        *,
        random: Callable[[], float],
        on_transition: Callable[[Transition], None],
        breaker_of: Guard | None = None,
    ) -> None:
        """`random` returns floats in [0, 1) and is used for jitter only.

        With `breaker_of` it has no breaker of its own, whatever `config` says: it shares that
        guard's. Transitions are then told by that guard alone, under its name.
        """
        self.name = name
        self._config = config
        self._random = random
        self._limiter = Limiter(config.max_concurrent, config.queue.max_waiting)
        # All guards that obey this breaker; the first is the one whose own it is.
        self.sharers: list[Guard] = [] if breaker_of is None else breaker_of.sharers
        self.sharers.append(self)
        self._breaker: Breaker | None = None
        if breaker_of is not None:
            self._breaker = breaker_of._breaker  # noqa: SLF001 - a guard as well
        elif config.breaker is not None:
            self._breaker = Breaker(config.breaker, on_transition, name, random)
        self._held_bytes = 0
        self._numbers = 0
        self._draining = False
        self._permits: dict[int, Permit] = {}

    # -- asking ---------------------------------------------------------------------------

    def refuses(self, now_s: float) -> Rejection | None:
        """Say what a newcomer would be told now, without giving or taking anything.

        Used to answer at once, before a request body has arrived.
        """
        if self._draining:
            return self._draining_rejection()
        blocked = self._breaker.blocks(now_s) if self._breaker else None
        if blocked is not None:
            return self._blocked_rejection(blocked)
        if self._is_ramping and not self._limiter.someone_waits:  # who waits is first, in `advance`
            self._follow_ramp(now_s)
        if not self._limiter.has_room:
            return self._queue_full_rejection()
        return None

    def ask(
        self, subject: Subject, now_s: float, body_bytes: int = 0
    ) -> Permit | Ticket | Rejection:
        """Ask for a slot: a permit at once, a place in the queue, or a refusal.

        `body_bytes` of its body are in memory; they count as held while it waits.
        """
        if self._draining:
            return self._draining_rejection()
        if self._is_ramping and not self._limiter.someone_waits:  # who waits is first, in `advance`
            self._follow_ramp(now_s)
        has_slot = self._limiter.has_slot
        if not has_slot:
            # Looked at before the breaker admits, so that no probe's place is taken in vain.
            rejection = self.refuses(now_s) or self._no_bytes_left(body_bytes)
            if rejection is not None:
                return rejection
        passed = self._breaker.admit(now_s) if self._breaker else Pass()
        if isinstance(passed, Blocked):
            return self._blocked_rejection(passed)
        self._numbers += 1
        if has_slot:
            self._limiter.take()
            return self._permit(self._numbers, subject, now_s, 0.0, passed)
        ticket = Ticket(
            guard=self.name,
            number=self._numbers,
            subject=subject,
            since_s=now_s,
            deadline_s=now_s + self._config.queue.timeout_s,
            passed=passed,
            held_bytes=body_bytes,
        )
        self._limiter.enqueue(ticket)
        self._held_bytes += body_bytes
        return ticket

    def _permit(
        self, number: int, subject: Subject, now_s: float, waited_s: float, passed: Pass
    ) -> Permit:
        permit = Permit(self.name, number, subject, now_s, waited_s, passed)
        self._permits[number] = permit
        return permit

    # -- giving back ----------------------------------------------------------------------

    def settle(
        self, permit: Permit, outcome: Outcome, now_s: float, report: Report = NO_REPORT
    ) -> list[Answer]:
        """Give a permit back and hear how it went; returns the answers for those who wait.

        When that opens a breaker that guards share, there are answers for tickets of all of them.
        Raises `PermitAlreadySettledError` on a second call for the same permit.
        """
        if permit.settled:
            raise PermitAlreadySettledError(f"{permit.guard} permit {permit.number}")
        permit.settled = True
        del self._permits[permit.number]
        self._limiter.give_back(now_s - permit.granted_s)
        if self._breaker is not None and not (permit.judged and outcome.verdict in _SAID_ALREADY):
            self._breaker.record(permit.passed, outcome, now_s, permit.granted_s, report)
        return self._answer_waiting(now_s) if self._must_look(permit) else []

    def first_event(self, permit: Permit, now_s: float) -> list[Answer]:
        """A data event arrived. For a probe that is success: recovery need not wait for the end."""
        if self._breaker is None or not permit.passed.probe or permit.judged:
            return []
        permit.judged = True
        self._breaker.first_event(permit.passed, now_s, permit.granted_s)
        return self._answer_waiting(now_s)

    def _must_look(self, permit: Permit) -> bool:
        """Whether a permit that came back may change something for others; nearly always not."""
        return (
            self._limiter.someone_waits
            or self._is_ramping
            or permit.passed.probe > 0
            or len(self.sharers) > 1
        )

    def _answer_waiting(self, now_s: float) -> list[Answer]:
        """Refuse those who wait for a circuit that is open now, and let in whom there is room for.

        When the circuit opens everybody who waits is refused at once, in all guards that share it;
        when it closes, or time passes, the limit may be another one.
        """
        self._follow_ramp(now_s)
        answers = self._refuse_waiting_if_open(now_s)
        return answers + self._grant_waiting(now_s) if self._limiter.someone_waits else answers

    @property
    def _is_ramping(self) -> bool:
        return self._limiter.limit != self._config.max_concurrent

    def _follow_ramp(self, now_s: float) -> None:
        """The limiter knows only the limit of this moment."""
        full = self._config.max_concurrent
        self._limiter.limit = self._breaker.limit(full, now_s) if self._breaker else full

    def _refuse_waiting_if_open(self, now_s: float) -> list[Answer]:
        if self._breaker is None or not self._breaker.is_open:
            return []
        blocked = self._breaker.blocks(now_s)
        if blocked is None:
            return []
        return [answer for guard in self.sharers for answer in guard.refuse_waiting(blocked)]

    def refuse_waiting(self, blocked: Blocked) -> list[Answer]:
        """Refuse everybody who waits, because the breaker does."""
        return [
            self._answer(ticket, self._blocked_rejection(blocked))
            for ticket in self._limiter.tickets
        ]

    def _grant_waiting(self, now_s: float) -> list[Answer]:
        answers = []
        while ticket := self._limiter.next():
            self._end_wait(ticket, TicketState.ANSWERED)
            passed = self._still_passed(ticket, now_s)
            if isinstance(passed, Blocked):
                self._limiter.untake()
                answers.append(Answer(ticket, self._blocked_rejection(passed)))
                continue
            waited_s = now_s - ticket.since_s
            permit = self._permit(ticket.number, ticket.subject, now_s, waited_s, passed)
            answers.append(Answer(ticket, permit))
        return answers

    def _still_passed(self, ticket: Ticket, now_s: float) -> Pass | Blocked:
        """The breaker may have changed while the ticket waited; then it is asked again."""
        if self._breaker is None:
            return ticket.passed
        return self._breaker.readmit(ticket.passed, now_s)

    def _answer(self, ticket: Ticket, rejection: Rejection) -> Answer:
        self._drop(ticket, TicketState.ANSWERED)
        return Answer(ticket, rejection)

    def _end_wait(self, ticket: Ticket, state: TicketState) -> None:
        ticket.state = state
        self._held_bytes -= ticket.held_bytes

    def advance(self, now_s: float) -> list[Answer]:
        """Let time do its part even when nobody asks.

        Call it every second or so, and when `next_due_s` says.
        """
        if self._breaker is not None:
            self._breaker.advance(now_s)
        return self._answer_waiting(now_s)

    def next_due_s(self, now_s: float) -> float | None:
        """When `advance` will have a slot for somebody who waits, by time alone; None: never.

        So it is while `breaker.ramp_s` raises the limit after a recovery.
        """
        if self._breaker is None or not self._limiter.someone_waits:
            return None
        full = self._config.max_concurrent
        if self._limiter.limit < self._breaker.limit(full, now_s):
            return now_s
        return self._breaker.limit_rises_s(full, now_s)

    # -- probes ---------------------------------------------------------------------------

    def wants_probe(self, now_s: float) -> bool:
        """Whether the next request would find out whether the backend is back.

        Ask before such a request whether the backend is ready (`ready_path`), where that can be
        asked, and `hold_probes` while it is not known, or not so.
        """
        return self._breaker is not None and self._breaker.wants_probe(now_s)

    def hold_probes(self, now_s: float, until_s: float) -> None:
        """Send no probe before `until_s`, at most 5 minutes from now; `until_s=now_s` lets go.

        Requests are refused meanwhile. That the backend is ready never closes the circuit.
        """
        if self._breaker is not None:
            self._breaker.hold_probes(now_s, until_s)

    # -- giving up waiting ----------------------------------------------------------------

    def leave(self, ticket: Ticket, now_s: float) -> None:
        """The client left the queue. Nothing happens if the ticket was answered meanwhile."""
        del now_s  # asked for as everywhere; so far nothing depends on it
        if ticket.state is TicketState.WAITING:
            self._drop(ticket, TicketState.LEFT)

    def expire(self, ticket: Ticket, now_s: float) -> Rejection | None:
        """Its time in the queue is over; None if it was answered meanwhile."""
        if ticket.state is not TicketState.WAITING:
            return None
        self._drop(ticket, TicketState.ANSWERED)
        waited_s = now_s - ticket.since_s
        return self._rejection(
            Reason.QUEUE_TIMEOUT,
            f"waited {waited_s:.0f} s for one of {self._limiter.limit} slots in vain "
            "(queue.timeout_s)",
            self._queue_retry_s(),
        )

    def _drop(self, ticket: Ticket, state: TicketState) -> None:
        self._limiter.remove(ticket)
        self._end_wait(ticket, state)
        if self._breaker is not None:
            self._breaker.give_up(ticket.passed)

    # -- bytes held for those who wait ----------------------------------------------------

    def hold_bytes(self, count: int) -> Rejection | None:
        """Account for `count` more body bytes kept in memory, or say that there is no room."""
        rejection = self._no_bytes_left(count)
        if rejection is None:
            self._held_bytes += count
        return rejection

    def _no_bytes_left(self, count: int) -> Rejection | None:
        if self._held_bytes + count <= self._config.queue.max_bytes:
            return None
        return self._queue_full_rejection(
            "no room in the queue: its bytes are used up (queue.max_bytes)"
        )

    def release_bytes(self, count: int) -> None:
        """`count` held bytes are gone: sent on, or thrown away."""
        self._held_bytes -= count

    # -- operators ------------------------------------------------------------------------

    def drain(self) -> list[Answer]:
        """Refuse newcomers from now on, and everybody who waits at once."""
        self._draining = True
        rejection = self._draining_rejection()
        return [self._answer(ticket, rejection) for ticket in self._limiter.tickets]

    def reconfigure(self, config: GuardConfig, now_s: float) -> list[Answer]:
        """Obey new numbers: nothing is revoked, and raised limits wake as many at once."""
        self._config = config
        self._limiter.max_waiting = config.queue.max_waiting
        if self._breaker is not None and config.breaker is not None:
            self._breaker.reconfigure(config.breaker, now_s)
        return self._answer_waiting(now_s)

    def set_breaker_mode(self, mode: BreakerMode, now_s: float) -> list[Answer]:
        """Obey an operator's override of the breaker."""
        if self._breaker is None:
            return []
        self._breaker.set_mode(mode, now_s)
        return self._answer_waiting(now_s)

    def reset(self, now_s: float) -> list[Answer]:
        """Close the circuit and forget all failures; a ramp ends at once."""
        if self._breaker is None:
            return []
        self._breaker.reset(now_s)
        return self._answer_waiting(now_s)

    def snapshot(self, now_s: float) -> GuardSnapshot:
        """Everything there is to show, frozen."""
        oldest = self._limiter.oldest
        limit = self._config.max_concurrent
        return GuardSnapshot(
            name=self.name,
            limit=limit,
            effective_limit=self._breaker.limit(limit, now_s) if self._breaker else limit,
            in_flight=self._limiter.in_flight,
            waiting=self._limiter.waiting,
            max_waiting=self._limiter.max_waiting,
            oldest_wait_s=now_s - oldest.since_s if oldest else 0.0,
            mean_slot_s=self._limiter.mean_slot_s,
            held_bytes=self._held_bytes,
            max_bytes=self._config.queue.max_bytes,
            draining=self._draining,
            breaker=self._breaker.snapshot(now_s) if self._breaker else None,
            breaker_of=self.sharers[0].name if self._breaker else "",
            permits=tuple(self._permits.values()),
            tickets=tuple(self._limiter.tickets),
        )

    # -- saying no ------------------------------------------------------------------------

    def _blocked_rejection(self, blocked: Blocked) -> Rejection:
        if blocked.held:
            reason, message = Reason.PROBING, "the backend failed, and says that it is not ready"
        elif blocked.probing:
            reason, message = Reason.PROBING, "the backend failed; a probe is finding out whether"
            message += " it is back"
        else:
            reason = Reason.CIRCUIT_OPEN
            message = "the backend failed repeatedly; the circuit breaker is open"
        retry_s = max(_RETRY_MIN_S, self._jittered(blocked.remaining_s))
        return self._rejection(reason, message, retry_s)

    def _queue_full_rejection(self, why: str = "") -> Rejection:
        return self._rejection(Reason.QUEUE_FULL, why or self._why_no_room(), self._queue_retry_s())

    def _why_no_room(self) -> str:
        limiter, setting = self._limiter, self._config.limit_setting
        if not limiter.max_waiting:
            return f"all {limiter.limit} slots are taken ({setting})"
        return (
            f"no room in the queue: {limiter.waiting} already wait for {limiter.limit} slots "
            f"(queue.max_waiting, {setting})"
        )

    def _draining_rejection(self) -> Rejection:
        return self._rejection(Reason.DRAINING, "the sidecar is shutting down", _RETRY_MIN_S)

    def _rejection(self, reason: Reason, message: str, retry_after_s: float) -> Rejection:
        return Rejection(self.name, reason, message, retry_after_s)

    def _queue_retry_s(self) -> float:
        honest_s = self._jittered(self._limiter.wait_estimate_s())
        return min(_RETRY_MAX_S, max(_RETRY_MIN_S, honest_s))

    def _jittered(self, seconds: float) -> float:
        spread = _JITTER_FROM + (_JITTER_TO - _JITTER_FROM) * self._random()
        return seconds * (1.0 + spread)
