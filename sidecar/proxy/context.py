"""What is known of one request while it is served? Noted here, told to observers at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

from sidecar.admission.answers import Permit, Subject, Ticket
from sidecar.admission.outcome import (
    NO_REPORT,
    Ending,
    Outcome,
    OutcomeLabel,
    Report,
    Verdict,
    outcome_of,
)
from sidecar.proxy.client import ClientConnection
from sidecar.proxy.exchange import Exchange
from sidecar.proxy.recurring import Recurring
from sidecar.proxy.refusals import Refusal
from sidecar.proxy.request_body import RequestBody
from sidecar.proxy.waiting_room import WaitingRoom
from sidecar.telemetry.facts import CancelPhase, RequestFact

_REFUSED = Outcome(Verdict.NEUTRAL, OutcomeLabel.REFUSED)


class Context:
    """One request's identity, times and outcome, and what it holds or waits for."""

    # What most requests never change stands here once, and is not set for each of them.
    exchange: Exchange | None = None
    outcome = Outcome(Verdict.NEUTRAL, OutcomeLabel.INTERNAL_ERROR)
    trace_id = ""
    reason = ""
    status = 0
    wait_s = 0.0
    granted_s: float | None = None  # when the slot was granted
    asked_s: float | None = None  # when the backend was asked
    own_bytes_out = 0
    retried = False
    expectation_met = False  # 100 Continue was sent by us
    cancel_phase: CancelPhase | None = None
    # What must be undone when the request ends before its time.
    room: WaitingRoom | None = None  # where it asks, if its route is guarded
    ticket: Ticket | None = None  # while it waits
    permit: Permit | None = None  # while it holds a slot
    connecting: asyncio.Task[None] | None = None
    release_held: Callable[[], None] | None = None  # while its body is gathered
    over = False

    def __init__(
        self,
        client: ClientConnection,
        recurring: Recurring,
        content_length: int | None,
        body: RequestBody,
        request_id: bytes,
    ) -> None:
        self.arrived_s = monotonic()
        self.client = client
        self.recurring = recurring
        self.head = recurring.head
        self.route = recurring.route
        self.content_length = content_length
        self.body = body
        self.request_id = request_id
        self.subject = Subject(
            request_id.decode(),
            recurring.method,
            recurring.path,
            recurring.key_hash or client.peer.address or "local",
        )

    def note_refusal(self, refusal: Refusal, size: int) -> None:
        """The sidecar answered itself, with `size` bytes."""
        self.status = refusal.status
        self.reason = refusal.reason.value
        self.own_bytes_out += size
        if self.exchange is None:
            self.outcome = _REFUSED

    def note_ending(self, ending: Ending) -> None:
        """The backend was asked, in vain or not."""
        exchange = self.exchange
        if exchange is None:
            self.outcome = outcome_of(ending, None, got_event=False)
            return
        watch = exchange.watch
        got_event = watch.first_event_at_s is not None
        self.outcome = outcome_of(ending, exchange.status, got_event=got_event, said=watch.said)
        if exchange.head_sent and exchange.status is not None:
            self.status = exchange.status

    def report(self) -> Report:
        """What the breaker wants to know beside the outcome."""
        exchange, granted_s, attempt = self.exchange, self.granted_s, self.recurring.attempt
        if exchange is None or granted_s is None:
            return NO_REPORT
        watch = exchange.watch
        first_at_s = watch.first_event_at_s
        attempt_of = ""
        if attempt.numbered:
            # Without a key: the same caller, path and size is the same request, nearly always.
            subject = self.subject
            attempt_of = attempt.key or f"{subject.caller} {subject.path} {self.body.size}"
        return Report(
            watch.retry_after_s,
            None if first_at_s is None else first_at_s - granted_s,
            attempt_of,
            attempt.is_retry,
        )

    def note_abandoned(self, ending: Ending) -> None:
        """It ends before its time: the client left, the process stops, or we have a bug."""
        exchange = self.exchange
        if exchange is not None and exchange.tunnel:
            ending = Ending.COMPLETED  # closing is how a tunnel ends, whoever does it
        elif ending is Ending.CLIENT_GONE:
            self.cancel_phase = self._phase()
        self.note_ending(ending)

    def _phase(self) -> CancelPhase:
        if self.exchange is None:
            return CancelPhase.QUEUED
        if self.exchange.watch.first_event_at_s is None:
            return CancelPhase.PREFILL
        return CancelPhase.STREAMING

    def fact(self) -> RequestFact:
        """Everything there is to tell, once all is over."""
        now_s = monotonic()
        exchange, granted_s, asked_s = self.exchange, self.granted_s, self.asked_s
        arrived_s = self.arrived_s
        bytes_in, bytes_out = self.body.size, self.own_bytes_out
        first_event_s = None
        if exchange is not None:
            bytes_in += exchange.bytes_in_tunnel
            bytes_out += exchange.bytes_out
            first_at_s = exchange.watch.first_event_at_s
            if first_at_s is not None:
                first_event_s = first_at_s - (granted_s or arrived_s)
        subject = self.subject
        # Positional, because keywords cost twice the time.
        return RequestFact(
            subject.request_id,
            self.route,
            subject.method,
            subject.path,
            subject.caller,
            self.status,
            self.outcome.label,
            self.reason,
            self.wait_s,
            first_event_s,
            None if granted_s is None else now_s - granted_s,
            now_s - arrived_s,
            None if asked_s is None else max(0.0, asked_s - arrived_s - self.wait_s),
            bytes_in,
            bytes_out,
            self.cancel_phase,
            self.retried,
            self.trace_id,
        )
