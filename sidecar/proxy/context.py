"""What is known of one request while it is served? Noted here, told to observers at the end."""

from __future__ import annotations

import asyncio
from time import monotonic

from sidecar.admission.answers import Subject
from sidecar.admission.outcome import Ending, Outcome, OutcomeLabel, Verdict, outcome_of
from sidecar.proxy.client import ClientConnection
from sidecar.proxy.exchange import Exchange
from sidecar.proxy.refusals import Refusal
from sidecar.proxy.request_body import RequestBody
from sidecar.proxy.wire.heads import RequestHead
from sidecar.telemetry.facts import CancelPhase, RequestFact

_REFUSED = Outcome(Verdict.NEUTRAL, OutcomeLabel.REFUSED)


class Context:
    """One request's identity, times and outcome."""

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
    cancel_phase: CancelPhase | None = None
    route: str
    subject: Subject

    def __init__(
        self, client: ClientConnection, head: RequestHead, body: RequestBody, request_id: bytes
    ) -> None:
        self.arrived_s = monotonic()
        self.client = client
        self.head = head
        self.body = body
        self.request_id = request_id

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
        got_event = exchange is not None and exchange.first_event_at_s is not None
        status = exchange.status if exchange is not None else None
        self.outcome = outcome_of(ending, status, got_event=got_event)
        if exchange is not None and exchange.head_sent and status is not None:
            self.status = status

    def note_unwinding(self, error: BaseException) -> None:
        """Serving was cancelled, because the client left or the process ends, or hit a bug."""
        exchange = self.exchange
        if exchange is not None and exchange.ended.done() and not exchange.ended.cancelled():
            self.note_ending(exchange.ending)
        elif exchange is not None and exchange.tunnel:
            self.note_ending(Ending.COMPLETED)
        elif not isinstance(error, asyncio.CancelledError):
            self.note_ending(Ending.INTERNAL_ERROR)
        elif not self.client.gone:
            self.note_ending(Ending.ABORTED)
        else:
            self.note_ending(Ending.CLIENT_GONE)
            self.cancel_phase = self._phase()

    def _phase(self) -> CancelPhase:
        if self.exchange is None:
            return CancelPhase.QUEUED
        if self.exchange.first_event_at_s is None:
            return CancelPhase.PREFILL
        return CancelPhase.STREAMING

    def fact(self) -> RequestFact:
        """Everything there is to tell, once all is over."""
        now_s = monotonic()
        exchange, granted_s = self.exchange, self.granted_s
        first_event_s = None
        if exchange is not None and exchange.first_event_at_s is not None:
            first_event_s = exchange.first_event_at_s - (granted_s or self.arrived_s)
        overhead_s = None
        if self.asked_s is not None:
            overhead_s = max(0.0, self.asked_s - self.arrived_s - self.wait_s)
        subject = self.subject
        return RequestFact(
            request_id=subject.request_id,
            route=self.route,
            method=subject.method,
            path=subject.path,
            caller=subject.caller,
            status=self.status,
            outcome=self.outcome.label,
            reason=self.reason,
            wait_s=self.wait_s,
            first_event_s=first_event_s,
            hold_s=now_s - granted_s if granted_s is not None else None,
            duration_s=now_s - self.arrived_s,
            overhead_s=overhead_s,
            bytes_in=self.body.size + (exchange.bytes_in_tunnel if exchange else 0),
            bytes_out=self.own_bytes_out + (exchange.bytes_out if exchange else 0),
            cancel_phase=self.cancel_phase,
            retried=self.retried,
            trace_id=self.trace_id,
        )
